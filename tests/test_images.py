import io

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import ImageError
from ntt_ray.images import decode_image, resize_square


def _encoded(mode: str, file_format: str, size=(7, 5), **options) -> bytes:
    data = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(data).convert(mode).save(stream, file_format, **options)
    return stream.getvalue()


ODD = {
    "jpeg": ("RGB", "JPEG"),
    "progressive jpeg": ("RGB", "JPEG"),
    "cmyk jpeg": ("CMYK", "JPEG"),
    "grey png": ("L", "PNG"),
    "one bit png": ("1", "PNG"),
    "palette png": ("P", "PNG"),
    "transparent png": ("RGBA", "PNG"),
    "gif": ("P", "GIF"),
    "webp": ("RGB", "WEBP"),
    "tiff": ("RGB", "TIFF"),
    "bmp": ("RGB", "BMP"),
}


@pytest.mark.parametrize(("mode", "file_format"), ODD.values(), ids=ODD.keys())
def test_every_kind_becomes_rgb(mode, file_format):
    image = decode_image(_encoded(mode, file_format))
    assert image.shape == (5, 7, 3)
    assert image.dtype == np.uint8


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert decode_image(_encoded("RGB", "JPEG", exif=exif)).shape == (5, 7, 3)


BAD = {
    "empty": (b"", "empty"),
    "text": (b"this is not an image", "not an image"),
    "html": (b"<!DOCTYPE html><title>403</title>", "not an image"),
    "truncated": (_encoded("RGB", "PNG", size=(64, 64))[:200], "truncated"),
    "only a header": (_encoded("RGB", "JPEG")[:20], "not an image|truncated"),
}


@pytest.mark.parametrize(("data", "text"), BAD.values(), ids=BAD.keys())
def test_bad_files_say_what_is_wrong(data, text):
    with pytest.raises(ImageError, match=text):
        decode_image(data)


def test_large_images_are_refused_before_decoding():
    with pytest.raises(ImageError, match="limit of 34"):
        decode_image(_encoded("RGB", "PNG"), max_pixels=34)


def test_resize_square():
    image = decode_image(_encoded("RGB", "PNG"))
    assert resize_square(image, 16).shape == (16, 16, 3)
    expected = np.asarray(Image.fromarray(image).resize((4, 4), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_square(image, 4), expected)
    square = image[:5, :5]
    assert resize_square(square, 5) is square
