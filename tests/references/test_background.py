"""What lies around references: what counts as of the class, and what becomes of the rest."""

import numpy as np
import pytest
import torch

from ntt_ray.bank.build import Background, background_means
from ntt_ray.errors import ReferencesError
from ntt_ray.masks import encode_mask
from ntt_ray.references.background import images_of, surroundings_digest, surroundings_of
from ntt_ray.references.dataset import parse_references
from tests.support.fakes import FakeEncoder


def _square(left, top, side=8):
    right, bottom = left + side, top + side
    return [[left, top, right, top, right, bottom, left, bottom]]


def _annotation(identity, image_id, category_id, left, top=0, **other):
    box = {"bbox": [left, top, 8, 8], "segmentation": _square(left, top), "iscrowd": 0}
    return {"id": identity, "image_id": image_id, "category_id": category_id, **box, **other}


def _coco(*annotations, categories=(1,)):
    names = {1: "nut", 2: "bolt", 3: "other"}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 32, "height": 16} for i in (1, 2, 3)
        ],
        "categories": [{"id": i, "name": names[i]} for i in categories],
        "annotations": list(annotations),
    }


def _found(coco, **choice):
    references = parse_references(coco, image_root="/x", **choice)
    return references, surroundings_of(coco, references)


def test_all_of_the_class_is_taken_references_or_not_and_crowds_too():
    crowd = encode_mask(np.eye(16, 32, dtype=bool))
    coco = _coco(
        _annotation(1, 2, 1, 0),
        _annotation(2, 1, 1, 0),
        _annotation(3, 2, 1, 10),
        _annotation(4, 2, 1, 20, 4, segmentation=crowd, iscrowd=1),
        _annotation(5, 2, 2, 24),  # of another class
        _annotation(6, 3, 2, 0),
        categories=(1, 2),
    )
    references, found = _found(coco)
    assert [(s.category_id, s.image.image_id) for s in found] == [(1, 2), (1, 1), (2, 2), (2, 3)]
    assert images_of(references, 1) == [found[0].image, found[1].image]
    taken = np.eye(16, 32, dtype=bool)
    taken[:8, :8] = taken[:8, 10:18] = True
    assert np.array_equal(found[0].taken(), taken)
    assert found[2].taken().sum() == 64

    # the same where few become references
    _, drawn = _found(coco, shots=1, profile="plain")
    assert len(drawn) == 2
    assert all(item in found for item in drawn)


def test_where_there_is_a_box_only_it_counts_as_all_of_the_object():
    coco = _coco(_annotation(1, 1, 1, 0))
    references = parse_references(coco, image_root="/x")
    for n, segmentation in enumerate(([], None), start=1):
        coco["annotations"].append(_annotation(1 + n, 1, 1, 10 * n, segmentation=segmentation))
    (found,) = surroundings_of(coco, references)
    assert found.taken().sum() == 3 * 64


def test_of_classes_that_are_not_wanted_nothing_matters():
    coco = _coco(_annotation(1, 1, 1, 0), _annotation(2, [], 3, 0), categories=(1, 3))
    _, (found,) = _found(coco, classes=["nut"])
    assert found.taken().sum() == 64


def test_masks_that_are_none_are_all_named():
    bad = [_annotation(n, 1, 1, 8, iscrowd=1, segmentation=[[1, 2]]) for n in (7, 8)]
    with pytest.raises(ReferencesError, match=r"(?s)annotation 7: .*annotation 8: "):
        _found(_coco(_annotation(1, 1, 1, 0), *bad))


def test_the_digest_is_of_what_is_annotated():
    one = _coco(_annotation(1, 1, 1, 0))
    more = _coco(_annotation(1, 1, 1, 0), _annotation(2, 1, 1, 10, iscrowd=1))
    digests = [surroundings_digest(_found(coco)[1]) for coco in (one, one, more)]
    assert digests[0] == digests[1] != digests[2]


def _background(taken) -> Background:
    """Red to the left, then green and blue: 2, 1 and 1 of the 4 columns of patches."""
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, :16, 0] = image[:, 16:24, 1] = image[:, 24:, 2] = 255
    return Background(1, image, taken)


def _means(taken, count):
    means = background_means(_background(taken), FakeEncoder(), count)
    return [([round(value, 3) for value in mean.tolist()], weight) for mean, weight in means]


RED, GREEN, BLUE = [1.0, 0.0, 0.0, 0.1], [0.0, 1.0, 0.0, 0.1], [0.0, 0.0, 1.0, 0.1]
NOTHING = [0.0, 0.0, 0.0, 0.0]


def test_what_no_object_touches_is_averaged_by_kind():
    taken = np.zeros((64, 64), dtype=bool)  # at the image's own size
    taken[:, :33] = True  # a pixel of the green column
    assert _means(taken, 1) == [(BLUE, 4.0)]
    taken[:, 32] = False
    assert sorted(_means(taken, 2)) == [(BLUE, 4.0), (GREEN, 4.0)]
    taken[:] = False
    assert sorted(_means(taken, 3)) == [(BLUE, 4.0), (GREEN, 4.0), (RED, 8.0)]


def test_always_as_many_rows_as_asked_for():
    taken = np.zeros((64, 64), dtype=bool)
    taken[:, :48] = True
    assert _means(taken, 3) == [(BLUE, 4.0), (NOTHING, 1.0), (NOTHING, 1.0)]
    assert _means(np.ones((64, 64), dtype=bool), 2) == [(NOTHING, 1.0)] * 2


def test_equals_the_loops():
    """The mean of all patches without a taken pixel, on a grid that does not fit the mask."""
    generator = torch.Generator().manual_seed(3)
    taken = (torch.rand(37, 29, generator=generator) > 0.985).numpy()
    image = (torch.rand(32, 32, 3, generator=generator) * 255).byte().numpy()
    ((mean, weight),) = background_means(Background(1, image, taken), FakeEncoder(), 1)
    features = FakeEncoder().encode(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
    free = []
    for row in range(4):
        for column in range(4):
            top, bottom = row * 37 // 4, -(-(row + 1) * 37 // 4)
            left, right = column * 29 // 4, -(-(column + 1) * 29 // 4)
            if not taken[top:bottom, left:right].any():
                free.append(features[row, column])
    assert 0 < len(free) < 16
    assert weight == len(free)
    torch.testing.assert_close(mean, torch.stack(free).mean(dim=0))
