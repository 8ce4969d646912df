"""Labels of large images by their tiles, against the same in loops over views, masks and pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ntt_ray.images import resize_square
from ntt_ray.masks import decode_rle
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.tiles import views_of
from ntt_ray.method.tiling import TiledLabeler, make_labeler
from ntt_ray.models.inputs import to_input
from ntt_ray.models.interfaces import Proposals
from ntt_ray.settings import (
    DiffusionSettings,
    MethodSettings,
    PromptSettings,
    PrototypeSettings,
    TileSettings,
)
from tests import reference
from tests.support.colours import ColourProposer
from tests.support.fakes import BANK, CLASSES, FakeEncoder, FakeProposer, make_proposals
from tests.support.noise import Noise, noise_of

SIDE = 32  # of the fake models' input, and so of the smallest tiles


class PromptedColours(ColourProposer):
    """The same, with two points to be asked at."""

    points = torch.tensor([[4.0, 4.0], [20.0, 20.0]])

    def propose_at(self, image, min_predicted_iou, points):
        return self.propose(image[None], min_predicted_iou)[0]


class ByView(FakeProposer):
    """Gives each view of one image its own masks, where it has any, all of them red."""

    def __init__(self, masks: dict[int, torch.Tensor], predicted_iou: dict[int, float]) -> None:
        self.masks, self.predicted_iou, self.view = masks, predicted_iou, -1

    def propose(self, images, min_predicted_iou, wanted=None):
        self.view += 1
        if self.view not in self.masks:
            return [Proposals.none(SIDE, self.device)]
        return [make_proposals(self.masks[self.view][None], [self.predicted_iou[self.view]])]


def _tiled(proposer, **settings) -> TiledLabeler:
    tiles = settings.pop("tiles", TileSettings())
    labeler = make_labeler(FakeEncoder(), proposer, BANK, MethodSettings(tiles=tiles, **settings))
    assert isinstance(labeler, TiledLabeler)
    return labeler


def _canvas(height=96, width=128) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def test_an_object_across_the_borders_of_tiles_comes_out_once_and_whole():
    image = _canvas()
    # (24, 24) and (48, 24) are borders of the smallest tiles
    image[20:30, 43:55, 0] = 255
    found = _tiled(ColourProposer()).label([image])[0]
    red = [d for d in found if d.category_id == CLASSES[0].category_id and d.score > 0.5]
    assert len(red) == 1
    x, y, width, height = red[0].bbox_xywh
    for value, expected in zip((x, y, x + width, y + height), (43, 20, 55, 30)):
        assert value == pytest.approx(expected, abs=2)
    assert decode_rle(red[0].rle).shape == image.shape[:2]


def test_small_objects_are_found_that_the_whole_image_does_not_show():
    image = _canvas(192, 192)
    for x in (10, 60, 100, 150):
        image[x : x + 5, x : x + 5, 1] = 255
    plain = Labeler(FakeEncoder(), ColourProposer(), BANK).label([image])[0]
    tiled = _tiled(ColourProposer()).label([image])[0]
    corners = {tuple(round(v / 10) for v in d.bbox_xywh[:2]) for d in tiled if d.area < 60}
    assert corners == {(1, 1), (6, 6), (10, 10), (15, 15)}
    assert not [d for d in plain if d.area < 60]


@pytest.mark.parametrize(("max_iou", "areas"), [(0.5, [25, 15]), (0.49, [25])])
def test_boxes_of_different_views_are_compared_with_inclusive_corners(max_iou, areas):
    """5 x 5 and 5 x 3 pixels are boxes of 4 x 4 and 4 x 2: their IoU is a half, not 0.6."""
    image = _canvas(32, 56)
    image[..., 0] = 255
    assert [view.left for view in views_of((32, 56), SIDE, 0.25)] == [0, 0, 24]
    whole, part = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    whole[5:10, 25:30] = True
    part[5:8, 1:6] = True
    proposer = ByView({1: whole, 2: part}, {1: 0.9, 2: 0.8})
    found = _tiled(proposer, nms_iou=max_iou).label([image])[0]
    assert [d.area for d in found] == areas
    assert {d.bbox_xywh[:2] for d in found} == {(25, 5)}


def test_without_nms_the_finest_mask_of_an_object_still_comes_first():
    """Two tiles show a square whole, and so does the image: its coarser mask is a duplicate."""
    image = _canvas(64, 64)
    image[..., 0] = 255
    views = views_of((64, 64), SIDE, 0.25)
    assert (views[1].left, views[1].top) == (0, 0)
    coarse, fine = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    coarse[4:10, 4:10] = True  # 8 to 20 of the image
    fine[8:19, 8:20] = True
    proposer = ByView({0: coarse, 1: fine}, {0: 0.9, 1: 0.8})
    (found,) = _tiled(proposer, nms_iou=None).label([image])[0]
    assert found.area == fine.sum()
    two = ByView({0: coarse, 1: fine}, {0: 0.9, 1: 0.8})
    assert len(_tiled(two, nms_iou=1.0).label([image])[0]) == 2


@pytest.mark.parametrize("strips", [False, True], ids=["run lengths", "strips"])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
@pytest.mark.parametrize("size_hw", [(70, 96), (49, 30), (64, 200)], ids=str)
def test_equals_the_loops(size_hw, overlap, strips):
    image = np.random.default_rng(1).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    labeler = _tiled(Noise(), tiles=TileSettings(overlap=overlap), max_detections=25)
    labeler.labeler.strips = strips
    found = labeler.label([image])[0]
    expected = _plain(image, overlap, 25)
    assert len(found) == len(expected) > 3
    for detection, (label, score, mask) in zip(found, expected):
        assert detection.category_id == CLASSES[label].category_id
        assert detection.score == pytest.approx(score, abs=1e-4)
        np.testing.assert_array_equal(decode_rle(detection.rle), mask)


def _plain(image: np.ndarray, overlap: float, wanted: int) -> list:
    """View by view, then mask by mask; settings are the paper's."""
    size_hw, items = image.shape[:2], []
    prototypes = BANK.prototypes()
    for view in views_of(size_hw, SIDE, overlap):
        part = image[view.top : view.top + view.height, view.left : view.left + view.width]
        inputs = to_input([resize_square(part, SIDE)])
        features, proposals = FakeEncoder().encode(inputs)[0], noise_of(inputs[0])
        own = []
        for k in range(len(proposals)):
            mask = (proposals.logits[k] > 0).numpy()
            borders = [
                view.left > 0 and mask[:, 0].any(),
                view.left + view.width < size_hw[1] and mask[:, -1].any(),
                view.top > 0 and mask[0].any(),
                view.top + view.height < size_hw[0] and mask[-1].any(),
            ]
            if not mask.any() or any(borders):
                continue
            feature = reference.pooled_feature(features, torch.from_numpy(mask))
            similarity = [max(0.0, float(feature @ p)) for p in prototypes]
            label = int(np.argmax(similarity))
            box = reference.inclusive_box(mask)
            iou = float(proposals.predicted_iou[k])
            own.append((k, label, similarity[label], feature, iou, box))
        kept = reference.nms([o[5] for o in own], [o[4] for o in own], [o[1] for o in own], 0.5)
        for n in kept:
            k, label, score, feature, iou, _ = own[n]
            small = reference.full_size_mask(proposals.logits[k], view.size_hw)
            if score <= 0 or not small.any():
                continue
            mask = np.zeros(size_hw, dtype=bool)
            mask[view.top : view.top + view.height, view.left : view.left + view.width] = small
            items.append((label, score, feature, iou, mask, view))
    items = _without_coarser(items, 0.5)
    boxes = [reference.inclusive_box(item[4]) for item in items]
    order = reference.nms(boxes, [i[3] for i in items], [i[0] for i in items], 0.5)
    items = [items[n] for n in order[: 8 * wanted]]
    factors = reference.soft_merge(
        [i[4] for i in items], [i[2] for i in items], [i[0] for i in items]
    )
    found = [(i[0], i[1] * factor, i[4]) for i, factor in zip(items, factors)]
    return sorted(found, key=lambda item: -item[1])[:wanted]


