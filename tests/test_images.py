import importlib.util
import io
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import ImageError
from ntt_ray.images import (
    PixelBudget,
    decode_image,
    decode_square,
    image_suffixes,
    pillow_to_rgb,
    resize_square,
)
from ntt_ray.settings import DecodeSettings
from tests.support import raw_files


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


def test_exif_orientation_is_applied_unless_pixels_are_wanted_as_stored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    data = _encoded("RGB", "JPEG", exif=exif)
    assert decode_image(data).shape == (7, 5, 3)
    assert decode_image(data, DecodeSettings(orientation="stored")).shape == (5, 7, 3)


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
        decode_image(_encoded("RGB", "PNG"), DecodeSettings(max_pixels=34))
    assert decode_image(_encoded("RGB", "PNG"), DecodeSettings(max_pixels=35)).shape == (5, 7, 3)


def test_pillows_own_limit_does_not_come_first():
    header = raw_files.PNG_START + raw_files.png_header(14_100, 14_100)
    with pytest.raises(ImageError, match="truncated"):  # 199 million pixels pass, were they there
        decode_image(header + raw_files.chunk(b"IDAT", b"") + raw_files.chunk(b"IEND", b""))


def test_decode_square_is_decoding_and_resizing():
    data = _encoded("CMYK", "JPEG", size=(41, 23))
    square, size_hw = decode_square(data, 16)
    assert size_hw == (23, 41)
    np.testing.assert_array_equal(square, resize_square(decode_image(data), 16))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P", "I;16", "CMYK"])
def test_an_opened_image_is_what_its_file_is(mode):
    image = Image.new(mode, (6, 4), 1)
    file = io.BytesIO()
    image.save(file, "TIFF")
    expected = decode_image(file.getvalue())
    assert (pillow_to_rgb(Image.open(file)) == expected).all()


def test_an_opened_image_may_be_turned_or_damaged():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", exif=exif)
    assert pillow_to_rgb(Image.open(file)).shape == (60, 40, 3)
    assert pillow_to_rgb(Image.open(file), DecodeSettings(orientation="stored")).shape == (
        40,
        60,
        3,
    )
    cut = io.BytesIO(file.getvalue()[:-100])
    with pytest.raises(ImageError, match="truncated"):
        pillow_to_rgb(Image.open(cut))
    with pytest.raises(ImageError, match="32 bits"):
        pillow_to_rgb(Image.new("F", (6, 4)))


def test_threads_hold_no_more_pixels_than_the_budget():
    budget = PixelBudget(100)
    held, most, sizes = [0], [0], [10, 60, 45, 1000, 5, 90, 100, 30] * 5
    lock = threading.Lock()

    def hold(pixels: int) -> None:
        with budget.taken(pixels):
            with lock:
                held[0] += min(pixels, 100)
                most[0] = max(most[0], held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= min(pixels, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, sizes))
    assert held == [0]
    assert most == [100]  # of them, 1000 and 100 are alone


def test_a_failing_image_gives_its_pixels_back():
    budget = PixelBudget(10)
    for _ in range(3):
        with pytest.raises(ImageError), budget.taken(10):
            raise ImageError("damaged")


def test_resize_square():
    image = decode_image(_encoded("RGB", "PNG"))
    assert resize_square(image, 16).shape == (16, 16, 3)
    expected = np.asarray(Image.fromarray(image).resize((4, 4), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_square(image, 4), expected)
    square = image[:5, :5]
    assert resize_square(square, 5) is square


SECRET = b"hunter2-correct-horse-battery-staple"
BEGINNINGS = {
    "nothing of an image": b"",
    "binary": b"\x01\x9c",
    "a JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "a PNG": b"\x89PNG\r\n\x1a\n",
    "a PNG with another chunk": raw_files.PNG_START + raw_files.png_header(4, 4),
    "a GIF": b"GIF89a",
    "a TIFF": b"II*\x00\x08\x00\x00\x00",
    "a BMP": b"BM",
    "a WebP": b"RIFF\xff\x00\x00\x00WEBP",
    "a PPM": b"P6\n",
    "a PPM with a size": b"P6\n7 ",
    "a PPM without its colours": b"P3\n7 5\n255\n",
    "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    "JSON": b'{"password": "',
    "an HTML page": b"<html>",
}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS.keys())
def test_no_byte_of_what_is_no_image_is_quoted(beginning):
    with pytest.raises(ImageError) as caught:
        decode_image(beginning + SECRET * 20)
    told = str(caught.value)
    parts = {SECRET[start : start + 4].decode() for start in range(len(SECRET) - 4)}
    assert not [part for part in parts if part in told], told


def _bands(count: int, kind: str) -> np.ndarray:
    return (np.arange(count * 6 * 8).reshape(count, 6, 8) % 250).astype(kind)


BANDS = {
    "five": (raw_files.tiff_of_bands(_bands(5, "u1")), "not supported: a TIFF with 5 bands of 8"),
    "two": (raw_files.tiff_of_bands(_bands(2, "u2")), "not supported: a TIFF with 2 bands of 16"),
    "three of floats": (
        raw_files.tiff_of_bands(_bands(3, "f4")),
        r"3 bands of 32 bits \(floating-",
    ),
    "planes of 16 bits": (raw_files.tiff_of_bands(_bands(3, "u2"), True), r"lie apart \(planar\)"),
}


