"""Three images of the list are read before anything is started: can they be, and are they any?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ntt_ray import storage
from ntt_ray.errors import ImageError, RunIncompleteError
from ntt_ray.images import stored_size
from ntt_ray.records import FetchedImage, ImageEntry
from ntt_ray.run.fetch import fetch_images
from ntt_ray.sources.stretches import Stretches
from ntt_ray.storage import Storage

LOOKED_AT = 3  # the first image of the list, the one in the middle, and the last


def look(entries: Sequence[ImageEntry], store: Storage, timeout_s: float) -> list[str]:
    """Read some images, and say in a line for each what was found.

    Raises:
        RunIncompleteError: none of them could be read; every reason is named.
    """
    alone = replace(store, patience_s=0.0)
    read = Stretches([entry.uri for entry in entries], alone.read_bytes, alone.read_cells)
    images = fetch_images(entries, read, timeout_s, store.patience_s)
    lines = [f"{image.entry.file_name}: {_found(image)}" for image in images]
    if images and all(image.error is not None for image in images):
        lines = [f"{storage.redact(image.entry.uri)}: {_found(image)}" for image in images]
        raise RunIncompleteError(
            f"none of {len(images)} images of the list could be read: {'; '.join(lines)}. Are "
            "`images` and `image_root` right, and may this machine read there?"
        )
    return lines


def _found(image: FetchedImage) -> str:
    if image.data is None:
        return f"could not be read ({image.error})"
    try:
        (height, width), turn = stored_size(image.data)
    except ImageError as error:
        return f"no image ({error})"
    turned = "" if turn == 1 else f" as stored, EXIF orientation {turn}"
    return f"{width} x {height} pixels{turned}"
