"""Proposals of reference pictures, kept so that only new pictures go through the models.

Where proposals are kept (`proposals.keep`), those of the reference pictures are, too: in files of
some pictures each, named by their content. A picture is known by its bytes and by how it was seen,
whatever its name, its references and the classes are. As in a rematch the threshold may be raised,
and a config that leaves device and precision open takes what was made on others.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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

THRESHOLD = "min_predicted_iou"  # of the metadata: what is below it was not kept


@dataclass(frozen=True)
class PictureStore:
    """Where the proposals of pictures lie, and what they must be made of.

    Attributes:
        output: the prefix below which they are written.
        store: access to files.
        metadata: what the metadata of each file that is written says.
        wanted: which of these a file must have to be taken; of `THRESHOLD` it may have a lower one.
    """

    output: str
    store: Storage
    metadata: Mapping[str, str]
    wanted: Mapping[str, str]

    @classmethod
    def of(cls, config: Config, found: Found, store: Storage) -> PictureStore:
        """The store of a config; everything counts that decides what is proposed in a picture."""
        named = config.method.named()
        method = {name: named[name] for name in PROPOSING if name in named}
        models = models_content(config, found)
        own = {
            THRESHOLD: str(method.pop("min_predicted_iou")),
            "device": models.pop("device"),
            "precision": models.pop("precision"),
        }
        del models["compile"]  # pictures go through the models without it
        content = {"models": models, "method": method, "proposals": proposals_content(config)}
        metadata = metadata_made_of(content)
        wanted = {HASH_KEY: metadata[HASH_KEY], **own}
        for name in ("device", "precision"):
            if getattr(config.models, name) == "auto":
                del wanted[name]
        return cls(config.output, store, {**metadata, **own}, wanted)

    def publish(self, rows: Sequence[ImageProposals], channels: int) -> None:
        """Write the proposals of some pictures; a file name of a row is the key of a picture."""
        self._publish(to_bytes(to_table(rows, channels), self.metadata))

    def _publish(self, data: bytes) -> None:
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
                said = {k.decode(): v.decode() for k, v in file.schema_arrow.metadata.items()}
                if not self._fits(said):
                    return []
                names: list[str] = file.read(["file_name"])["file_name"].to_pylist()
                return names
        except InputError as error:
            logger.warning("%s; its pictures are looked at again", error)
            return []

    def _fits(self, said: Mapping[str, str]) -> bool:
        low = float(said.get(THRESHOLD, "inf")) <= float(self.wanted[THRESHOLD])
        others = {name: value for name, value in self.wanted.items() if name != THRESHOLD}
        return low and others.items() <= said.items()

    def read(self, uri: str) -> dict[str, ImageProposals]:
        """The proposals of a file by the keys of its pictures; one of another output is copied.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            data = self.store.read_bytes(uri)
        except FileNotFoundError:
            raise InputError(f"{storage.redact(uri)}: the proposals are missing") from None
        with open_proposal_file(uri, self.store, data) as file:
            if problem := check_body(file, data):
                raise InputError(f"{storage.redact(uri)}: {problem}")
            batches = file.iter_batches(ROWS_AT_ONCE, use_threads=False)
            rows = {row.entry.file_name: row for batch in batches for row in iter_images(batch)}
        if not uri.startswith(storage.join(self.output, CALIBRATION_FOLDER)):
            self._publish(data)
        return rows


def check_kept_by(output: str, store: Storage) -> None:
    """Whether a calibration kept proposals of pictures below an output.

    Raises:
        InputError: it did not.
    """
    if not store.list_files(storage.join(output, CALIBRATION_FOLDER), (SHARD_SUFFIX,)):
        raise InputError(
            f"--from {storage.redact(output)}: no calibration kept proposals of pictures there; "
            "name the output of a run that was calibrated with proposals.keep: true"
        )