def _without_coarser(items: list, max_iou: float) -> list:
    """Mask by mask, the smallest tiles first: what stands for a coarser mask of the same object."""
    areas = [item[5].width * item[5].height for item in items]
    boxes = [reference.inclusive_box(item[4]) for item in items]
    gone: set[int] = set()
    for fine in sorted(range(len(items)), key=lambda n: areas[n]):
        view = items[fine][5]
        for coarse in range(len(items)):
            x1, y1, x2, y2 = boxes[coarse]
            if (
                fine not in gone
                and areas[coarse] > areas[fine]
                and items[coarse][0] == items[fine][0]
                and reference.box_iou(boxes[coarse], boxes[fine]) > max_iou
                and view.left <= x1
                and view.top <= y1
                and x2 < view.left + view.width
                and y2 < view.top + view.height
            ):
                gone.add(coarse)
    return [item for n, item in enumerate(items) if n not in gone]


class UnsureOfLargeObjects(ColourProposer):
    """The same, but the larger an object is shown, the lower is its predicted IoU."""

    def __init__(self, loss: float) -> None:
        super().__init__()
        self._loss = loss

    def _of(self, image, min_predicted_iou):
        found = super()._of(image, min_predicted_iou)
        share = (found.logits > 0).float().mean(dim=(1, 2))
        return replace(found, predicted_iou=found.predicted_iou - self._loss * share)


