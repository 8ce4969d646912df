"""Checkpoints on this node: each is fetched once, checked, and kept for every process here.

A checkpoint is named by model name (the authors' published file, asked for in a mirror prefix
first), by path or by URI. A lock makes the other processes of the node wait for the one that
downloads. It does not know what is inside the files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ntt_ray import storage
from ntt_ray.errors import NttRayError, WeightsError
from ntt_ray.models.published import BUNDLED, PUBLISHED, PublishedFile, bundled_file
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
_TAG_DIGITS = 12


def cache_dir() -> Path:
    """Where downloaded checkpoints are kept: ``$NTT_RAY_CACHE`` or ``~/.cache/ntt-ray``."""
    root = os.environ.get("NTT_RAY_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "ntt-ray"


def local_checkpoint(
    name: str, checkpoint: str | None, *, mirror: str | None, store: Storage
) -> Path:
    """Path of the checkpoint on this node, fetched into the cache first when it is remote.

    Args:
        name: model name, used when `checkpoint` is None.
        checkpoint: path or URI; None takes the authors' published file, or the bundled one.
        mirror: URI prefix that holds the published files, asked before the authors' server; None
            asks the authors' server at once.
        store: access to the mirror and to remote checkpoints.

    Raises:
        WeightsError: the file is not there, cannot be fetched, or has another size or digest than
            the published one.
    """
    if checkpoint is not None and not storage.is_uri(checkpoint):
        path = Path(checkpoint)
        if not path.is_file():
            raise WeightsError(f"{checkpoint}: no such checkpoint file")
        return path
    if checkpoint is not None:
        target = cache_dir() / f"{_tag(checkpoint)}-{checkpoint.rsplit('/', 1)[1]}"
        return _fetched_once(target, lambda incoming: _download(checkpoint, incoming, store))
    if name in BUNDLED:
        return bundled_file(BUNDLED[name])
    return published_checkpoint(PUBLISHED[name], mirror, store)


def published_checkpoint(published: PublishedFile, mirror: str | None, store: Storage) -> Path:
    """Path of a published file on this node; see `local_checkpoint`."""
    return _fetched_once(
        cached_path(published), lambda incoming: _fetch(published, mirror, incoming, store)
    )


def cached_path(published: PublishedFile) -> Path:
    """Where a published file is kept, there or not; the same for the mirror and the authors."""
    tag = published.sha256[:_TAG_DIGITS] if published.sha256 else _tag(published.url)
    return cache_dir() / f"{tag}-{published.file_name}"


def _tag(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:_TAG_DIGITS]


def _fetched_once(target: Path, fetch: Callable[[Path], None]) -> Path:
    """Fetch to a temporary name under the lock, unless another process of the node has done it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.is_file():
                return target
            incoming = target.with_name(f"{target.name}.incoming")
            _discard_leftovers(incoming)
            fetch(incoming)
            os.replace(incoming, target)
    except OSError as error:
        raise WeightsError(
            f"{target}: a checkpoint cannot be kept there ({error.strerror or error}); the "
            "environment variable NTT_RAY_CACHE names another folder"
        ) from None
    return target


def _discard_leftovers(incoming: Path) -> None:
    """Remove what a process that was killed while downloading left; only under the lock."""
    incoming.unlink(missing_ok=True)
    leftover = re.compile(re.escape(incoming.name[:100]))  # temporary names are cut, see storage
    Storage().discard_unfinished(str(incoming.parent), leftover)


def _fetch(published: PublishedFile, mirror: str | None, incoming: Path, store: Storage) -> None:
    """Fetch a file from the mirror, or from the authors where the mirror lacks it, and check it.

    A copy in the mirror that is not the published file is an error: someone has to know of it.
    """
    uri = storage.join(mirror, published.file_name) if mirror else published.url
    with _store_errors_named(uri):
        is_there = not mirror or store.exists(uri)
    if mirror and not is_there:
        logger.warning(
            "%s is not in the mirror %s: asking the authors' server; `ntt-ray weights push` fills "
            "a mirror",
            published.file_name,
            storage.redact(mirror),
        )
        uri = published.url
    _download(uri, incoming, store)
    if problem := published.problem(incoming):
        incoming.unlink()
        raise WeightsError(f"{storage.redact(uri)}: damaged or another file; {problem}")


def _download(uri: str, incoming: Path, store: Storage) -> None:
    what = f"downloading {storage.redact(uri)} to {incoming.parent}"
    with Stage(what), _store_errors_named(uri):
        store.download(uri, incoming)


@contextmanager
def _store_errors_named(uri: str) -> Iterator[None]:
    """Errors of a store say which checkpoint cannot be fetched, and what to do."""
    try:
        yield
    except (FileNotFoundError, NttRayError) as error:
        raise WeightsError(cannot_fetch(uri, str(error))) from None


def cannot_fetch(uri: str, why: str) -> str:
    """That a checkpoint cannot be fetched, why, and what to do, without secrets."""
    return (
        f"{storage.redact(uri)}: the checkpoint cannot be fetched ({storage.redact(why)}). Name a "
        "file with models.<model>.checkpoint, or a prefix that holds it with models.mirror"
    )
