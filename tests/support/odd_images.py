"""A corpus of bad and odd image files, built by code, each with what must become of it.

All good ones show the same unsymmetrical picture, so that a test can tell whether the right pixels
came out, and the right way round.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support import raw_files as raw

HEIGHT, WIDTH = 60, 80
SIZE_HW = (HEIGHT, WIDTH)
EXACT, LOSSY = 0.0, 6.0  # mean difference from the picture, of 255
# how EXIF says that a picture is turned: rows and columns of the upright one
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p[::-1].transpose(1, 0, 2),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: p[:, ::-1].transpose(1, 0, 2),
}
LIMIT = "pixels is more than the limit of 200000000"
BROKEN = "damaged or truncated: "
NO_FORMAT = "not an image: the file begins like none of the formats that are read"
HEADER = "begins like an image, but its header cannot be read"


@dataclass(frozen=True)
class OddFile:
    """One file of the corpus.

    Attributes:
        name: below the corpus's folder.
        data: its bytes; None where it is not a plain file.
        reason: a piece of the error of its row; None where it must be labelled.
        size_hw: height and width of its row.
        differs: how far its pixels may be from the picture, on average; None: another picture.
        is_grey: it shows the grey picture.
        turn: EXIF orientation that it has.
    """

    name: str
    data: bytes | None
    reason: str | None = None
    size_hw: tuple[int, int] = SIZE_HW
    differs: float | None = None
    turn: int = 1
    is_grey: bool = False

    def pixels(self, orientation: str) -> np.ndarray:
        """What it shows, ``(h, w, 3)`` uint8, as stored or upright."""
        shown = np.repeat(grey()[..., None], 3, axis=-1) if self.is_grey else picture()
        if orientation == "stored":
            return shown
        return UPRIGHT[self.turn](shown)


def picture() -> np.ndarray:
    """A smooth picture with two blocks that show which way up it is: uint8 ``(60, 80, 3)``."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([60 + x, 120 - y, 80 + y // 2], axis=-1)
    pixels[:20, :20] = (230, 200, 60)
    pixels[30:50, 40:70] = (200, 40, 50)
    return pixels.astype(np.uint8)


def encoded(
    file_format: str, mode: str = "RGB", image: Image.Image | None = None, **options
) -> bytes:
    """The picture, or another, in a format."""
    sink = io.BytesIO()
    (image or Image.fromarray(picture())).convert(mode).save(sink, file_format, **options)
    return sink.getvalue()


def grey() -> np.ndarray:
    return np.asarray(Image.fromarray(picture()).convert("L"))


def corpus() -> list[OddFile]:
    """All files, each name once."""
    files = [*_good(), *_turned(), *_sizes(), *_damaged(), *_no_images(), *_bombs(), *_named()]
    names = [file.name for file in files]
    assert len(set(names)) == len(names)
    return files


def write_corpus(folder: Path) -> list[OddFile]:
    """Write all files below a folder, and the links among them."""
    files = corpus()
    for file in files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.data is not None:
            path.write_bytes(file.data)
    (folder / "link.png").symlink_to(folder / "kind-rgb.png")
    (folder / "link-broken.png").symlink_to(folder / "nowhere.png")
    (folder / ".hidden.png").write_bytes(b"not listed")
    (folder / "sub" / ".cache").mkdir()
    (folder / "sub" / ".cache" / "x.png").write_bytes(b"not listed")
    (folder / "notes.txt").write_text("not listed")
    return files


