from dataclasses import replace

import numpy as np
import pytest

from ntt_ray.images import resize_square
from ntt_ray.masks import rle_area
from ntt_ray.method.pooling import mean_patch_feature
from ntt_ray.method.tiling import make_labeler, view_squares
from ntt_ray.models.inputs import to_input
from ntt_ray.proposals.keeping import Keeper, KeptLabeler
from ntt_ray.proposals.matching import Matcher
from ntt_ray.settings import (
    ComponentSettings,
    DiffusionSettings,
    MethodSettings,
    PrototypeSettings,
    TileSettings,
)
from tests.support.many_proposals import RandomEncoder, RandomProposer, bank_of

OPTIONS = {
    "paper": {},
    "few": {"max_detections": 3, "nms_iou": 0.8},
    "diffusion": {"diffusion": DiffusionSettings()},
    "normalised diffusion": {"diffusion": DiffusionSettings(form="normalised", power=0.7)},
    "prototypes": {"prototypes": PrototypeSettings(per_class=2)},
    "averaged prototypes": {"prototypes": PrototypeSettings(per_class=3, temperature=0.1)},
    "no NMS": {"nms_iou": None},
    "parts and power": {"largest_component": ComponentSettings(), "iou_power": 0.25},
}


def images(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        np.kron(rng.integers(0, 256, (h // 8, w // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for h, w in sizes
    ]


def kept_labeler(bank, settings, max_iou=None, *, fixed=False, strips=None):
    keeper = Keeper(RandomEncoder(), RandomProposer(), settings, max_iou, fixed=fixed)
    keeper.strips = strips
    return KeptLabeler(keeper, Matcher(bank, settings, fixed=fixed))


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_all_proposals_as_the_models_give_them_are_the_labels_without_keeping(
    options, tiled, negatives
):
    """Unthinned, in float32: the same numbers to the last bit, and the same masks."""
    settings = MethodSettings(**options, tiles=TileSettings() if tiled else None)
    bank, pictures = bank_of(0, 1, 2, negatives=negatives), images((48, 72), (120, 160))
    expected = make_labeler(RandomEncoder(), RandomProposer(), bank, settings).label(pictures)
    assert sum(map(len, expected)) > 10 or settings.max_detections == 3
    found = kept_labeler(bank, settings).label(pictures)
    if tiled:  # cut masks are left out before the product, whose last bits its size decides
        near = [replace(d, score=pytest.approx(d.score, abs=1e-6)) for own in expected for d in own]
        assert [d for own in found for d in own] == near
    else:
        assert found == expected


def test_masks_encoded_on_a_device_are_the_same(monkeypatch):
    settings, bank, pictures = MethodSettings(), bank_of(0, 1, 2), images((48, 72), (120, 160))
    expected = kept_labeler(bank, settings, 0.9, fixed=True).label(pictures)
    assert kept_labeler(bank, settings, 0.9, fixed=True, strips=True).label(pictures) == expected


def kept(max_iou=None, size=(48, 72), **settings):
    keeper = Keeper(RandomEncoder(), RandomProposer(), MethodSettings(**settings), max_iou)
    (found,) = keeper.begin(images((64, 64)), [size])
    (view,) = found.result()
    return view


def test_what_is_kept():
    """No mask that is empty at low resolution, but those that vanish at the image's size stay."""
    view = kept(size=(6, 9), min_predicted_iou=0.0)
    assert view.features.dtype == np.int16
    lengths = np.linalg.norm(view.features.astype(np.float64) / 2**15, axis=1)
    assert lengths == pytest.approx(np.ones(len(view)), abs=1e-3)
    assert 2 not in view.points
    assert 3 in view.points
    assert view.areas[view.points.tolist().index(3)] == 0
    assert (np.diff(view.points) > 0).all()
    assert [rle_area(rle) for rle in view.rles()] == view.areas.tolist()
    assert len(kept(min_predicted_iou=0.5)) < len(view)


@pytest.mark.parametrize("tiled", [False, True])
def test_every_view_has_the_mean_of_its_features(tiled):
    settings = MethodSettings(tiles=TileSettings() if tiled else None)
    keeper = Keeper(RandomEncoder(), RandomProposer(), settings, None)
    (picture,) = images((120, 160))
    side = keeper.proposer.image_size
    given = picture if tiled else resize_square(picture, side)
    (found,) = keeper.begin([given], [(120, 160)])
    views = found.result()
    assert len(views) > 1 or not tiled
    for view in views:
        (square,) = view_squares(picture, [view.view], side, 1)
        mean = mean_patch_feature(RandomEncoder().encode(to_input([square]))[0])
        assert np.abs(view.mean_feature - mean.numpy() * 2**15).max() <= 1


def test_single_images_have_embeddings_where_they_are_asked_for():
    bank, settings = bank_of(0, 1, 2), MethodSettings()
    keeper = Keeper(RandomEncoder(), RandomProposer(), settings, None)
    pictures = images((48, 72), (120, 160))
    embedded = KeptLabeler(keeper, Matcher(bank, settings, embeddings=True))
    for found, embedding in embedded.label_and_embed(pictures):
        assert found
        for vector in (embedding, *(detection.embedding for detection in found)):
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    plain = KeptLabeler(keeper, Matcher(bank, settings))
    assert [embedding for _, embedding in plain.label_and_embed(pictures)] == [None, None]
    assert plain.label(pictures) == embedded.label(pictures)


def test_raising_the_threshold_before_or_after_thinning_is_the_same():
    low, high = kept(0.7, min_predicted_iou=0.2), kept(0.7, min_predicted_iou=0.6)
    assert len(kept(None, min_predicted_iou=0.2)) > len(low) > len(high) > 0
    above = low.select(np.flatnonzero(low.predicted_iou > np.float32(0.6)))
    assert (above.points == high.points).all()
    assert above.counts == high.counts


def test_places_without_an_image_give_nothing():
    keeper = Keeper(RandomEncoder(), RandomProposer(), MethodSettings(), None)
    alone, none, other = (
        future.result()
        for future in keeper.begin(images(*[(64, 64)] * 4), [(48, 72), None, (9, 9)])
    )
    assert none == ()
    assert len(alone) == len(other) == 1