@pytest.mark.parametrize(("data", "text"), BANDS.values(), ids=BANDS)
def test_bands_that_cannot_be_read_are_named(data, text):
    with pytest.raises(ImageError, match=text):
        decode_image(data)


def test_bands_that_can_be_read():
    bands = _bands(3, "u1")
    for planar in (False, True):
        found = decode_image(raw_files.tiff_of_bands(bands, planar))
        assert (found == np.moveaxis(bands, 0, 2)).all()


def _sixteen_bits(samples, file_format="PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(samples.astype(np.uint16)).save(stream, file_format, **options)
    return stream.getvalue()


RAMP = np.linspace(100, 4095, 12 * 10).round().reshape(10, 12)
SIXTEEN = {
    "high_byte": RAMP.astype(int) >> 8,
    "range": (RAMP - 100) * 255 / 3995,
    "percentile": (RAMP - np.percentile(RAMP, 2)) / (np.ptp(np.percentile(RAMP, (2, 98)))) * 255,
}


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("how", SIXTEEN)
def test_how_sixteen_bits_become_eight(how, file_format):
    data, notes = _sixteen_bits(RAMP, file_format), set()
    image = decode_image(data, DecodeSettings(sixteen_bit=how), notes=notes)
    expected = SIXTEEN[how].clip(0, 255)
    assert np.abs(image.astype(float) - expected[..., None]).max() <= 0.5 + 1e-9
    assert notes == ({"narrow"} if how == "high_byte" else set())


def test_a_picture_of_one_sample_is_no_division_by_zero():
    data = _sixteen_bits(np.full((4, 5), 700))
    for how in ("range", "percentile"):
        assert not decode_image(data, DecodeSettings(sixteen_bit=how)).any()


@pytest.mark.parametrize(("highest", "noted"), [(13106, True), (13107, False), (65535, False)])
def test_sixteen_bits_that_use_less_than_a_fifth_are_noted(highest, noted):
    notes = set()
    decode_image(_sixteen_bits(np.array([[0, 5], [7, highest]])), notes=notes)
    assert notes == ({"narrow"} if noted else set())


def _half_transparent(mode: str) -> bytes:
    pixels = np.zeros((4, 6, 4), dtype=np.uint8)
    pixels[..., 0], pixels[:, :3, 3] = 200, 255  # red all over, opaque on the left
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    if mode == "P":
        image.quantize(2).save(stream, "PNG")
    else:
        image.convert(mode).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_noted_or_laid_on_a_background(mode):
    data, notes = _half_transparent(mode), set()
    plain = decode_image(data, notes=notes)
    assert notes == {"transparent"}
    white, notes = DecodeSettings(background=(255, 255, 255)), set()
    laid = decode_image(data, white, notes=notes)
    assert not notes
    assert (laid[:, :3] == plain[:, :3]).all()
    assert (laid[:, 3:] == 255).all()
    square, _ = decode_square(data, 8, white)
    assert (square[:, -1] == 255).all()


def test_nothing_transparent_is_not_noted():
    for mode in ("RGBA", "RGB"):
        notes = set()
        decode_image(_encoded(mode, "PNG"), notes=notes)
        assert not notes


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", ["stored", "upright"])
def test_turned_images_are_noted(file_format, orientation):
    settings = DecodeSettings(orientation=orientation)
    for turn in (1, 3, 6):
        exif, notes = Image.Exif(), set()
        exif[0x0112] = turn
        decode_image(_encoded("RGB", file_format, exif=exif), settings, notes=notes)
        assert notes == ({"turned"} if turn > 1 else set())


def _heic(size=(48, 32), exif=None) -> bytes:
    import pillow_heif

    pillow_heif.register_heif_opener()
    grey = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).convert("RGB").save(
        stream, "HEIF", quality=90, **({} if exif is None else {"exif": exif})
    )
    return stream.getvalue()


def test_heic_is_read_where_its_package_is():
    """Upright, always: the library turns it, and says so no more."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for settings in (DecodeSettings(), DecodeSettings(orientation="stored")):
        notes = set()
        assert decode_image(_heic(), settings, notes=notes).shape == (32, 48, 3)
        assert decode_image(_heic(exif=exif.tobytes()), settings, notes=notes).shape == (48, 32, 3)
        assert not notes
    with pytest.raises(ImageError, match="48 x 32 pixels is more than the limit"):
        decode_image(_heic(), DecodeSettings(max_pixels=1000))
    for end in (40, 200, 400):
        with pytest.raises(ImageError):
            decode_image(_heic()[:end])


def test_heic_without_its_package_says_what_to_install():
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from ntt_ray.images import decode_image\n"
        "try: decode_image(sys.stdin.buffer.read())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=_heic(), capture_output=True)
    assert b"ImageError a HEIC photograph" in done.stdout, done.stderr
    assert b"pip install 'ntt-ray[heif]'" in done.stdout


@pytest.mark.parametrize("found", [True, False])
def test_heic_is_listed_where_its_package_is(monkeypatch, found):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if found else None)
    image_suffixes.cache_clear()
    assert (".heic" in image_suffixes()) == found
    image_suffixes.cache_clear()