def _good() -> Iterator[OddFile]:
    base = Image.fromarray(picture())
    other = Image.fromarray(picture()[::-1].copy())
    yield OddFile("kind-rgb.png", encoded("PNG"), differs=EXACT)
    yield OddFile("kind-rgb.bmp", encoded("BMP"), differs=EXACT)
    yield OddFile("kind-jpeg.jpg", encoded("JPEG", quality=95), differs=LOSSY)
    yield OddFile("kind-progressive.JPG", encoded("JPEG", progressive=True), differs=LOSSY)
    yield OddFile("kind-grey.jpeg", encoded("JPEG", "L"), differs=LOSSY, is_grey=True)
    cmyk = encoded("JPEG", "CMYK", quality=95)
    yield OddFile("kind-cmyk-adobe.jpg", cmyk, differs=LOSSY)  # inverted, as Adobe's are
    yield OddFile("kind-cmyk-plain.jpg", _without_adobe(cmyk), differs=LOSSY)
    yield OddFile("kind-ycck.jpg", _as_ycck(cmyk))
    yield OddFile("kind-webp.webp", encoded("WEBP", quality=95), differs=LOSSY)
    lossless = encoded("WEBP", "RGBA", lossless=True)
    yield OddFile("kind-webp-lossless-alpha.webp", lossless, differs=EXACT)
    for name, file_format in (("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG")):
        moving = encoded(file_format, save_all=True, append_images=[other] * 3, duration=40)
        yield OddFile(f"animated.{name}", moving, differs=LOSSY)
    yield OddFile("pages.tif", encoded("TIFF", save_all=True, append_images=[other]), differs=EXACT)
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "tiff_jpeg"):
        data = encoded("TIFF", compression=compression)
        yield OddFile(f"tiff-{compression}.tiff", data, differs=LOSSY)
    yield OddFile("tiff-cmyk.tif", encoded("TIFF", "CMYK"), differs=LOSSY)
    wide = grey().astype(np.uint16) << 8
    yield OddFile(
        "bits-16-grey.png",
        encoded("PNG", "I;16", Image.fromarray(wide)),
        differs=EXACT,
        is_grey=True,
    )
    yield OddFile(
        "bits-16-grey.tif",
        encoded("TIFF", "I;16", Image.fromarray(wide)),
        differs=EXACT,
        is_grey=True,
    )
    yield OddFile("bits-12-grey.tif", _twelve_bits(), differs=EXACT, is_grey=True)
    rgb_16 = picture().astype(np.uint16) << 8
    yield OddFile("bits-16-rgb.png", raw.png(rgb_16, 16, raw.RGB), differs=EXACT)
    alpha_16 = np.dstack([rgb_16, np.full(SIZE_HW, 30_000)])
    yield OddFile("bits-16-rgba.png", raw.png(alpha_16, 16, raw.RGB_ALPHA), differs=EXACT)
    la_16 = np.dstack([wide, wide])
    yield OddFile("bits-16-la.png", raw.png(la_16, 16, raw.GREY_ALPHA), differs=EXACT, is_grey=True)
    yield OddFile("bits-1.png", encoded("PNG", "1"), differs=255.0)
    yield OddFile("bits-1-fax.tif", encoded("TIFF", "1", compression="group4"), differs=255.0)
    palette = base.quantize(64)
    yield OddFile("palette.png", encoded("PNG", "P", palette), differs=LOSSY)
    clear = encoded("PNG", "P", palette, transparency=bytes(range(64)))
    yield OddFile("palette-transparent.png", clear, differs=LOSSY)
    see_through = base.copy()
    see_through.putalpha(0)
    yield OddFile("alpha-all-clear.png", encoded("PNG", "RGBA", see_through), differs=EXACT)
    yield OddFile("alpha-grey.png", encoded("PNG", "LA"), differs=EXACT, is_grey=True)
    yield OddFile("icc-broken.jpg", encoded("JPEG", icc_profile=b"no profile"), differs=LOSSY)
    yield OddFile("icc-huge.jpg", encoded("JPEG", icc_profile=_random(4_000_000)), differs=LOSSY)
    yield OddFile("text-long.png", _with_text(b"tEXt", b"a\0" + b"x" * 2_000_000), differs=EXACT)
    yield OddFile("idat-too-long.png", raw.png(picture(), 8, raw.RGB, tail=bytes(9_000_000)))
    yield OddFile("garbage-behind.jpg", encoded("JPEG") + _random(5000), differs=LOSSY)
    yield OddFile("garbage-behind.png", encoded("PNG") + b"<?php evil(); ?>", differs=EXACT)
    yield OddFile("suffix-wrong.jpg", encoded("PNG"), differs=EXACT)
    yield OddFile("suffix-wrong.png", encoded("PPM"), differs=EXACT)
    yield OddFile("suffix-wrong.gif", encoded("JPEG2000"), differs=LOSSY)
    no_end = encoded("PNG").removesuffix(raw.chunk(b"IEND", b""))
    yield OddFile("end-missing.png", no_end, differs=EXACT)


