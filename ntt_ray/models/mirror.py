"""A mirror: a prefix of your own that holds published files, for nodes that ask there first.

Owns filling it. The files in a mirror have the authors' names; nothing else is in it.
"""

from __future__ import annotations

from enum import StrEnum

from ntt_ray import storage
from ntt_ray.errors import StorageError, WeightsError
from ntt_ray.models.cache import published_checkpoint
from ntt_ray.models.published import PublishedFile, file_digest, stream_digest
from ntt_ray.storage import Storage


class Pushed(StrEnum):
    """What was done about one file."""

    THERE = "was there already"
    UPLOADED = "uploaded"
    REPLACED = "uploaded, in place of a damaged or other file"


def push(published: PublishedFile, prefix: str, store: Storage) -> Pushed:
    """Make sure that a mirror holds a published file.

    A file that is there is read and its digest compared; it is left alone when it is right. Else
    the file is taken from this node's cache, or downloaded from the authors into it, and uploaded.

    Args:
        published: the file that the mirror must hold.
        prefix: URI prefix of the mirror.
        store: access to the mirror and to the authors' server.

    Raises:
        WeightsError: the authors' file cannot be fetched, or is another than published.
        StorageError: the mirror cannot be written.
    """
    uri = storage.join(prefix, published.file_name)
    there = store.exists(uri)
    if there and published.sha256 and _is_right(uri, published.sha256, published.size_bytes, store):
        return Pushed.THERE
    local = published_checkpoint(published, None, store)
    if problem := published.problem(local):
        raise WeightsError(f"{local}: damaged since it was fetched ({problem}); delete it")
    size = local.stat().st_size
    if there and not published.sha256 and _is_right(uri, file_digest(local), size, store):
        return Pushed.THERE
    store.publish_file(uri, local)
    if (found := store.size(uri)) != size:
        raise StorageError(f"{storage.redact(uri)}: {found} of {size} bytes are there")
    return Pushed.REPLACED if there else Pushed.UPLOADED


def _is_right(uri: str, sha256: str, size: int | None, store: Storage) -> bool:
    """Whether an object has the size, where one is known, and the digest."""
    if size is not None and store.size(uri) != size:
        return False
    with store.open_read(uri) as stream:
        return stream_digest(stream) == sha256
