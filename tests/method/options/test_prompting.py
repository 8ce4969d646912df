"""Points chosen by what an image shows, and what that saves."""

import numpy as np
import pytest
import torch

from ntt_ray.errors import ConfigError
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.options.prompting import promising_points
from ntt_ray.models.sam2.proposer import point_grid
from ntt_ray.records import PromptWork
from ntt_ray.settings import MethodSettings, PromptSettings
from tests.support.colours import ColourProposer
from tests.support.fakes import BANK, FakeEncoder, FakeProposer, make_proposals


def _plain(similarity, points, image_size, threshold) -> list[int]:
    height, width, classes = similarity.shape
    found = []
    for n, (x, y) in enumerate(points.tolist()):
        row = min(height - 1, int(y / image_size * height))
        column = min(width - 1, int(x / image_size * width))
        best = -1.0
        for r in range(max(0, row - 1), min(height, row + 2)):
            for c in range(max(0, column - 1), min(width, column + 2)):
                best = max([best, *(float(similarity[r, c, k]) for k in range(classes))])
        if best >= threshold:
            found.append(n)
    return found


@pytest.mark.parametrize("grid_hw", [(1, 1), (4, 4), (20, 20), (5, 9)], ids=str)
@pytest.mark.parametrize("threshold", [0.0, 0.9, 0.99, 2.0])
def test_equals_the_loops(grid_hw, threshold):
    random = torch.Generator().manual_seed(1)
    similarity = torch.rand(*grid_hw, 2, generator=random)
    points = point_grid(64, 9)
    found = promising_points(similarity, points, 64, threshold).tolist()
    assert found == _plain(similarity, points, 64, threshold)
    if threshold in (0.0, 2.0):
        assert len(found) == (81 if threshold == 0.0 else 0)


class Grid(FakeProposer):
    """A proposer with one mask for each point of a 4 x 4 grid; notes what it is asked."""

    points = point_grid(32, 4)

    def __init__(self) -> None:
        masks = torch.zeros(16, 32, 32, dtype=torch.bool)
        for n, (x, y) in enumerate(self.points.long().tolist()):
            masks[n, max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = True
        super().__init__(make_proposals(masks, [0.9] * 16))
        self.asked: list[tuple[int, list[int] | None]] = []

    def propose(self, images, min_predicted_iou, wanted=None):
        self.asked.append((len(images), None))
        return super().propose(images, min_predicted_iou, wanted)

    def propose_at(self, image, min_predicted_iou, points):
        self.asked.append((1, points.tolist()))
        return super().propose(image[None], min_predicted_iou)[0].select(points)


def _corner(channel: int | None) -> np.ndarray:
    """Black but for a corner of one colour, upper left."""
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    if channel is not None:
        image[:8, :8, channel] = 255
    return image


IMAGES = [_corner(0), _corner(None), _corner(2), _corner(1)]


def _label(prompts: PromptSettings | None):
    proposer = Grid()
    labeler = Labeler(FakeEncoder(), proposer, BANK, MethodSettings(prompts=prompts))
    return labeler.label(IMAGES), proposer.asked, labeler.take_work(), labeler


def test_points_are_asked_where_the_image_resembles_a_class():
    found, asked, work, labeler = _label(PromptSettings(min_similarity=0.9))
    near = [0, 1, 4, 5]  # of the coloured patch and of its neighbours
    assert asked == [(1, near), (1, []), (1, []), (1, near)]
    assert [bool(own) for own in found] == [True, False, False, True]
    assert work == PromptWork(views=4, views_skipped=2, points=64, points_asked=8)
    assert labeler.take_work() == PromptWork()


def test_patches_are_compared_one_by_one():
    """A dark band of one colour: what lies beside a patch, and how bright it is, do not matter."""
    band = np.zeros((32, 32, 3), dtype=np.uint8)
    band[:8, :, 0] = 77
    proposer = Grid()
    prompts = PromptSettings(min_similarity=0.9)
    Labeler(FakeEncoder(), proposer, BANK, MethodSettings(prompts=prompts)).label([band])
    near = [n for n, (_, y) in enumerate(Grid.points.tolist()) if y < 16]
    assert proposer.asked == [(1, near)]


def test_what_is_found_there_is_what_asking_everywhere_finds():
    everywhere, asked, work, _ = _label(None)
    assert asked == [(4, None)]
    assert work == PromptWork()
    found, *_ = _label(PromptSettings(min_similarity=0.9))
    clear = [d for d in everywhere[0] if d.score > 0.9]
    assert [d for d in found[0] if d.score > 0.9] == clear
    assert clear


def test_a_proposer_that_cannot_be_asked_at_points_is_refused():
    with pytest.raises(ConfigError, match=r"method\.prompts: ColourProposer .* take another"):
        Labeler(FakeEncoder(), ColourProposer(), BANK, MethodSettings(prompts=PromptSettings()))


def test_from_no_similarity_on_all_points_are_asked():
    found, asked, work, _ = _label(PromptSettings(min_similarity=0.0))
    assert asked == [(1, list(range(16)))] * 4
    assert found == _label(None)[0]
    assert work.points_asked == work.points == 64


def test_a_point_on_the_far_border_is_in_the_last_patch():
    similarity = torch.zeros(4, 4, 1)
    similarity[3, 3] = 1.0
    corners = torch.tensor([[0.0, 0.0], [64.0, 0.0], [0.0, 64.0], [64.0, 64.0]])
    assert promising_points(similarity, corners, 64, 0.5).tolist() == [3]


def test_a_patch_that_just_resembles_a_class_is_near_enough():
    similarity = torch.zeros(4, 4, 1)
    similarity[0, 0] = 0.5
    near = torch.tensor([[4.0, 4.0], [60.0, 60.0]])
    assert promising_points(similarity, near, 64, 0.5).tolist() == [0]
