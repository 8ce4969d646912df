"""The same images loose and packed: the same order, the same bytes, the same detections."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ntt_ray.method.labeler import Labeler
from ntt_ray.run.fetch import fetch_images
from ntt_ray.run.unit import UnitLabeler
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.schema import entries_of
from ntt_ray.sources.stretches import Stretches
from ntt_ray.storage import Storage
from tests.support.fakes import BANK, FakeEncoder, FakeProposer, make_proposals
from tests.support.packed import FORMS

COUNT = 12
STORE = Storage()


def _images() -> dict[str, bytes]:
    """Red and green in turn, each of its own size and shade, and one that is no image."""
    images = {}
    for number in range(COUNT):
        values = np.zeros((30 + number, 40, 3), np.uint8)
        values[..., number % 2] = 120 + 10 * number
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, "PNG")
        images[f"day {number % 3}/{number:04d}.png"] = stream.getvalue()
    images["day 1/0001.png"] = b"text"
    return dict(sorted(images.items()))


def _labelled(images: str, output: str) -> tuple[list[bytes | None], list[tuple]]:
    """What was read, and what came of it but for names."""
    entries = entries_of(list_images(images, None, STORE))
    read = Stretches([entry.uri for entry in entries], STORE.read_bytes, STORE.read_cells)
    fetched = fetch_images(entries, read, 20.0)
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 4:20, 4:20] = masks[1, 12:28, 16:30] = True
    labeler = Labeler(FakeEncoder(), FakeProposer(make_proposals(masks, [0.9, 0.8])), BANK)
    rows = UnitLabeler(labeler, output, "run", STORE).label(0, fetched).rows
    found = [(r.status, r.error, r.height, r.width, r.detections) for r in rows]
    return [image.data for image in fetched], found


@pytest.mark.parametrize("form", list(FORMS)[1:])
def test_every_form_gives_the_detections_of_loose_files(tmp_path, form):
    images = _images()
    data, found = _labelled(FORMS["loose files"](images, tmp_path), str(tmp_path / "out"))
    assert data == list(images.values())
    assert [status for status, *_ in found].count("ok") == COUNT - 1
    assert len({category.category_id for _, _, _, _, own in found for category in own}) == 2
    packed = FORMS[form](images, tmp_path / form)
    assert _labelled(packed, str(tmp_path / "packed")) == (data, found)
