"""When a run ends early: where going on would only make failed rows."""

from __future__ import annotations

from collections import Counter

from ntt_ray.errors import RunIncompleteError
from ntt_ray.run.job import UnitDone

FIRST_IMAGES = 100  # where all of these are no images, something is wrong with what is read
GIVEN_BACK = 3  # units, one after the other: something is wrong with all of them


class EarlyStop:
    """Hears of every unit that ends, and raises where the run should stop.

    Attributes:
        useless: whether all images so far failed for their content, from the first one of the run:
            after a stop its shards are taken back, so that they are labelled once it is mended.
    """

    def __init__(self, fresh: bool) -> None:
        self.useless = fresh
        self._images, self._in_a_row = 0, 0
        self._reasons: Counter[str] = Counter()

    def unit(self, unit: UnitDone) -> None:
        """Take in a unit.

        Raises:
            RunIncompleteError: the run should stop; the commonest reason is named.
        """
        if unit.given_back is not None:
            self._in_a_row += 1
            self._reasons[unit.given_back] += 1
            if self._in_a_row >= GIVEN_BACK:
                raise RunIncompleteError(
                    f"stopped, because {self._in_a_row} units one after the other could not be "
                    f"done: {self._commonest()}. Mend that, and start the same command again"
                )
            return
        self._in_a_row = 0
        self.useless = self.useless and unit.failed - unit.unreachable == unit.images
        if not self.useless:
            return
        self._images += unit.images
        self._reasons[unit.reason or ""] += unit.images
        if self._images >= FIRST_IMAGES:
            raise RunIncompleteError(
                f"stopped, because the first {self._images} images are all none: "
                f"{self._commonest()}. Look at what `images` names; then the same command labels "
                "all of them"
            )

    def _commonest(self) -> str:
        return self._reasons.most_common(1)[0][0]
