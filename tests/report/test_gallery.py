"""Which images a report shows: the ranks, each once, whatever the order they come in."""

from __future__ import annotations

from typing import Any

import pytest

from ntt_ray.evaluate.matching import TruthObject, match
from ntt_ray.records import Detection, ImageEntry, ImageLabels
from ntt_ray.report.gallery import Candidate, GalleryPicker, rank_best, rank_worst
from tests.support.report_run import SIZE_HW, box_rle, detection


def candidate(image_id: int, *found: Detection, objects: Any = None) -> Candidate:
    labels = ImageLabels.labelled(ImageEntry(image_id, f"{image_id}.png", ""), SIZE_HW, found)
    matches = None if objects is None else match(found, tuple(objects))
    return Candidate(0, labels, matches)


BOX = (10, 10, 20, 20)
OTHER = (50, 40, 20, 20)


class TestGallery:
    def test_best_and_worst_with_truth(self) -> None:
        truth = [TruthObject(3, box_rle(BOX)), TruthObject(3, box_rle(OTHER))]
        both = candidate(1, detection(3, 0.9, BOX), detection(3, 0.8, OTHER), objects=truth)
        half = candidate(2, detection(3, 0.9, BOX), detection(3, 0.3, OTHER), objects=truth)
        none = candidate(3, detection(7, 0.9, BOX), objects=truth)
        best = [rank_best(c, 0.5) for c in (both, half, none)]
        worst = [rank_worst(c, 0.5) for c in (both, half, none)]
        assert best[0] == pytest.approx(2 / 3)
        assert best[1] == pytest.approx(1 / 1.5 / 2)
        assert best[2] is None
        assert worst[0] is None
        assert (worst[1] or 0) < (worst[2] or 0)

    def test_no_image_twice(self) -> None:
        picker = GalleryPicker(0.5, 6)
        for number in range(1, 9):
            picker.add(candidate(number, detection(3, 0.45 + number / 20, BOX)))
        shown = [c.image_id for group in picker.chosen().values() for c in group]
        assert len(shown) == len(set(shown)) == 6

    def test_order_of_arrival_does_not_matter(self) -> None:
        found = [candidate(n, detection(3, 0.5 + n % 3 / 10, BOX)) for n in range(1, 20)]
        chosen = []
        for order in (found, found[::-1]):
            picker = GalleryPicker(0.5, 4)
            for item in order:
                picker.add(item)
            chosen.append(picker.chosen())
        assert chosen[0] == chosen[1]

    def test_every_class_comes_up(self) -> None:
        picker = GalleryPicker(0.5, 3)
        for number in range(1, 6):
            picker.add(candidate(number, detection(3, 0.95, BOX), detection(3, 0.95, OTHER)))
        picker.add(candidate(8, detection(3, 0.6, BOX)))
        picker.add(candidate(9, detection(7, 0.7, BOX)))
        assert 9 in [c.image_id for c in picker.chosen()["best"][:2]]
