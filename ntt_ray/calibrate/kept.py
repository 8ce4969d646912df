"""Proposals of reference pictures, kept to calibrate again without the models.

Where proposals are kept (`proposals.keep`), those of the reference pictures are, too: in files of
some pictures each, named by their content. A picture is known by its bytes and by how it was seen,
whatever its name, its references and the classes are.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.proposals.kept import ImageProposals
from ntt_ray.proposals.table import ROWS_AT_ONCE, iter_images, to_table
from ntt_ray.run.identity import Found, models_content, proposals_content
from ntt_ray.run.layout import CALIBRATION_FOLDER, SHARD_SUFFIX, picture_proposals
from ntt_ray.run.proposal_shard import (
    HASH_KEY,
    PROPOSING,
    check_body,
    metadata_made_of,
    open_proposal_file,
    to_bytes,
)
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureStore:
    """Where the proposals of pictures lie, and what they must be made of.

    Attributes:
        output: the prefix below which they are written.
        store: access to files.
        metadata: what the metadata of each file says.
    """

    output: str
    store: Storage
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, config: Config, found: Found, store: Storage) -> PictureStore:
        """That of a config: everything counts that decides what is proposed in a picture."""
        named = config.method.named()
        method = {name: named[name] for name in PROPOSING if name in named}
        content = {
            "models": models_content(config, found),
            "method": method,
            "proposals": proposals_content(config),
        }
        return cls(config.output, store, metadata_made_of(content))

    def publish(self, rows: Sequence[ImageProposals], channels: int) -> None:
        """Write the proposals of some pictures; a file name of a row is the key of a picture."""
        data = to_bytes(to_table(rows, channels), self.metadata)
        name = picture_proposals(hashlib.sha256(data).hexdigest())
        self.store.publish_bytes(storage.join(self.output, name), data)

    def files_of(self, keys: Iterable[str], outputs: Iterable[str]) -> dict[str, list[str]]:
        """Which files of some outputs hold which pictures, as far as their proposals were kept.

        Args:
            keys: the keys of the pictures.
            outputs: prefixes below which calibrations were written.

        Returns:
            The keys of pictures by the address of the file that holds them.
        """
        wanted, found = set(keys), defaultdict(list)
        for output in outputs:
            folder = storage.join(output, CALIBRATION_FOLDER)
            for name in sorted(self.store.list_files(folder, (SHARD_SUFFIX,))):
                uri = storage.join(folder, name)
                for key in self._keys(uri):
                    if key in wanted:
                        wanted.remove(key)
                        found[uri].append(key)
        return dict(found)

    def _keys(self, uri: str) -> list[str]:
        """The keys of a file's pictures; none of one that was made otherwise, or is damaged."""
        try:
            with open_proposal_file(uri, self.store) as file:
                said = (file.schema_arrow.metadata or {}).get(HASH_KEY.encode(), b"").decode()
                if said != self.metadata[HASH_KEY]:
                    return []
                names: list[str] = file.read(["file_name"])["file_name"].to_pylist()
                return names
        except InputError as error:
            logger.warning("%s; its pictures are looked at again", error)
            return []

    def read(self, uri: str) -> dict[str, ImageProposals]:
        """The proposals of a file by the keys of its pictures.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            data = self.store.read_bytes(uri)
        except FileNotFoundError:
            raise InputError(f"{storage.redact(uri)}: the proposals are missing") from None
        with open_proposal_file(uri, self.store, data) as file:
            if problem := check_body(file, data):
                raise InputError(
                    f"{storage.redact(uri)}: {problem}; delete it, and calibrate again"
                )
            batches: Iterator[Iterator[ImageProposals]] = (
                iter_images(batch) for batch in file.iter_batches(ROWS_AT_ONCE, use_threads=False)
            )
            return {image.entry.file_name: image for batch in batches for image in batch}
