"""What is not as it was when the run began: package versions, and images that came or went.

Neither is a part of what the run is, so a resume goes on; but it says so. The images are listed
again in pages and compared by hashes with the manifest: 9 bytes of memory for each image of the
run, and a page of names. It writes nothing.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import NttRayError, OutputMismatchError
from ntt_ray.images import image_suffixes
from ntt_ray.run.layout import BANK_FILE, RECORD_FILE
from ntt_ray.run.local_manifest import Source
from ntt_ray.run.manifest import name_batches
from ntt_ray.run.record import RunRecord, installed_versions
from ntt_ray.settings import TableColumns
from ntt_ray.sources.archives import is_archive
from ntt_ray.sources.image_list import PACKED_SUFFIXES, image_pieces, is_list
from ntt_ray.sources.parquet_images import holds_images
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
SHOWN = 5  # names of images that are said
Pages = Iterable[list[str]]


@dataclass(frozen=True)
class ImageChanges:
    """Images that are listed now and were not when the run began, and the other way round.

    Attributes:
        appeared: how many images came.
        vanished: how many images went.
        new: file names of the first images that came, sorted.
        gone: file names of the first images that went, in the manifest's order.
    """

    appeared: int
    vanished: int
    new: tuple[str, ...]
    gone: tuple[str, ...]


def check_versions(recorded: RunRecord, output: str, *, strict: bool) -> None:
    """Name the packages that have another version than when the run began, in one warning.

    Raises:
        OutputMismatchError: there are some, and `strict` is set.
    """
    then, now = recorded.versions, installed_versions()
    found = [
        f"{name} {then.get(name, 'not installed')} then, {now.get(name, 'not installed')} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if not found:
        return
    where = storage.redact(output)
    if strict:
        raise OutputMismatchError(
            f"{where}: the run began with other package versions; install those of {RECORD_FILE}, "
            "or set job.strict_versions to false:",
            found,
        )
    logger.warning(
        "%s: the run began with other package versions: %s. What is labelled now may differ from "
        "what is there; install those of %s, or set job.strict_versions to be refused",
        *(where, "; ".join(found), RECORD_FILE),
    )


def check_listing(config: Config, recorded: RunRecord, manifest: Source, store: Storage) -> None:
    """Count and name the images that came or went since the manifest was written, in warnings.

    A table or COCO file of the recorded digest is not read again. A listing that fails is said,
    and no reason to stop.
    """
    where = storage.redact(config.images)
    try:
        then = recorded.images_sha256
        if then is not None and list_digest(config.images, store, config.columns) == then:
            logger.info("images: %s is as it was when the run began", where)
            return
        # an output below the images has images of its own by now
        own = f"{config.output.rstrip('/')}/".removeprefix(f"{config.images.rstrip('/')}/")
        changes = image_changes(lambda: name_batches(manifest), _listed(config, store), own)
    except (NttRayError, OSError) as error:
        logger.warning("images: whether some came or went is not known: %s", error)
        return
    _say(changes, where, storage.redact(config.output))


def list_digest(images: str, store: Storage, columns: TableColumns) -> str | None:
    """SHA-256 of the table or COCO file that lists the images, in hex.

    None for a prefix, and for what holds the images themselves.
    """
    if not is_list(images) or holds_images(images, columns, store):
        return None
    with store.open_read(images) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def image_changes(known: Callable[[], Pages], listed: Pages, own: str) -> ImageChanges:
    """Compare two lists of file names.

    Args:
        known: gives the names of the run, in pages; called again to name those that went.
        listed: the names that there are now, in pages, in any order.
        own: what the names of the run's own files begin with; they do not count as new images.
    """
    hashes = np.concatenate([np.zeros(0, np.int64), *map(_hashes, known())])
    hashes.sort()
    seen = np.zeros(len(hashes), dtype=np.bool_)
    appeared, new = 0, list[str]()
    for page in listed:
        at, found = _places(_hashes(page), hashes)
        seen[at[found]] = True
        others = [page[i] for i in np.flatnonzero(~found) if not page[i].startswith(own)]
        appeared += len(others)
        new = heapq.nsmallest(SHOWN, [*new, *others])
    missing = hashes[~seen]
    gone = tuple(_first_of(missing, known())) if len(missing) else ()
    return ImageChanges(appeared, len(missing), tuple(new), gone)


def _hashes(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """64 bits of each name; they mean something in this process alone."""
    return np.fromiter(map(hash, names), np.int64, len(names))


def _places(
    wanted: npt.NDArray[np.int64], hashes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Where each wanted number stands among sorted ones, and whether it does."""
    if not len(hashes):
        return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), np.bool_)
    at = np.searchsorted(hashes, wanted).clip(max=len(hashes) - 1)
    return at, np.asarray(hashes[at] == wanted)


def _first_of(missing: npt.NDArray[np.int64], pages: Pages) -> Iterator[str]:
    left = min(SHOWN, len(missing))
    for page in pages:
        for index in np.flatnonzero(_places(_hashes(page), missing)[1])[:left]:
            left -= 1
            yield page[index]
        if not left:
            return


def _listed(config: Config, store: Storage) -> Iterator[list[str]]:
    """File names of the images that there are now, as a manifest would have them."""
    listed = is_list(config.images) or is_archive(config.images)
    if not listed:
        found = False
        for page in store.list_pages(config.images, image_suffixes()):
            found = found or bool(page)
            yield [storage.printable(name) for name in page]
        if found or not store.list_files(config.images, PACKED_SUFFIXES):
            return
    pieces = image_pieces(
        config.images,
        config.image_root,
        store,
        allow_local=config.images_allow_local,
        columns=config.columns,
    )
    for piece in pieces:
        yield piece.images["file_name"].to_pylist()


def _say(changes: ImageChanges, where: str, output: str) -> None:
    if changes.appeared:
        logger.warning(
            "images: %d appeared in %s since the run began (%s). This run does not label them: "
            "start one with them and another output, by the same bank (bank: %s)",
            *(changes.appeared, where, _named(changes.new, changes.appeared)),
            storage.join(output, BANK_FILE),
        )
    if changes.vanished:
        logger.warning(
            "images: %d vanished from %s since the run began (%s). Those that are labelled keep "
            "their rows, the others will have failed ones; put them back, or start a run without "
            "them with another output, by the same bank (bank: %s)",
            *(changes.vanished, where, _named(changes.gone, changes.vanished)),
            storage.join(output, BANK_FILE),
        )


def _named(names: Sequence[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > len(names) else "")
