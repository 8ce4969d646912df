"""The 95 % ranges hold: drawn references, many times over, beside what they were drawn from."""

from dataclasses import dataclass

import numpy as np
import pytest

from ntt_ray.calibrate.thresholds import ImageOutcomes, calibrate, judge
from ntt_ray.evaluate.matching import TruthObject, match
from ntt_ray.intervals import share_range
from ntt_ray.masks import encode_mask
from ntt_ray.records import ClassLabel, Detection

pytestmark = pytest.mark.slow

CLASSES = (ClassLabel(1, "bird"), ClassLabel(2, "fish"))
POPULATION, TRIALS, IMAGES = 2000, 200, 20
PLACES = 8  # in an image, each 8 by 8 pixels


def _mask(place: int, width=8):
    mask = np.zeros((8, 8 * PLACES), dtype=bool)
    mask[:, 8 * place : 8 * place + width] = True
    return encode_mask(mask)


WHOLE, PART = [_mask(place) for place in range(PLACES)], _mask(0, width=3)


@dataclass(frozen=True)
class World:
    """Images with an annotated object of one class, and what else lies there.

    Attributes:
        own: chance of each of two more objects of the class.
        other: chance of each of three objects of the other class.
        background: chance of a false alarm of each class where nothing is.
        complete: whether all of these objects are annotated.
    """

    own: float
    other: float
    background: float
    complete: bool = False

    def image(self, rng) -> tuple[ImageOutcomes, list[bool]]:
        """What is judged of an image, and whether each detection is right in truth."""
        first = int(rng.integers(1, 3))
        there = {0: first}
        there |= {place: first for place in (1, 2) if rng.random() < self.own}
        there |= {place: 3 - first for place in (3, 4, 5) if rng.random() < self.other}
        found = [
            (c, WHOLE[p], rng.beta(6, 2), True) for p, c in there.items() if rng.random() < 0.9
        ]
        for category_id in (1, 2):
            if rng.random() < self.background:
                found.append((category_id, WHOLE[5 + category_id], rng.beta(3, 3), False))
        if rng.random() < 0.15:
            found.append((first, PART, rng.beta(3, 3), False))
        if rng.random() < 0.1:
            found.append((3 - first, WHOLE[0], rng.beta(3, 3), False))
        found.sort(key=lambda item: -item[2])
        detections = [Detection(c, s, 0.9, (0, 0, 8, 8), 64, rle) for c, rle, s, _ in found]
        shown = there if self.complete else {0: first}
        objects = tuple(TruthObject(c, WHOLE[place]) for place, c in shown.items())
        matches = match(detections, objects)
        return judge(detections, matches, complete=self.complete), [right for *_, right in found]


class Population:
    """All images of a world, to draw from and to know the truth by."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, rng = world, np.random.default_rng(seed)
        drawn = [world.image(rng) for _ in range(POPULATION)]
        self.images = [outcomes for outcomes, _ in drawn]
        self._rows = np.array(
            [
                (o.category_id, o.score, right)
                for outcomes, truth in drawn
                for o, right in zip(outcomes.outcomes, truth, strict=True)
            ]
        )

    def precision(self, category_id: int, threshold: float) -> float:
        kept = (self._rows[:, 0] == category_id) & (self._rows[:, 1] >= threshold)
        return float(self._rows[kept, 2].mean())


WORLDS = {
    "other classes are not annotated": World(own=0.0, other=0.7, background=0.15),
    "one object is annotated, of several": World(own=0.6, other=0.3, background=0.3),
    "much of nothing is found": World(own=0.0, other=0.0, background=0.7),
    "all is annotated": World(own=0.5, other=0.5, background=0.4, complete=True),
}


@pytest.fixture(scope="module", params=WORLDS.values(), ids=WORLDS.keys())
def population(request) -> Population:
    return Population(request.param, seed=1)


@pytest.mark.parametrize("wanted", [None, 0.8], ids=["best F1", "precision 0.8"])
def test_a_range_that_is_shown_holds(population, wanted):
    rng = np.random.default_rng(2)
    shown = held = as_wrong = 0
    for _ in range(TRIALS):
        seen = [population.images[i] for i in rng.integers(POPULATION, size=IMAGES)]
        for item in calibrate(seen, CLASSES, wanted_precision=wanted):
            own = item.evidence
            if item.threshold is None or own.precision_range is None:
                continue
            right, count = own.right_detections, own.judged_detections + own.unclear_detections
            low, high = own.precision_range
            truth = population.precision(item.label.category_id, item.threshold)
            shown += 1
            held += low <= truth <= high
            # no wider than it must be: each end is that of a truth that nothing speaks against
            assert low == share_range(right, count)[0]
            assert high == share_range(right + own.unclear_detections, count)[1]
            low, high = share_range(right, count)  # as if the unclear ones were false alarms
            as_wrong += low <= truth <= high
    assert shown > TRIALS  # of two classes each
    assert held >= 0.94 * shown
    if population.world.other > 0.5 and not population.world.complete:
        assert as_wrong < 0.5 * shown