def _turned() -> Iterator[OddFile]:
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        data = encoded("JPEG", exif=exif, quality=95)
        yield OddFile(f"turn-{turn}.jpg", data, differs=LOSSY, turn=turn)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield OddFile("turn-6.png", encoded("PNG", exif=exif), differs=EXACT, turn=6)
    yield OddFile("turn-8.tif", encoded("TIFF", tiffinfo={274: 8}), differs=EXACT, turn=8)
    grey_6 = raw.tiff(WIDTH, HEIGHT, 8, grey().tobytes(), orientation=6)
    yield OddFile("turn-6.tif", grey_6, differs=EXACT, is_grey=True, turn=6)
    yield OddFile(
        "exif-broken.jpg", encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), differs=LOSSY
    )
    yield OddFile("exif-text.jpg", encoded("JPEG", exif=b"Exif\0\0no EXIF here"), differs=LOSSY)
    unknown = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0112, 3, 1, 99, 0)
    yield OddFile("exif-turn-99.jpg", encoded("JPEG", exif=unknown), differs=LOSSY)


def _sizes() -> Iterator[OddFile]:
    for height, width in ((1, 1), (20_000, 1), (1, 20_000), (2, 3)):
        image = Image.fromarray(picture()).resize((width, height))
        name = f"size-{width}x{height}.png"
        yield OddFile(name, encoded("PNG", image=image), size_hw=(height, width))
    large = Image.fromarray(picture()).resize((4000, 3000))
    yield OddFile("size-12-megapixels.jpg", encoded("JPEG", image=large), size_hw=(3000, 4000))


def _damaged() -> Iterator[OddFile]:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for suffix, kind in (
        ("jpg", "JPEG"),
        ("png", "PNG"),
        ("webp", "WEBP"),
        ("tif", "TIFF"),
        ("bmp", "BMP"),
    ):
        whole = encoded(kind, image=image)
        for share in (0.4, 0.9):
            cut = whole[: int(share * len(whole))]
            yield OddFile(f"cut-{share}.{suffix}", cut, reason=BROKEN)
        yield OddFile(f"cut-20-bytes.{suffix}", whole[:20], reason=BROKEN)
    yield OddFile("cut.gif", encoded("GIF", image=image)[:2000], reason=BROKEN)
    yield OddFile("cut-4-bytes.jpg", b"\xff\xd8\xff\xe0", reason=HEADER)
    data = encoded("PNG", image=image)
    at = data.index(b"IDAT")
    yield OddFile("crc-wrong.png", data[: at + 40] + b"\0\0\0\0" + data[at + 44 :], reason=BROKEN)
    header = raw.png_header(WIDTH, HEIGHT)[:-4] + b"\0\0\0\0"
    yield OddFile("crc-of-header-wrong.png", raw.PNG_START + header + data[33:], reason=BROKEN)
    swapped = bytearray(encoded("JPEG"))
    swapped[2:300] = bytes(298)
    yield OddFile("header-zeroed.jpg", bytes(swapped), reason=HEADER)
    yield OddFile("no-pixels.png", raw.PNG_START + raw.png_header(0, 5) + data[33:], reason=BROKEN)
    only_header = raw.PNG_START + raw.png_header(WIDTH, HEIGHT) + raw.chunk(b"IEND", b"")
    yield OddFile("no-data.png", only_header, reason=BROKEN)
    bomb = b"a\0\0" + _deflated(20_000_000)
    yield OddFile(
        "text-bomb.png", _with_text(b"zTXt", bomb), reason="larger than the limit of 1 MB"
    )
    profile = b"icc\0\0" + _deflated(20_000_000)
    yield OddFile(
        "icc-bomb.png", _with_text(b"iCCP", profile), reason="larger than the limit of 1 MB"
    )
    floats = Image.fromarray(grey().astype(np.float32) / 255)
    for name, other in (("float32", floats), ("int32", Image.fromarray(grey().astype(np.int32)))):
        data = encoded("TIFF", other.mode, other)
        yield OddFile(f"bits-{name}.tif", data, reason="samples of 32 bits have no fixed range")


