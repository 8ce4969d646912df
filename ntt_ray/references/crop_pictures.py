"""Small pictures of reference crops for the pages of runs and memory banks.

It reads the image of the reference, cuts the crop as the method does, and traces its mask.
"""

from __future__ import annotations

from ntt_ray.errors import NttRayError
from ntt_ray.pages.pictures import OutlinedPicture, blank, mask_to_path, thumbnail
from ntt_ray.records import Reference
from ntt_ray.references.crops import cut_reference
from ntt_ray.references.dataset import read_image
from ntt_ray.storage import Storage

CROP_SIDE_PX = 144
CROP_BYTES = 7_000


def crop_picture(reference: Reference, context_ratio: float, store: Storage) -> OutlinedPicture:
    """The crop of a reference; an empty place where its image cannot be read any more."""
    name = reference.image.file_name
    try:
        crop = cut_reference(reference, read_image(reference, store), context_ratio)
    except (NttRayError, FileNotFoundError, ValueError):
        return OutlinedPicture(name, blank((CROP_SIDE_PX, CROP_SIDE_PX), CROP_SIDE_PX), "")
    picture = thumbnail(crop.image_rgb, CROP_SIDE_PX, CROP_BYTES)
    return OutlinedPicture(name, picture, mask_to_path(crop.mask, picture.scale))
