"""Encoded bytes to RGB arrays, and resizing as the method wants it.

Arrays are uint8 ``(height, width, 3)`` in RGB order. Pixels are turned upright as the file's EXIF
says, unless `DecodeSettings` asks for those stored, as the paper's code takes them. Of a file with
several frames or pages the first one counts. Transparency is dropped and of 16 bits the upper 8 are
taken, unless asked otherwise; what may surprise is noted. What cannot become RGB is an `ImageError`
whose text is for a person to read.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ntt_ray.errors import ImageError, ImageMemoryError

if TYPE_CHECKING:  # a decoder holds Pillow and numpy only, and is handed plain values
    from contextlib import AbstractContextManager

    from ntt_ray.settings import AnnotatedOrientation, DecodeSettings

RgbImage = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
_HEIF_SUFFIXES = (".heic", ".heif")  # where pillow-heif is installed, the extra "heif"
# decoded at once for a process; each pixel needs 4 to 14 bytes meanwhile, of JPEG 2000 up to 25
PIXELS_AT_ONCE = 64_000_000
# what Pillow may take a file for, whatever its name; others run programs (EPS) or have no pixels
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF")
_ORIENTATION = 0x0112  # EXIF and TIFF tag
_FIRST_EXCHANGED = 5  # orientations from here on exchange height and width
_BITS_PER_SAMPLE, _BANDS, _PLANAR, _SAMPLE_FORMAT = 258, 277, 284, 339  # TIFF tags
_NARROW = 0.2  # of the range of 16 bits
_CUT = (2.0, 98.0)  # percentiles, as geographic viewers stretch pictures
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STORED = _UPRIGHT | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_REASON_LENGTH = 200
_QUOTE = re.compile(r"\bb['\"]|[:'\"]|[^\x20-\x7e]")  # behind it decoders name what they found
_BEGINNINGS = {
    rb"\x00*\Z": "not an image: the file holds nothing but zero bytes",
    rb"\xff\xd8|\x89PNG|GIF8|RIFF....WEBP|II\*\x00|MM\x00\*|BM": (
        "damaged or truncated: the file begins like an image, but its header cannot be read"
    ),
    rb"\s*(<!doctype html|<html)": "not an image but a web page",
    rb"\s*(<\?xml|<svg)": "not an image but an XML or SVG document",
    rb"....ftyp(heic|heix|hevc|mif1|msf1)": (
        "a HEIC photograph that cannot be read; pip install 'ntt-ray[heif]', where it is not"
    ),
    rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n": (
        "a JPEG XL image, which is not supported; turn it into PNG or WebP"
    ),
    rb"....ftyp": "not an image but a video",
    rb"%!PS|%PDF|8BPS": "a PostScript, PDF or Photoshop document, which is not supported",
    rb"\x00\x00[\x01\x02]\x00": "an icon, which is not supported",
    rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf": "not an image but an archive",
    rb"version https://git-lfs": "not an image but a Git LFS pointer; fetch the files first",
    rb"\s*[{\[]\s*[\"{\[]": "not an image but JSON",
    rb"[\t\r\n\x20-\x7e]{4,}\Z": "not an image but a text",
}


_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND", b"GIF8": b"\x3b"}
_END_BYTES = 64  # at the end of a file in which its end is looked for


def looks_cut(data: bytes) -> bool:
    """Whether a file ends before it should: a cheap look at its last bytes, and not certain."""
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    ends = [end for beginning, end in _ENDS.items() if data.startswith(beginning)]
    return not data or any(end not in data[-_END_BYTES:] for end in ends)


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """The endings of files that are taken for images here, in lower case."""
    has_heif = importlib.util.find_spec("pillow_heif") is not None
    return (*IMAGE_SUFFIXES, *_HEIF_SUFFIXES) if has_heif else IMAGE_SUFFIXES


class Decoding(Protocol):
    """What decoding asks of `DecodeSettings`."""

    @property
    def orientation(self) -> str:
        """Whether pixels are ``stored`` or ``upright``."""

    @property
    def max_pixels(self) -> int:
        """How many pixels an image may have."""

    @property
    def sixteen_bit(self) -> str:
        """How samples of 16 bits become 8: ``high_byte``, ``range`` or ``percentile``."""

    @property
    def background(self) -> tuple[int, int, int] | None:
        """What transparent parts are laid on; None leaves the colours below them."""


class Budget(Protocol):
    """Who is asked before pixels are decoded."""

    def taken(self, pixels: int) -> AbstractContextManager[None]:
        """Hold so many pixels while the context is open."""


class PixelBudget:
    """Bounds the pixels that are decoded at once for a process; a larger image goes alone."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels are free, and hold them while the context is open."""
        wanted = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


