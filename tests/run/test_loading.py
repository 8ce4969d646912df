from __future__ import annotations

import pytest

from ntt_ray.config import ModelsConfig
from ntt_ray.models.sam2.proposer import Sam2Proposer
from ntt_ray.models.spec import ModelSpec
from ntt_ray.run.loading import loaded_keeper, loaded_labeler
from ntt_ray.settings import MethodSettings, RefinementSettings, TileSettings
from tests.support.device_labels import coarse_images, small_bank
from tests.support.golden import GOLDEN_MODELS

MODELS = ModelSpec(ModelsConfig(**GOLDEN_MODELS))
BANK = small_bank().to_bytes()
METHOD = MethodSettings(
    points_per_side=5,
    min_predicted_iou=0.2,
    all_outputs=True,
    refinement=RefinementSettings(min_iou=0.5),
)


def _proposer(loaded) -> Sam2Proposer:
    assert isinstance(loaded.proposer, Sam2Proposer)
    return loaded.proposer


@pytest.mark.parametrize("tiles", [None, TileSettings()])
def test_the_proposer_is_asked_as_the_method_says(tiles):
    method = METHOD.model_copy(update={"tiles": tiles})
    loaders = [loaded_labeler(MODELS, BANK, method), loaded_keeper(MODELS, BANK, method, None)]
    for proposer in map(_proposer, loaders):
        assert len(proposer.points) == 25
        assert proposer._decoder.all_outputs
        assert proposer.refiner is not None
        assert proposer.refiner._min_iou == 0.5
    plain = _proposer(loaded_labeler(MODELS, BANK, MethodSettings(points_per_side=5)))
    assert plain.refiner is None
    assert not plain._decoder.all_outputs


def test_what_is_kept_was_asked_again():
    (image,) = coarse_images(1)
    ious = []
    for refinement in (None, METHOD.refinement):
        method = METHOD.model_copy(update={"refinement": refinement})
        ((view,),) = loaded_keeper(MODELS, BANK, method, None).keep([image])
        ious.append(dict(zip(view.points.tolist(), view.predicted_iou.tolist(), strict=True)))
    assert ious[0].keys() == ious[1].keys()
    higher = {point for point, iou in ious[1].items() if iou > ious[0][point]}
    assert 0 < len(higher) < len(ious[0])
    assert all(ious[1][point] == ious[0][point] for point in ious[0].keys() - higher)