@pytest.mark.parametrize("loss", [0.0, 0.2, -0.2], ids=["equal", "coarse higher", "fine higher"])
def test_the_finer_mask_of_an_object_stays(loss):
    """Whatever its predicted IoU is, where both views show the whole object."""
    image = _canvas()
    image[3:12, 3:14, 0] = 255  # whole in the first of the smallest tiles
    image[60:63, 64:120, 1] = 255  # whole in no tile of 32 pixels
    found = _tiled(UnsureOfLargeObjects(loss)).label([image])[0]
    red, green = ([d for d in found if d.category_id == label.category_id] for label in CLASSES)
    assert [d.bbox_xywh for d in red] == [(3, 3, 11, 9)]
    assert red[0].area == 11 * 9
    assert [d.bbox_xywh for d in green] == [(64, 60, 56, 3)]


def test_an_image_of_one_view_gets_the_labels_that_it_gets_without_tiles():
    image = _canvas(40, 48)
    image[5:20, 5:20, 0] = image[10:30, 30:44, 1] = 255
    plain = Labeler(FakeEncoder(), ColourProposer(), BANK).label([image])
    assert _tiled(ColourProposer()).label([image]) == plain
    assert plain[0]


def test_masks_of_one_view_are_compared_once_at_low_resolution():
    """There the IoU of their boxes is just a half; at the image's size it is more."""
    image = _canvas(40, 40)
    image[..., 0] = 255
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 9:14, 9:14] = masks[1, 9:12, 9:14] = True
    proposer = FakeProposer(make_proposals(masks, [0.9, 0.8]))
    (plain,) = Labeler(FakeEncoder(), proposer, BANK).label([image])
    assert len(plain) == 2
    assert _tiled(proposer).label([image]) == [plain]


@pytest.mark.parametrize("strips", [False, True], ids=["run lengths", "strips"])
def test_nothing_found_is_a_normal_result(strips):
    labeler = _tiled(ColourProposer())
    labeler.labeler.strips = strips
    assert labeler.label([_canvas()]) == [()]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_as_many_views_as_places_go_through_the_models(count):
    """And what an image gets does not depend on the others."""
    image = _canvas()
    image[20:30, 40:60, 0] = 255
    labeler = _tiled(ColourProposer())
    filler = _canvas(8, 8)
    (found,) = labeler.begin([image] + [filler] * (count - 1), [image.shape[:2]])
    assert set(labeler.proposer.batches) == {count}
    assert found.result() == _tiled(ColourProposer()).label([image])[0]
    assert labeler.begin([image, filler], [None])[0].result() == ()


def test_other_options_hold_for_every_view():
    image = _canvas()
    image[20:30, 40:52, 0] = 255
    options = {
        "prompts": PromptSettings(min_similarity=0.5),
        "prototypes": PrototypeSettings(),
        "diffusion": DiffusionSettings(),
    }
    labeler = _tiled(PromptedColours(), **options)
    (found,) = labeler.label([image])
    assert [d.category_id for d in found if d.score > 0.5] == [CLASSES[0].category_id]
    work = labeler.take_work()
    assert work.views == len(views_of((96, 128), SIDE, 0.25))
    assert 0 < work.views_skipped < work.views
    assert 0 < work.points_asked <= 2 * (work.views - work.views_skipped)


def test_without_tiles_it_is_the_plain_labeller():
    labeler = make_labeler(FakeEncoder(), ColourProposer(), BANK, MethodSettings())
    assert isinstance(labeler, Labeler)
    assert not labeler.takes_whole_images
    assert _tiled(ColourProposer()).takes_whole_images