def _no_images() -> Iterator[OddFile]:
    for name, data, reason in (
        ("zero-bytes.jpg", b"", "the file is empty"),
        ("one-byte.jpg", b"\xff", NO_FORMAT),
        ("only-zeros.jpg", bytes(5000), "nothing but zero bytes"),
        ("text.png", b"this is not a photograph", "not an image but a text"),
        ("random.webp", b"\x01\x9c" + _random(400), NO_FORMAT),
        ("error-page.jpg", b"\n<!DOCTYPE html><title>403 Forbidden</title>", "a web page"),
        ("denied.jpg", b'<?xml version="1.0"?><Error><Code>AccessDenied', "an XML or SVG document"),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an XML or SVG document"),
        ("answer.jpg", b'{"error": "not found"}', "not an image but JSON"),
        ("pointer.png", b"version https://git-lfs.github.com/spec/v1\noid", "fetch the files"),
        ("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        ("film.jpg", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video"),
        ("codestream.jpg", b"\xff\x0a" + _random(60), "a JPEG XL image"),
        ("container.png", b"\0\0\0\x0cJXL \r\n\x87\n" + _random(60), "a JPEG XL image"),
        ("paper.jpg", b"%PDF-1.7\n1 0 obj", "PostScript, PDF or Photoshop"),
        ("program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, PDF"),
        ("icon.png", encoded("ICO"), "an icon"),
        ("archive.jpg", b"PK\3\4" + bytes(50), "an archive"),
        ("packed.jpg", b"\x1f\x8b\x08" + bytes(50), "an archive"),
    ):
        yield OddFile(name, data, reason=reason)


def _bombs() -> Iterator[OddFile]:
    png = raw.PNG_START + raw.png_header(30_000, 30_000) + raw.chunk(b"IDAT", _deflated(900_000))
    yield OddFile("bomb.png", png, reason=f"30000 x 30000 {LIMIT}")
    bmp = bytearray(encoded("BMP"))
    bmp[18:26] = struct.pack("<ii", 30_000, 30_000)
    yield OddFile("bomb.bmp", bytes(bmp), reason=f"30000 x 30000 {LIMIT}")
    gif = bytearray(encoded("GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield OddFile("bomb.gif", bytes(gif), reason=f"65535 x 65535 {LIMIT}")
    jpeg = bytearray(encoded("JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 30_000, 60_000)
    yield OddFile("bomb.jpg", bytes(jpeg), reason=f"60000 x 30000 {LIMIT}")
    yield OddFile(
        "bomb.tif", raw.tiff(30_000, 30_000, 8, bytes(99)), reason=f"30000 x 30000 {LIMIT}"
    )
    webp = bytearray(encoded("WEBP", lossless=True))
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = b"\xff" * 3 + bytes([webp[at + 3] | 0x0F])
    yield OddFile("bomb.webp", bytes(webp), reason=f"16384 x 16384 {LIMIT}")
    yield OddFile(
        "bomb-ppm.png", b"P6 30000 30000 255\n" + bytes(99), reason=f"30000 x 30000 {LIMIT}"
    )


def _named() -> Iterator[OddFile]:
    data = encoded("PNG")
    for name in (
        "a..b.png", "#1.png", "x#y?z=1&w.png", "100%.png", "a%2Fb.png", "[1]*.png", "{a,b}.png",
        " spaces in and around .png", "new\nline.png", "tab\t.png", "back\\slash.png", "\\lead.png",
        "quo'te\".png", "-rf.png", "$HOME;`id`.png", "a::b.png", "s3:.png", "ключ-图像-صورة.png",
        "caf\u00e9.png", "cafe\u0301.png", "\u2028.png", "\u202egnp.jpg", "\U0001f426.png",
        "Case.png", "case.png", "CASE.PNG", "sub/deep/er/x.png", "folder.png/x.png",
        "l" * 251 + ".png", "\u56fe" * 83 + ".png", "<img src=x onerror=alert(1)>.png",
    ):  # fmt: skip
        yield OddFile(name, data, differs=EXACT)
    yield OddFile(os.fsdecode(b"latin-\xe9.png"), data, differs=EXACT)
    yield OddFile("link.png", None, differs=EXACT)
    yield OddFile("link-broken.png", None, reason="there is no such file")


def _without_adobe(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def _as_ycck(jpeg: bytes) -> bytes:
    """Say in Adobe's marker that the four channels are YCCK; the colours become others."""
    at = jpeg.index(b"\xff\xee") + 15
    assert jpeg[at] == 0
    return jpeg[:at] + b"\2" + jpeg[at + 1 :]


def _twelve_bits() -> bytes:
    return raw.tiff(WIDTH, HEIGHT, 12, raw.packed_12_bits(grey().astype(np.int64) << 4))


def _with_text(kind: bytes, data: bytes) -> bytes:
    return raw.png(picture(), 8, raw.RGB, extra=raw.chunk(kind, data))


def _random(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def _deflated(size: int) -> bytes:
    return zlib.compress(bytes(size))
