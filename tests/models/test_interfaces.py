"""What a proposer must be: masks with scores, and no grid of points."""

import numpy as np
import pytest
import torch

from ntt_ray.masks import decode_rle
from ntt_ray.method.tiles import views_of
from ntt_ray.method.tiling import make_labeler
from ntt_ray.models.interfaces import PromptableProposer, Proposals
from ntt_ray.models.sam2.proposer import Sam2Proposer
from ntt_ray.settings import MethodSettings, TileSettings
from tests.support.colours import ColourProposer
from tests.support.fakes import BANK, CLASSES, FakeEncoder
from tests.support.golden import GOLDEN

WEIGHTS = GOLDEN / "weights"


@pytest.mark.parametrize("tiles", [None, TileSettings()], ids=["whole image", "tiles"])
@pytest.mark.parametrize("strips", [False, True], ids=["run lengths", "strips"])
def test_a_proposer_without_a_grid_labels(tiles, strips, monkeypatch):
    monkeypatch.setattr("ntt_ray.method.labeler.Labeler.strips", strips)
    image = np.zeros((96, 128, 3), dtype=np.uint8)
    image[20:60, 10:50, 0] = image[40:80, 70:110, 1] = 255
    proposer = ColourProposer()
    labeler = make_labeler(FakeEncoder(), proposer, BANK, MethodSettings(tiles=tiles))
    (found,) = labeler.label([image])
    best = {d.category_id: d for d in found if d.score > 0.5}
    assert set(best) == {label.category_id for label in CLASSES}
    for channel, label in enumerate(CLASSES):
        mask, coloured = decode_rle(best[label.category_id].rle), image[:, :, channel] > 0
        assert (mask & coloured).sum() > 0.9 * (mask | coloured).sum()
    views = 1 if tiles is None else len(views_of((96, 128), proposer.image_size, tiles.overlap))
    assert proposer.batches == [1] * views


def test_only_a_proposer_with_points_can_be_asked_at_points():
    sam2 = Sam2Proposer.load(
        WEIGHTS / "sam2_nano.pt",
        name="nano",
        image_size=256,
        points_per_side=4,
        config=WEIGHTS / "sam2_nano.yaml",
    )
    assert isinstance(sam2, PromptableProposer)
    assert not isinstance(ColourProposer(), PromptableProposer)


def test_proposals_check_themselves():
    with pytest.raises(ValueError, match="one value per mask"):
        Proposals(torch.zeros(2, 4, 4), torch.zeros(3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="logits"):
        Proposals(torch.zeros(4, 4), torch.zeros(4), torch.zeros(4, dtype=torch.int64))
