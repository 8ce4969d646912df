"""Drift while a run goes on: whether the last units find something else than all units before.

Three figures of each unit are followed: detections an image, the share of images without objects,
and the mean score. How much they differ from unit to unit is learned from the units themselves, so
units must come in an order that means nothing (`unit_order`): folders follow names, and would look
like drift. Two tests look at the last five units:

* (a) their mean against that of the b units before, by Student's t,
  ``|mean of 5 - mean of b| / (s sqrt(1/5 + 1/b))`` with s of the b and b - 1 degrees of freedom;
* (b) ranks: all five lie beyond the j-th extreme of the b before, with the largest j for which that
  happens by chance with ``C(j + 4, 5) / C(b + 5, 5)``.

Each is held to a chance that is divided among the three figures, both directions and all units, so
that one run in a hundred raises a false alarm (`benchmarks.drift` simulates it). It knows no store
and no run.
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist, fmean

from ntt_ray.intervals import t_quantile, t_tail

LAST = 5  # units that are compared with all before
REFERENCE = 10  # units before, at least
ALPHA_MEANS, ALPHA_RANKS = 0.003, 0.005  # chance of a false alarm in a run, by each test
MANY_UNITS, ALPHA_MEANS_MANY = 20_000, 0.001
FIGURES = ("detections", "empty", "score")


@dataclass(frozen=True)
class UnitFigures:
    """What a unit tells of itself; images that failed do not count.

    Attributes:
        unit: its number.
        images: how many of its images were labelled.
        empty: how many of these have no detection.
        detections: how many detections they have.
        score_sum: the sum of the detections' scores.
    """

    unit: int
    images: int
    empty: int
    detections: int
    score_sum: float

    def values(self) -> dict[str, tuple[float, float]]:
        """The three figures on scales where their spread does not depend on their size.

        Beside each value is the spread that chance alone gives it: of counts like these, or of
        scores that differ by 0.1. Units that happened to be all alike must not make the first
        image that is another look like a change. The mean score is missing where there is no
        detection.
        """
        empty = math.asin(math.sqrt(self.empty / self.images))
        many = self.detections + 1
        found = {
            "detections": (math.log(many / self.images), 1 / math.sqrt(many)),
            "empty": (empty, 0.5 / math.sqrt(self.images)),
        }
        if self.detections:
            score = self.score_sum / self.detections
            found["score"] = (score, 0.1 / math.sqrt(self.detections))
        return found


@dataclass(frozen=True)
class Alarm:
    """A change that chance does not explain.

    Attributes:
        figure: one of `FIGURES`.
        before: the figure of the units before: detections an image, a share, or a mean score.
        now: that of the last units.
        units_before: how many units there are before.
        units: the numbers of the last units.
        test: ``means`` or ``ranks``.
    """

    figure: str
    before: float
    now: float
    units_before: int
    units: tuple[int, ...]
    test: str

    def __str__(self) -> str:
        what = {
            "detections": "detections an image",
            "empty": "the share of images without objects",
            "score": "the mean score",
        }[self.figure]
        units = ", ".join(map(str, self.units))
        return (
            f"{what} {'fell' if self.now < self.before else 'rose'} from {self.before:.3g} in "
            f"{self.units_before} units to {self.now:.3g} in the last {len(self.units)} ({units})"
        )


class Drift:
    """Hears of the units of one start of a run, in the order in which they end."""

    def __init__(self, units: int) -> None:
        """Know nothing yet.

        Args:
            units: how many units are to be heard of, for which the chances are divided.
        """
        self._figures = {name: _Figure(name, max(1, units)) for name in FIGURES}
        self._largest = 0

    def unit(self, figures: UnitFigures) -> list[Alarm]:
        """Take in a unit; units with less than half of the images of the largest tell too little.

        After an alarm the figure is learned anew, so that one change is one alarm.
        """
        self._largest = max(self._largest, figures.images)
        if not figures.images or 2 * figures.images < self._largest:
            return []
        found = (
            self._figures[name].unit(figures.unit, *value)
            for name, value in figures.values().items()
        )
        return [alarm for alarm in found if alarm is not None]

    def smallest_shift(self) -> dict[str, float]:
        """The change of each figure that would be seen now, on the scale of `UnitFigures.values`.

        Figures of which too few units are known are missing.
        """
        shifts = ((name, figure.smallest_shift()) for name, figure in self._figures.items())
        return {name: shift for name, shift in shifts if shift is not None}


class _Figure:
    """One figure of all units: the last ones, and what is known of those before."""

    def __init__(self, name: str, units: int) -> None:
        self._name = name
        alpha = ALPHA_MEANS_MANY if units >= MANY_UNITS else ALPHA_MEANS
        self._means_chance = alpha / (2 * len(FIGURES) * units)  # of each side
        self._ranks_chance = ALPHA_RANKS / (2 * len(FIGURES) * units)
        self._normal = NormalDist().inv_cdf(1 - self._means_chance)
        self._start()

    def _start(self) -> None:
        self._last: deque[tuple[int, float]] = deque()
        self._before: list[float] = []  # sorted
        self._mean, self._squares = 0.0, 0.0  # of those before, and of their distances from it
        self._rank, self._least_spread = 0, 0.0

    def unit(self, number: int, value: float, least_spread: float) -> Alarm | None:
        self._last.append((number, value))
        self._least_spread = least_spread
        if len(self._last) > LAST:
            self._learn(self._last.popleft()[1])
        if len(self._before) < REFERENCE:
            return None
        test = self._test()
        if test is None:
            return None
        alarm = Alarm(
            figure=self._name,
            before=_natural(self._name, self._mean),
            now=_natural(self._name, self._now()),
            units_before=len(self._before),
            units=tuple(number for number, _ in self._last),
            test=test,
        )
        self._start()
        return alarm

    def smallest_shift(self) -> float | None:
        if len(self._before) < REFERENCE:
            return None
        border = t_quantile(len(self._before) - 1, self._means_chance)
        return float(border) * self._error()

    def _now(self) -> float:
        return fmean(value for _, value in self._last)

    def _error(self) -> float:
        """The standard error of the difference of means."""
        b = len(self._before)
        spread = max(self._least_spread, math.sqrt(max(0.0, self._squares) / (b - 1)))
        return spread * math.sqrt(1 / LAST + 1 / b)

    def _learn(self, value: float) -> None:
        insort(self._before, value)
        b, step = len(self._before), value - self._mean
        self._mean += step / b
        self._squares += step * (value - self._mean)
        # the chance falls as b grows, so the rank that is allowed only rises
        while self._rank < b and _chance(self._rank + 1, b) <= self._ranks_chance:
            self._rank += 1

    def _test(self) -> str | None:
        shift, error = abs(self._now() - self._mean), self._error()
        # the normal distribution's border is the nearer one: mostly nothing more is computed
        is_near = shift <= self._normal * error
        if not is_near and t_tail(shift / error, len(self._before) - 1) <= self._means_chance:
            return "means"
        if self._rank:
            low, high = self._before[self._rank - 1], self._before[-self._rank]
            values = [value for _, value in self._last]
            if min(values) > high or max(values) < low:
                return "ranks"
        return None


def unit_order(units: Iterable[int], seed: str) -> list[int]:
    """Units in an order that means nothing, and that is the same for the same seed."""
    order = sorted(units)
    random.Random(seed).shuffle(order)
    return order


def _chance(rank: int, before: int) -> float:
    """That five values all lie beyond the rank-th extreme of those before, by chance."""
    return math.comb(rank + LAST - 1, LAST) / math.comb(before + LAST, LAST)


def _natural(figure: str, value: float) -> float:
    """A figure as people read it."""
    if figure == "detections":
        return math.exp(value)
    return math.sin(value) ** 2 if figure == "empty" else value
