"""Addresses of parts of files: read by one request, harmless where they lead nowhere."""

import gzip
import zlib

import pytest

from ntt_ray.storage import Storage
from ntt_ray.storage.parts import Part, inflated, part_of

DATA = bytes(range(256)) * 8


def _deflated(data: bytes) -> bytes:
    pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return pack.compress(data) + pack.flush()


@pytest.mark.parametrize("uri", ["s3://bucket/a.tar", "/data/ä b.tar", "range://0-4/s3://b/a"])
def test_an_address_names_its_part(uri):
    part = Part("range", 512, 700, uri)
    assert part_of(part.address()) == part


@pytest.mark.parametrize(
    "uri", ["s3://b/range://1-2/x", "/a/range:1-2", "range://1-/x", "rang://1-2/x"]
)
def test_a_file_is_no_part(uri):
    assert part_of(uri) is None


@pytest.mark.parametrize("place", ["local", "memory"])
def test_parts_are_read_and_unpacked(tmp_path, place):
    where = str(tmp_path / "a.bin") if place == "local" else "memory://parts/a.bin"
    packed, store = _deflated(DATA), Storage()
    store.publish_bytes(where, DATA + packed)
    store.publish_bytes(where + ".gz", gzip.compress(DATA))
    ranged = Part("range", 3, 9, where).address()
    assert store.read_bytes(ranged) == DATA[3:9]
    assert store.size(ranged) == 6
    assert store.read_bytes(Part("range", 5, 5, where).address()) == b""
    end = len(DATA) + len(packed)
    assert store.read_bytes(Part("deflate", len(DATA), end, where).address()) == DATA
    assert store.read_bytes(Part("gunzip", 300, 700, where + ".gz").address()) == DATA[300:700]


def test_damage_gives_what_is_before_it():
    store = Storage()
    store.publish_bytes("memory://parts/cut.gz", gzip.compress(DATA)[:-20])
    cut = store.read_bytes(Part("gunzip", 0, len(DATA), "memory://parts/cut.gz").address())
    assert DATA.startswith(cut)
    assert DATA.startswith(inflated(_deflated(DATA)[:-9]))
    assert inflated(b"\xff\xff") == b""
