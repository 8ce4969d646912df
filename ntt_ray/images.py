"""Encoded bytes to RGB arrays, and resizing as the method wants it.

Arrays are uint8 ``(height, width, 3)`` in RGB order. Pixels are taken as stored: an EXIF
orientation is not applied, as pycocotools and the paper's code do not apply it.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ntt_ray.errors import ImageError

RgbImage = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_EXIF_ORIENTATION = 0x0112
MAX_PIXELS = 200_000_000  # 600 MB as RGB; above it a header is a mistake or an attack


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> RgbImage:
    """Decode an image file to RGB.

    Args:
        data: the encoded file.
        max_pixels: refuse larger images before their pixels are decoded.

    Returns:
        uint8 array ``(height, width, 3)``.

    Raises:
        ImageError: empty, not an image, truncated, damaged or too large; the text says which.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked here, not by Pillow's warning
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageError(
                        f"{width} x {height} pixels is more than the limit of {max_pixels}"
                    )
                return np.asarray(image.convert("RGB"))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not an image: the file starts with {data[:12]!r}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"the header claims more than the limit of {max_pixels} pixels") from None
    except Exception as error:  # decoders raise almost anything on damaged files
        raise ImageError(f"damaged or truncated: {type(error).__name__}: {error}") from None


def stored_size(data: bytes) -> tuple[tuple[int, int], bool]:
    """Height and width of an image file as stored, and whether it is to be shown as stored.

    Raises:
        ImageError: not an image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)
            return (image.height, image.width), not turned
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        raise ImageError(f"not an image: {error}") from None


def decode_mask(data: bytes) -> npt.NDArray[np.int64]:
    """Decode a mask file to one value per pixel, 0 outside.

    Palette files give their indices, grey ones their values, coloured ones their greatest channel.
    Where parts are transparent, opacity decides alone.

    Returns:
        int64 ``(height, width)``.

    Raises:
        ImageError: not an image, damaged or too large.
    """
    decode_image(data)  # for its checks
    with Image.open(io.BytesIO(data)) as image:
        if "A" in image.getbands():
            alpha = np.asarray(image.getchannel("A"), dtype=np.int64)
            if alpha.min() < alpha.max():
                return alpha
        opaque = image.convert("RGB") if "A" in image.getbands() else image
        values = np.asarray(opaque).astype(np.int64)
    return values if values.ndim == 2 else values.max(axis=2)


def resize_square(image_rgb: RgbImage, side: int) -> RgbImage:
    """Resize to ``(side, side, 3)`` with Pillow's antialiased BICUBIC; the aspect ratio changes.

    METHOD: target images reach both models through this one resize.
    """
    if image_rgb.shape[:2] == (side, side):
        return image_rgb
    resized = Image.fromarray(image_rgb).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized)
