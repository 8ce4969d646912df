"""Images that a report shows beside the ranked ones: some drawn at random, and one of each class.

Both keep a bounded number of places while the shards stream by, and choose the same images in
whatever order they come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ntt_ray.report.gallery import Candidate, Place, Ranked

SEED = 33


class RandomDraw:
    """Draws images among all that were labelled, those with nothing found included.

    Each image has a lot: a hash of the seed and its file name. The images with the lowest lots are
    drawn, so each is as likely as any other, and one pass in any order is enough.
    """

    def __init__(self, count: int, seed: int = SEED) -> None:
        self.seed = seed
        self._lots = Ranked(count)

    def add(self, candidate: Candidate) -> None:
        """Consider an image; one that failed was not labelled."""
        if candidate.labels.status != "failed":
            text = f"{self.seed}:{candidate.labels.entry.file_name}"
            lot = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6]
            self._lots.add(-float(int.from_bytes(lot, "big")), Place.of(candidate))

    def take(self, other: RandomDraw) -> None:
        """Consider the images that another has considered, too."""
        self._lots.take(other._lots)

    def drawn(self) -> list[Place]:
        """The images, in the order of their lots."""
        return list(self._lots)


class ClassImages:
    """The image with the highest score of each class.

    Of more than `max_classes` classes those with the highest scores are kept, so that memory and
    page are bounded.

    Attributes:
        max_classes: how many classes get an image at most.
        found: ids of the classes that have a detection.
    """

    def __init__(self, max_classes: int) -> None:
        self.max_classes = max_classes
        self.found: set[int] = set()
        self._best: dict[int, tuple[float, int, Place]] = {}

    def add(self, candidate: Candidate) -> None:
        """Consider an image."""
        # by rising score: the last one of a class is its highest
        rising = sorted(candidate.labels.detections, key=lambda d: d.score)
        highest = {d.category_id: d.score for d in rising}
        self.found |= highest.keys()
        place = Place.of(candidate)
        self._consider({own: (score, -place.image_id, place) for own, score in highest.items()})

    def take(self, other: ClassImages) -> None:
        """Consider the images that another has considered, too."""
        self.found |= other.found
        self._consider(other._best)

    def _consider(self, items: Mapping[int, tuple[float, int, Place]]) -> None:
        for category_id, item in items.items():
            known = self._best.get(category_id)
            if known is None or item[:2] > known[:2]:
                self._best[category_id] = item
        if len(self._best) > self.max_classes:
            # whoever is left out stays so: the highest scores of the others can only rise
            ranked = sorted(self._best, key=lambda own: (-self._best[own][0], own))
            for own in ranked[self.max_classes :]:
                del self._best[own]

    def chosen(self, shown: Sequence[Candidate | Place]) -> tuple[list[Place], int]:
        """The images that are not among those `shown`, each with its classes only.

        Returns:
            The images by the lowest id of their classes, and how many classes have an image that
            is shown already.
        """
        seen = {image.image_id for image in shown}
        classes: dict[int, list[int]] = {}
        for category_id in sorted(self._best):
            classes.setdefault(self._best[category_id][2].image_id, []).append(category_id)
        images = [
            replace(self._best[own[0]][2], category_ids=tuple(own))
            for image_id, own in classes.items()
            if image_id not in seen
        ]
        return images, sum(len(own) for image_id, own in classes.items() if image_id in seen)
