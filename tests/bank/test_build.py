import numpy as np
import pytest
import torch

from ntt_ray.bank.build import Background, build_bank, crop_tensors, reference_mean
from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import encode_mask
from ntt_ray.records import ClassLabel, ImageEntry, Reference, ReferenceSet
from ntt_ray.references.crops import ReferenceCrop
from tests.support.fakes import FakeEncoder


def _crop(mask: np.ndarray, identity=1, category=4, colour=(255, 0, 0)) -> ReferenceCrop:
    entry = ImageEntry(1, "a.png", "/a.png")
    box = (0.0, 0.0, float(mask.shape[1]), float(mask.shape[0]))
    item = Reference(identity, category, entry, mask.shape, box, encode_mask(mask))
    image = np.zeros((*mask.shape, 3), dtype=np.uint8)
    image[mask] = colour
    return ReferenceCrop(item, image, mask)


def test_crop_tensors_keep_overshoot_and_soft_edges():
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5:15] = True
    image, soft = crop_tensors(_crop(mask), 50)
    assert image.shape == (3, 50, 50)
    assert image.max() > 1  # bicubic overshoot is not clamped (METHOD 7)
    assert ((soft > 0) & (soft < 1)).sum() > 0


def test_the_mean_is_taken_inside_the_mask():
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, 16:] = True
    mean, weight = reference_mean(_crop(mask), FakeEncoder())
    assert weight == 8.0  # half of 16 patches
    torch.testing.assert_close(mean[:3], torch.tensor([1.0, 0.0, 0.0]), atol=0.02, rtol=0)


def test_a_speck_between_the_samples_still_counts():
    mask = np.zeros((32, 32), dtype=bool)
    mask[13:15, 13:15] = True
    mean, weight = reference_mean(_crop(mask), FakeEncoder())
    assert 0 < weight < 1
    assert mean.isfinite().all()


def test_a_mask_that_vanishes_is_an_error_that_names_it():
    crop = _crop(np.ones((32, 32), dtype=bool), identity=77)
    empty = ReferenceCrop(crop.reference, crop.image_rgb, np.zeros((32, 32), dtype=bool))
    with pytest.raises(ReferencesError, match=r"annotation 77 in a\.png"):
        reference_mean(empty, FakeEncoder())


def test_classes_may_differ_in_shots_and_building_again_gives_the_same_bytes():
    mask = np.ones((32, 32), dtype=bool)
    crops = [_crop(mask, 1, 2, (0, 255, 0)), _crop(mask, 2, 4), _crop(mask, 3, 4)]
    references = ReferenceSet(
        (ClassLabel(2, "green"), ClassLabel(4, "red")), tuple(c.reference for c in crops)
    )
    banks = [
        build_bank(references, crops, FakeEncoder(), encoder_record={}, reference_digest="")
        for _ in range(2)
    ]
    assert banks[0].shots.tolist() == [1, 2]
    assert banks[0].to_bytes() == banks[1].to_bytes()
    assert banks[0].prototypes().argmax(dim=1).tolist() == [1, 0]


def test_patches_are_kept_where_they_are_asked_for(monkeypatch):
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, 16:] = True
    crops = [_crop(mask, 1, 4), _crop(mask, 2, 2, (0, 255, 0)), _crop(mask, 3, 4, (0, 0, 255))]
    references = ReferenceSet(
        (ClassLabel(2, "green"), ClassLabel(4, "blue or red")), tuple(c.reference for c in crops)
    )

    def build(**options):
        how = {"encoder_record": {}, "reference_digest": ""} | options
        return build_bank(references, crops, FakeEncoder(), **how)

    bank, plain = build(keep_patches=True), build()
    assert plain.patches is None
    assert torch.equal(bank.features, plain.features)
    assert bank.patches.features.shape == (3, 16, 4)
    assert bank.patches.inside.tolist() == [[False, False, True, True] * 4] * 3
    # class by class: green, then red and blue in the order of the crops
    assert bank.patches.features[:, 3].argmax(dim=1).tolist() == [1, 0, 2]
    seen = []
    monkeypatch.setattr("ntt_ray.bank.patches.MAX_BYTES", 3 * 16 * 4 * 2 - 1)
    with pytest.raises(InputError, match=r"3 references take .*: 2 references of all classes"):
        build(keep_patches=True, on_features=lambda *found: seen.append(found))
    assert not seen  # known after the first one


def test_backgrounds_come_before_other_negatives():
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, 16:] = True
    green, red = _crop(mask, 1, 2, (0, 255, 0)), _crop(mask, 2, 4)
    references = ReferenceSet(
        (ClassLabel(2, "green"), ClassLabel(4, "red")), (green.reference, red.reference)
    )
    background = Background(4, np.full((32, 32, 3), 51, dtype=np.uint8), mask)
    bank = build_bank(
        references,
        [green, red],
        FakeEncoder(),
        encoder_record={},
        reference_digest="",
        negative_crops=[green, _crop(mask, 3, 4, (0, 0, 255))],
        backgrounds=[background],
        per_background=2,
    )
    assert bank.negatives is not None
    assert bank.negatives.shots.tolist() == [1, 3]
    assert bank.negatives.weights[1].tolist() == [8.0, 1.0, 8.0]
    torch.testing.assert_close(bank.negatives.features[1, 0], torch.tensor([0.2, 0.2, 0.2, 0.1]))
    assert not bank.negatives.features[1, 1].any()
    assert bank.negatives.features[1, 2, 2] > 0.9
