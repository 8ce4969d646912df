"""Images beside the ranked ones: a fair draw, and the best image of each class, in any order."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from ntt_ray.evaluate.matching import TruthObject, match
from ntt_ray.records import Detection, ImageEntry, ImageLabels
from ntt_ray.report.gallery import Candidate
from ntt_ray.report.samples import ClassImages, RandomDraw
from tests.support.report_run import SIZE_HW, box_rle, detection

BOX, OTHER, THIRD = (10, 10, 20, 20), (50, 40, 20, 20), (70, 5, 10, 10)


def candidate(image_id: int, *found: Detection, objects: Any = None) -> Candidate:
    labels = ImageLabels.labelled(ImageEntry(image_id, f"{image_id}.png", ""), SIZE_HW, found)
    matches = None if objects is None else match(found, tuple(objects))
    return Candidate(0, labels, matches)


def drawn_ids(images: list[Candidate], count: int, seed: int = 33) -> list[int]:
    draw = RandomDraw(count, seed)
    for image in images:
        draw.add(image)
    return [image.image_id for image in draw.drawn()]


class TestRandomDraw:
    def test_every_image_is_as_likely(self) -> None:
        """Also the ones with nothing found; 300 draws of 10 from 40, five deviations at most."""
        images = [candidate(n, *[detection(3, 0.9, BOX)] * (n % 2)) for n in range(1, 41)]
        times = Counter(n for seed in range(300) for n in drawn_ids(images, 10, seed))
        assert len(times) == 40
        assert all(abs(count - 75) < 5 * 7.5 for count in times.values())
        pairs = [sum(n % 2 for n in drawn_ids(images, 10, seed)) for seed in range(300)]
        assert len(set(pairs)) > 4

    def test_same_seed_same_images_in_any_order(self) -> None:
        images = [candidate(n) for n in range(1, 200)]
        chosen = drawn_ids(images, 24)
        assert len(set(chosen)) == 24
        assert chosen == drawn_ids(images[::-1], 24)
        assert chosen != drawn_ids(images, 24, seed=34)
        assert chosen[:5] == drawn_ids(images, 5)

    def test_failed_images_are_not_drawn(self) -> None:
        failed = ImageLabels.failed(ImageEntry(1, "1.png", ""), "broken")
        assert drawn_ids([Candidate(0, failed, None), candidate(2)], 24) == [2]
        assert drawn_ids([candidate(2)], 0) == []


def class_images(images: list[Candidate], most: int) -> ClassImages:
    keeper = ClassImages(most)
    for image in images:
        keeper.add(image)
    return keeper


class TestClassImages:
    def test_the_highest_score_of_each_class(self) -> None:
        images = [
            candidate(1, detection(3, 0.6, BOX), detection(7, 0.5, OTHER)),
            candidate(2, detection(3, 0.8, BOX), detection(3, 0.2, OTHER)),
            candidate(3, detection(7, 0.5, BOX)),
            candidate(4),
        ]
        chosen, shown = class_images(images, 9).chosen([])
        assert [(c.image_id, c.category_ids) for c in chosen] == [(2, (3,)), (1, (7,))]
        assert shown == 0

    def test_what_is_shown_already_counts_and_is_left_out(self) -> None:
        both = candidate(1, detection(7, 0.9, BOX), detection(3, 0.6, OTHER))
        images = [both, candidate(2, detection(12, 0.7, BOX))]
        (one,), shown = class_images(images, 9).chosen(images[1:])
        assert (one.image_id, one.category_ids, shown) == (1, (3, 7), 1)
        (other,), shown = class_images(images, 9).chosen([both])
        assert (other.image_id, shown) == (2, 2)

    @pytest.mark.parametrize("most", [0, 1, 5, 12, 40])
    def test_of_many_classes_the_surest(self, most: int) -> None:
        """Against all scores at once, in three orders of arrival, with many equal scores."""
        numbers = random.Random(1)
        images = [
            candidate(n, *(detection(numbers.randrange(1, 31), s / 20, BOX) for s in (19, 12, 5)))
            for n in range(1, 60)
        ]
        images += [
            candidate(n, detection(numbers.randrange(1, 31), numbers.randrange(1, 20) / 20, BOX))
            for n in range(60, 200)
        ]
        best: dict[int, tuple[float, int]] = {}
        for image in images:
            for d in image.labels.detections:
                item = (d.score, -image.image_id)
                best[d.category_id] = max(best.get(d.category_id, item), item)
        ranked = sorted(best, key=lambda own: (-best[own][0], own))[:most]
        expected = {own: -best[own][1] for own in ranked}
        for order in (images, images[::-1], numbers.sample(images, len(images))):
            keeper = class_images(order, most)
            chosen, _ = keeper.chosen([])
            assert {i: c.image_id for c in chosen for i in c.category_ids} == expected
            assert keeper.found == set(best)


def test_an_image_of_some_classes_only() -> None:
    """What is right and missed is said of these classes, by the new positions."""
    found = [detection(7, 0.9, BOX), detection(3, 0.8, OTHER), detection(7, 0.3, THIRD)]
    objects = [TruthObject(3, box_rle(OTHER)), TruthObject(7, box_rle(THIRD))]
    objects += [TruthObject(3, box_rle(BOX))]
    image = candidate(1, *found, objects=objects)
    own = image.only((7,))
    assert own.labels.detections == (found[0], found[2])
    assert own.matches is not None
    assert (own.matches.right, own.matches.matched_by) == ((False, True), (1,))
    assert [o.category_id for o in own.matches.objects] == [7]
    other = image.only((3,)).matches
    assert other is not None
    assert (other.right, other.matched_by, other.ious) == ((True,), (0, None), (1.0, 0.0))
    assert image.only((3, 7)).matches == image.matches
