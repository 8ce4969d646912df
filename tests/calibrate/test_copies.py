"""Near-copies: what is done to a picture and still found, and that other pictures stay apart."""

import io

import numpy as np
import pytest
from PIL import Image

from ntt_ray.calibrate.copies import grouped, signature_of

pytestmark = pytest.mark.slow


def _scene(seed: int, objects=6) -> Image.Image:
    """A textured ground with bright things on it, all of them of another place with each seed."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 140, (24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(ground).resize((320, 240), Image.Resampling.BICUBIC)
    pixels = np.array(picture)
    for y, x in rng.integers(0, 200, (objects, 2)):
        pixels[y : y + 40, x : x + 40] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def _bytes(picture: Image.Image, kind="PNG", **options) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


def _signature(data: bytes):
    with Image.open(io.BytesIO(data)) as picture:
        return signature_of(data, (picture.height, picture.width), "auto")


COPIES = {
    "a JPEG": lambda p: _bytes(p, "JPEG", quality=75),
    "a poor JPEG": lambda p: _bytes(p, "JPEG", quality=20),
    "WebP": lambda p: _bytes(p, "WEBP", quality=50),
    "half the size": lambda p: _bytes(p.resize((160, 120), Image.Resampling.BOX)),
    "half, by the nearest pixel": lambda p: _bytes(p.resize((160, 120), Image.Resampling.NEAREST)),
    "a quarter, and a poor JPEG": lambda p: _bytes(p.resize((80, 60)), "JPEG", quality=40),
    "twice the size, and a JPEG": lambda p: _bytes(p.resize((640, 480)), "JPEG", quality=60),
    "another shape": lambda p: _bytes(p.resize((200, 200), Image.Resampling.LANCZOS)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_found(copied):
    for seed in range(10):
        scene = _scene(seed)
        signatures = [_signature(_bytes(_scene(99))), _signature(_bytes(scene))]
        assert grouped([*signatures, _signature(copied(scene))]) == [0, 1, 1]


def test_other_pictures_stay_apart():
    """Of one camera, too: the same ground, and one small thing moved by its own width."""
    signatures = [_signature(_bytes(_scene(seed))) for seed in range(100)]
    ground = np.array(_scene(0, objects=0))
    for x in range(0, 320, 12):
        moved = ground.copy()
        moved[100:112, x : x + 12] = 220
        signatures.append(_signature(_bytes(Image.fromarray(moved))))
    flat = np.full((240, 320, 3), 30, dtype=np.uint8)
    for x in range(0, 320, 40):  # nearly black, as of a microscope
        dark = flat.copy()
        dark[100:130, x : x + 30] = 36
        signatures.append(_signature(_bytes(Image.fromarray(dark))))
    assert grouped(signatures) == list(range(len(signatures)))


def test_copies_of_copies_are_one_group_and_what_cannot_be_read_is_alone():
    cells = np.random.default_rng(0).uniform(50, 200, 256).astype(np.float32)
    steps = [None, cells, cells + 14, None, cells + 7]  # the ends are too far apart by themselves
    assert grouped(steps) == [0, 1, 1, 3, 1]
    assert grouped(steps[:4]) == [0, 1, 2, 3]
    assert grouped([]) == []
    assert signature_of(b"no picture", (4, 4), "auto") is None