_budget = PixelBudget(PIXELS_AT_ONCE)


def decode_image(
    data: bytes,
    settings: Decoding | None = None,
    budget: Budget = _budget,
    notes: set[str] | None = None,
) -> RgbImage:
    """Decode an image file to RGB.

    Args:
        data: bytes of the encoded file.
        settings: how pixels are made, and how many there may be; None for the defaults.
        budget: holds the pixels of the image until it is returned.
        notes: is told what may surprise, by the names of `records.NOTES`.

    Returns:
        uint8 array ``(height, width, 3)``.

    Raises:
        ImageError: the file is empty, not an image, truncated, damaged or too large; the message
            says which.
    """
    with _decoded(data, settings, budget, notes) as image:
        return np.asarray(image)


def pillow_to_rgb(image: Image.Image, settings: Decoding | None = None) -> RgbImage:
    """An image that Pillow has opened or made, as `decode_image` gives that of a file.

    Args:
        image: an image of any size and any mode that `decode_image` takes.
        settings: how pixels are made; None for the defaults.

    Returns:
        uint8 array ``(height, width, 3)``.

    Raises:
        ImageError: its file is truncated or damaged, or its samples cannot become 8 bits.
    """
    settings = settings or _defaults()
    try:
        oriented, _ = _oriented(image, settings.orientation == "upright")
        return np.asarray(_rgb(oriented, settings))
    except ImageError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged files
        raise ImageError(_damaged(error)) from None


def decode_square(
    data: bytes,
    side: int,
    settings: Decoding | None = None,
    budget: Budget = _budget,
    notes: set[str] | None = None,
) -> tuple[RgbImage, tuple[int, int]]:
    """Decode an image file straight to a square: `decode_image` and `resize_square` in one.

    The image at its own size is in memory once, and only while it counts in the pixel budget.

    Returns:
        uint8 array ``(side, side, 3)``; and height and width of the image, which its masks have.

    Raises:
        ImageError: the image cannot be decoded, see `decode_image`.
    """
    with _decoded(data, settings, budget, notes) as image:
        return np.asarray(_square(image, side)), (image.height, image.width)


def stored_size(data: bytes) -> tuple[tuple[int, int], int]:
    """Height and width of an image file as stored, and the orientation of its EXIF, 1 to 8.

    Pixels of orientation 1 are shown as stored, those of 5 to 8 with height and width exchanged.

    Raises:
        ImageError: the file is not an image, or damaged.
    """
    with _opened(data, _defaults()) as image:
        turn = _orientation(image)
        size_hw = (image.height, image.width)
        if image.format == "TIFF" and turn >= _FIRST_EXCHANGED:  # whose size is the upright one
            size_hw = size_hw[::-1]
        return size_hw, turn if turn in _UPRIGHT else 1


def annotated_orientation(
    data: bytes, size_hw: tuple[int, int], orientation: AnnotatedOrientation
) -> Literal["stored", "upright"]:
    """How an image was seen by whoever annotated it.

    Args:
        data: bytes of the encoded file.
        size_hw: height and width of the image according to its annotations.
        orientation: what is known; with ``auto`` the size decides where the file's EXIF exchanges
            height and width.

    Raises:
        ImageError: the file is not an image or damaged, or it is turned and nothing tells whether
            its annotations are.
    """
    stored_hw, turn = stored_size(data)
    if orientation != "auto" or turn == 1:
        return "stored" if orientation == "stored" or turn == 1 else "upright"
    upright_hw = stored_hw[::-1] if turn >= _FIRST_EXCHANGED else stored_hw
    if size_hw != stored_hw:
        return "upright"  # or of another size in either way
    if stored_hw != upright_hw:
        return "stored"
    raise ImageError(
        f"is stored turned (EXIF orientation {turn}), and its size does not tell whether it was "
        "annotated upright, as nearly every tool shows it, or as stored; say which with "
        "references.orientation: upright (or stored)"
    )


