import pytest
import torch
import torch.nn.functional as F

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.errors import ReferencesError
from ntt_ray.masks import encode_mask
from ntt_ray.method.scoring import similarities
from ntt_ray.records import ClassLabel, ImageEntry, Reference, ReferenceSet
from ntt_ray.references.negatives import negatives_of, used_classes
from tests.support.demo_features import family_means

CLASSES = (ClassLabel(3, "nut"), ClassLabel(7, "bolt"))


def _set(*labels: tuple[int, str]) -> ReferenceSet:
    mask = torch.ones(4, 4, dtype=torch.bool).numpy()
    entry = ImageEntry(1, "a.png", "/a.png")
    references = tuple(
        Reference(10 + i, i, entry, (4, 4), (0.0, 0.0, 4.0, 4.0), encode_mask(mask))
        for i, _ in labels
    )
    return ReferenceSet(tuple(ClassLabel(i, name) for i, name in labels), references)


def test_classes_are_those_of_the_references_by_name():
    found = negatives_of(_set((1, "bolt"), (2, "nut")), CLASSES)
    assert found.classes == CLASSES
    assert [(r.annotation_id, r.category_id) for r in found.references] == [(11, 7), (12, 3)]


def test_other_classes_are_refused_with_the_nearest_name():
    with pytest.raises(
        ReferencesError, match=r"'bolts' is not among .* did you mean 'bolt'\?\. Name"
    ):
        negatives_of(_set((1, "bolts"), (2, "nut")), CLASSES)


def _annotation(identity, category_id, **changes):
    box = {"image_id": 1, "bbox": [0, 0, 4, 4]}
    return {"id": identity, "category_id": category_id, **box, **changes}


USED = {
    "crowds do not count": (
        {
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
            "annotations": [_annotation(1, 1), _annotation(2, 2, iscrowd=1)],
        },
        ("a",),
    ),
    "not a COCO file": ([], None),
    "no name": ({"categories": [{"id": 1}], "annotations": [_annotation(1, 1)]}, None),
    "no box": (
        {"categories": [{"id": 1, "name": "a"}], "annotations": [_annotation(1, 1, bbox=5)]},
        None,
    ),
}


@pytest.mark.parametrize(("coco", "expected"), USED.values(), ids=USED.keys())
def test_used_classes(coco, expected):
    assert used_classes(coco) == expected


def _similarity(bank: MemoryBank, means) -> torch.Tensor:
    features = F.normalize(torch.stack([m for m, _ in means]), dim=1)
    return similarities(features, *bank.targets())


@pytest.mark.slow
def test_negatives_lower_what_looks_like_the_class_and_little_else():
    """Drawn flashes are taken for flowers where the bank has no class for them."""
    means = family_means()
    labels = (ClassLabel(1, "flower"), ClassLabel(2, "pine"))
    shots = [means["flower"][:5], means["pine"][:5]]
    plain = MemoryBank.from_means(labels, shots, encoder={}, reference_digest="")
    wary = MemoryBank.from_means(
        labels, shots, encoder={}, reference_digest="", negatives=[means["flash"][:5], []]
    )
    unseen = {name: means[name][5:] for name in ("flash", "flower", "pine")}
    before = {name: _similarity(plain, own).mean(dim=0) for name, own in unseen.items()}
    after = {name: _similarity(wary, own).mean(dim=0) for name, own in unseen.items()}
    assert after["flash"][0] < 0.85 * before["flash"][0]
    assert after["flower"][0] > 0.98 * before["flower"][0]
    assert float(after["pine"][1]) == pytest.approx(float(before["pine"][1]), abs=0.01)
