"""PNG and TIFF files written byte by byte, where Pillow would not write what a test needs."""

from __future__ import annotations

import struct
import zlib

import numpy as np

GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6  # PNG colour types
PNG_START = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG; a `crc` given is written instead of the right one."""
    found = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)


def png_header(width: int, height: int, bits: int = 8, colour: int = RGB) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def png(
    samples: np.ndarray, bits: int, colour: int, extra: bytes = b"", tail: bytes = b""
) -> bytes:
    """A PNG of samples ``(h, w, channels)``; `extra` chunks, and bytes behind the last row."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows) + tail
    body = chunk(b"IDAT", zlib.compress(raw))
    return PNG_START + png_header(width, height, bits, colour) + extra + body + chunk(b"IEND", b"")


def packed_12_bits(samples: np.ndarray) -> bytes:
    """Samples ``(h, w)`` below 4096 as rows of 12 bits, most significant first; `w` is even."""
    first, second = samples[:, ::2].astype(np.int64), samples[:, 1::2].astype(np.int64)
    packed = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return np.stack(packed, axis=-1).astype(np.uint8).tobytes()


def tiff(width: int, height: int, bits: int, strip: bytes, **more: int) -> bytes:
    """A little-endian grey TIFF of one strip; `more` may set the tag `orientation`."""
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 1,
        277: 1,
        278: height,
        279: len(strip),
    }
    if "orientation" in more:
        tags[274] = more["orientation"]
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4 + strip


def tiff_of_bands(samples: np.ndarray, planar: bool = False) -> bytes:
    """A little-endian TIFF of bands ``(bands, h, w)``, interleaved or one after the other."""
    bands, height, width = samples.shape
    planes = (
        [band.tobytes() for band in samples] if planar else [np.moveaxis(samples, 0, 2).tobytes()]
    )
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    tags: dict[int, list[int]] = {
        256: [width],
        257: [height],
        258: [8 * samples.itemsize] * bands,
        259: [1],
        262: [1 if bands != 3 else 2],
        277: [bands],
        278: [height],
        279: [len(plane) for plane in planes],
        284: [2 if planar else 1],
        339: [kind] * bands,
        273: [0] * len(planes),
    }
    behind = 8 + 2 + 12 * len(tags) + 4  # where long values stand, and then the planes
    start = behind + sum(4 * len(v) for v in tags.values() if len(v) > 1)
    tags[273] = [start + sum(map(len, planes[:n])) for n in range(len(planes))]
    entries, values = b"", b""
    for tag in sorted(tags):
        packed = struct.pack(f"<{len(tags[tag])}I", *tags[tag])
        where = packed if len(packed) == 4 else struct.pack("<I", behind + len(values))
        values += b"" if len(packed) == 4 else packed
        entries += struct.pack("<HHI", tag, 4, len(tags[tag])) + where
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + b"\0" * 4 + values + b"".join(planes)