def decode_mask(data: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Decode a mask file to one value per pixel, 0 outside.

    Palette files give their indices, grey ones their values, coloured ones their greatest channel.
    Where parts are transparent, opacity decides alone.

    Returns:
        Values, and what tells colours apart: int64 ``(height, width)`` each, and the same array
        where nothing has a colour.

    Raises:
        ImageError: the file is not an image, damaged or too large.
    """
    with _opened(data, _defaults()) as opened:
        image, _ = _oriented(opened, upright=False)
        if "A" in image.getbands():
            alpha = np.asarray(image.getchannel("A"), dtype=np.int64)
            if alpha.min() < alpha.max():
                return alpha, alpha
        opaque = image.convert("RGB") if "A" in image.getbands() else image
        values = np.asarray(opaque).astype(np.int64)
    if values.ndim == 2:
        return values, values
    brightness = values.max(axis=2)
    if (values.min(axis=2) == brightness).all():
        return brightness, brightness
    return brightness, values @ np.array([1 << 16, 1 << 8, 1])


def resize_square(image_rgb: RgbImage, side: int) -> RgbImage:
    """Resize to ``(side, side, 3)`` with Pillow's antialiased BICUBIC; the aspect ratio changes.

    Target images reach both models through this one resize (METHOD 16, 17).
    """
    if image_rgb.shape[:2] == (side, side):
        return image_rgb
    return np.asarray(_square(Image.fromarray(image_rgb), side))


def _square(image: Image.Image, side: int) -> Image.Image:
    same = image.size == (side, side)
    return image if same else image.resize((side, side), Image.Resampling.BICUBIC)


@functools.cache
def _defaults() -> DecodeSettings:
    from ntt_ray.settings import DecodeSettings

    return DecodeSettings()


@contextlib.contextmanager
def _decoded(
    data: bytes, settings: Decoding | None, budget: Budget, notes: set[str] | None
) -> Iterator[Image.Image]:
    """The image as RGB; its pixels count as taken as long as it is in use."""
    settings = settings or _defaults()
    with _opened(data, settings) as image, budget.taken(image.width * image.height):
        oriented, turn = _oriented(image, settings.orientation == "upright")
        if notes is not None:
            notes.update(["turned"] if turn in _UPRIGHT else [], _surprises(oriented, settings))
        yield _rgb(oriented, settings)


@contextlib.contextmanager
def _opened(data: bytes, settings: Decoding) -> Iterator[Image.Image]:
    """The image by its header, of a size that is allowed; all errors become `ImageError`."""
    if not data:
        raise ImageError("the file is empty")
    formats = prepare_formats()
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
            if width * height > settings.max_pixels:
                raise ImageError(
                    f"{width} x {height} pixels is more than the limit of {settings.max_pixels}"
                )
            _check_planes(image)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_not_an_image(data)) from None
    except MemoryError:
        raise ImageMemoryError("there is not enough memory to decode it") from None
    except Exception as error:  # decoders raise almost anything on damaged files
        raise ImageError(_damaged(error)) from None


@functools.cache
def prepare_formats() -> tuple[str, ...]:
    """The formats that this Pillow reads; sizes are checked here, so its own limit is lifted."""
    Image.init()
    with contextlib.suppress(
        ImportError
    ):  # its pictures are upright, and no more said to be turned
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
        pillow_heif.register_heif_opener()
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about damage: it ends in rows, or is none
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _oriented(image: Image.Image, upright: bool) -> tuple[Image.Image, int]:
    """Load the pixels, stored or upright, and give the orientation that the file tells.

    Of TIFF files Pillow itself makes upright images, and forgets what they told.
    """
    turn = _orientation(image) if image.format == "TIFF" else 1
    image.load()
    if image.format == "TIFF":
        method = None if upright else _STORED.get(turn)
    else:
        turn = _orientation(image)
        method = _UPRIGHT.get(turn) if upright else None
    if method is None:
        return image, turn
    turned = image.transpose(method)
    turned.format = image.format
    return turned, turn


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return 1  # an EXIF block that cannot be read says nothing


def _rgb(image: Image.Image, settings: Decoding) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if _has_16_bits(image):
        return _eight_bits(image, settings.sixteen_bit).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError("samples of 32 bits have no fixed range; convert the file to 8 or 16 bits")
    if settings.background is None or not image.has_transparency_data:
        return image.convert("RGB")
    opaque = Image.new("RGBA", image.size, (*settings.background, 255))
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque.convert("RGB")


def _has_16_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _eight_bits(image: Image.Image, how: str) -> Image.Image:
    """The upper 8 of 16 bits, or of 12, which Pillow's own conversion clips, or a stretched range.

    A range is that of the image alone: of its least and greatest sample, or of the percentiles 2
    and 98, between which nearly all of them lie.
    """
    samples = np.asarray(image).astype(np.int32)
    if how == "high_byte":
        return Image.fromarray((samples >> (_bits(image) - 8)).clip(0, 255).astype(np.uint8))
    lowest, highest = np.percentile(samples, _CUT if how == "percentile" else (0.0, 100.0))
    scale = 255.0 / max(highest - lowest, 1.0)
    return Image.fromarray(np.rint((samples - lowest) * scale).clip(0, 255).astype(np.uint8))


def _bits(image: Image.Image) -> int:
    return int(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0])


def _surprises(image: Image.Image, settings: Decoding) -> Iterator[str]:
    """Why an image may be seen otherwise than where it comes from; names of `records.NOTES`."""
    if _has_16_bits(image) and settings.sixteen_bit == "high_byte":
        lowest, highest = image.getextrema()
        if highest - lowest < _NARROW * (2 ** _bits(image) - 1):  # type: ignore[operator]
            yield "narrow"
    if image.has_transparency_data and settings.background is None:
        alpha = image if "A" in image.getbands() else image.convert("RGBA")
        if alpha.getchannel("A").getextrema()[0] < 255:  # type: ignore[operator]
            yield "transparent"


def _check_planes(image: Image.Image) -> None:
    """Pillow reads half of 16-bit bands that lie apart, and says nothing."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANAR) == 2 and max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8:
        raise ImageError(
            "not supported: a TIFF whose bands of more than 8 bits lie apart (planar); save it "
            "with interleaved bands, or with 8 bits"
        )


def _unsupported_tiff(data: bytes) -> str | None:
    """What bands a TIFF has that Pillow does not read; None where that is not the reason."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    stream = io.BytesIO(data)
    try:
        tags = ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
        bands, bits = int(tags.get(_BANDS, 1)), int(max(tags.get(_BITS_PER_SAMPLE, (1,))))
        kind = {2: "signed ", 3: "floating-point "}.get(max(tags.get(_SAMPLE_FORMAT, (1,))), "")
    except Exception:  # whatever is wrong with it, it is not its bands
        return None
    if bands in (1, 3, 4) and bits in (1, 2, 4, 8, 16) and not kind:
        return None
    return (
        f"not supported: a TIFF with {bands} {'band' if bands == 1 else 'bands'} of {bits} bits"
        f"{f' ({kind.strip()})' if kind else ''}; save those to look at as RGB or grey"
    )


def _not_an_image(data: bytes) -> str:
    if data.startswith((b"II*\0", b"MM\0*")) and (text := _unsupported_tiff(data)):
        return text
    for pattern, text in _BEGINNINGS.items():
        if re.match(pattern, data[:4096], re.DOTALL | re.IGNORECASE):
            return text
    return "not an image: the file begins like none of the formats that are read"


def _damaged(error: Exception) -> str:
    text = str(error).strip()
    if "MAX_TEXT" in text:
        return "a text or a colour profile in the file is larger than the limit of 1 MB"
    text = _quoting_nothing(text)
    if not isinstance(error, OSError | SyntaxError | ValueError) or not text:
        # the text alone says nothing, as of a KeyError
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"damaged or truncated: {text[:_REASON_LENGTH]}"


def _quoting_nothing(text: str) -> str:
    """What a decoder says, up to where it may begin to quote the file.

    A file that is no image may be anything, as an answer with a secret, and errors are shown.
    """
    return re.sub(r"\d{7,}", "…", _QUOTE.split(text)[0]).strip(" (,[")
