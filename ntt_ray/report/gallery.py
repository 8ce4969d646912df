"""Which images a report ranks and shows: best, worst, borderline, and some with nothing found.

Keeps a bounded number of places while the shards stream by: where the images stand, and not what
was found in them, so that processes can send what they kept. Ties go to the smaller image id, so
the same run shows the same images.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ntt_ray.evaluate.matching import Matches
from ntt_ray.records import ImageLabels

BORDER_WIDTH = 0.1  # a score this far from the threshold is not borderline
EMPTY_SHOWN = 2
GROUPS = ("best", "worst", "borderline", "empty")
_SPARE = 3  # candidates kept per image shown: an image may be in several lists
_ENOUGH_OBJECTS = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that may be shown.

    Attributes:
        shard_id: the unit that the image belongs to.
        labels: what was found in the image.
        matches: what of that is right; None where it is not known.
        category_ids: the only classes that are shown of the image; empty for all.
    """

    shard_id: int
    labels: ImageLabels
    matches: Matches | None
    category_ids: tuple[int, ...] = ()

    @property
    def image_id(self) -> int:
        """The id of the image."""
        return self.labels.entry.image_id

    def only(self, category_ids: tuple[int, ...]) -> Candidate:
        """The image with what was found, and what there is, of some classes."""
        found = self.labels.detections
        own = [n for n, d in enumerate(found) if d.category_id in category_ids]
        labels = replace(self.labels, detections=tuple(found[n] for n in own))
        return Candidate(self.shard_id, labels, self._matches_of(own, category_ids), category_ids)

    def _matches_of(self, own: list[int], category_ids: tuple[int, ...]) -> Matches | None:
        """The matches of the detections `own`; an object only matches its own class."""
        known = self.matches
        if known is None:
            return None
        kept = [n for n, found in enumerate(known.objects) if found.category_id in category_ids]
        position = {old: new for new, old in enumerate(own)}
        matched_by = [known.matched_by[n] for n in kept]
        return Matches(
            objects=tuple(known.objects[n] for n in kept),
            right=tuple(known.right[n] for n in own),
            matched_by=tuple(None if n is None else position[n] for n in matched_by),
            ious=tuple(known.ious[n] for n in kept),
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image stands that may be shown.

    Attributes:
        shard_id: the unit that the image belongs to.
        image_id: the id of the image.
        predicted: the classes that are predicted in it, where somebody asks for them.
        category_ids: the only classes that are shown of the image; empty for all.
    """

    shard_id: int
    image_id: int
    predicted: frozenset[int] = frozenset()
    category_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, candidate: Candidate, threshold: float = math.inf) -> Place:
        """The place of an image, with the classes of the detections from a threshold up."""
        found = candidate.labels.detections
        predicted = frozenset(d.category_id for d in found if d.score >= threshold)
        return cls(candidate.shard_id, candidate.image_id, predicted)


class GalleryPicker:
    """Ranks images as they come.

    Attributes:
        threshold: detections of at least this score count as predictions.
        max_images: how many images the gallery shows at most.
    """

    def __init__(self, threshold: float, max_images: int) -> None:
        self.threshold = threshold
        self.max_images = max_images
        self._lists = {
            group: Ranked(EMPTY_SHOWN if group == "empty" else max_images * _SPARE)
            for group in GROUPS
        }

    def add(self, candidate: Candidate) -> None:
        """Consider an image."""
        if candidate.labels.status == "failed":
            return
        ranks = {
            "best": rank_best(candidate, self.threshold),
            "worst": rank_worst(candidate, self.threshold),
            "borderline": rank_borderline(candidate, self.threshold),
            "empty": rank_empty(candidate),
        }
        place = Place.of(candidate, self.threshold)
        for group, rank in ranks.items():
            if rank is not None:
                self._lists[group].add(rank, place)

    def take(self, other: GalleryPicker) -> None:
        """Consider the images that another has considered, too."""
        for group, own in self._lists.items():
            own.take(other._lists[group])

    def chosen(self) -> dict[str, list[Place]]:
        """The images to show by group, none of them twice."""
        chosen: dict[str, list[Place]] = {group: [] for group in GROUPS}
        chosen["empty"] = list(self._lists["empty"])[: max(0, self.max_images)]
        left = self.max_images - len(chosen["empty"])
        seen: set[int] = set()
        sources = {
            "best": iter(self._varied(self._lists["best"])),
            "worst": iter(self._lists["worst"]),
            "borderline": iter(self._lists["borderline"]),
        }
        # the three take turns; one that runs out leaves its places to the others
        while sources and left > 0:
            for group in list(sources):
                unseen = (c for c in sources[group] if c.image_id not in seen)
                candidate = next(unseen, None)
                if candidate is None:
                    del sources[group]
                elif left > 0:
                    chosen[group].append(candidate)
                    seen.add(candidate.image_id)
                    left -= 1
        return chosen

    @staticmethod
    def _varied(ranked: Iterable[Place]) -> list[Place]:
        """Reorder so that every class comes up early: first images with a class not seen yet."""
        waiting, seen, ordered = list(ranked), set[int](), list[Place]()
        while waiting:
            number = next((i for i, place in enumerate(waiting) if place.predicted - seen), 0)
            seen |= waiting[number].predicted
            ordered.append(waiting.pop(number))
        return ordered


def rank_best(candidate: Candidate, threshold: float) -> float | None:
    """High where everything is right (or sure) and there is more than one object to see.

    With ground truth it is the image's panoptic quality, the sum of the IoUs of the matches over
    matches + half of the mistakes; without, the mean score. Both shrunk for few objects.
    """
    scores = _kept(candidate, threshold)
    if candidate.matches is None:
        return _shrunk(sum(scores) / len(scores), len(scores)) if scores else None
    right, wrong, missed = count_matches(candidate.matches, len(scores))
    if not right:
        return None
    matches = candidate.matches
    found = [i is not None and i < len(scores) for i in matches.matched_by]
    overlap = sum(iou for iou, taken in zip(matches.ious, found) if taken)
    return _shrunk(overlap / (right + (wrong + missed) / 2), right)


def rank_worst(candidate: Candidate, threshold: float) -> float | None:
    """High where most is wrong or missed, or, without ground truth, where all scores are low."""
    scores = _kept(candidate, threshold)
    if candidate.matches is None:
        return -max(scores) if scores else None
    right, wrong, missed = count_matches(candidate.matches, len(scores))
    mistakes = wrong + missed
    return mistakes / (right + mistakes + 1) if mistakes else None


def rank_borderline(candidate: Candidate, threshold: float) -> float | None:
    """High where a score is close to the threshold, on either side of it."""
    gaps = [abs(d.score - threshold) for d in candidate.labels.detections]
    return -min(gaps) if gaps and min(gaps) <= BORDER_WIDTH else None


def rank_empty(candidate: Candidate) -> float | None:
    """A fixed shuffle of the images in which nothing was found (and nothing was to be found)."""
    to_find = candidate.matches is not None and candidate.matches.objects
    if candidate.labels.detections or to_find:
        return None
    return float(zlib.crc32(candidate.labels.entry.file_name.encode()))


def count_matches(matches: Matches, kept: int) -> tuple[int, int, int]:
    """Right, wrong and missed when the first `kept` detections are taken."""
    right = sum(value is True for value in matches.right[:kept])
    wrong = sum(value is False for value in matches.right[:kept])
    return right, wrong, len(matches.objects) - right


class Ranked:
    """The places with the highest ranks; iterates from the highest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[float, int, Place]] = []

    def add(self, rank: float, place: Place) -> None:
        """Consider an image; of equal ranks the smaller image id comes first."""
        self._add((rank, -place.image_id, place))

    def take(self, other: Ranked) -> None:
        """Consider what another has kept; with the same limit nothing is lost."""
        for item in other._heap:
            self._add(item)

    def _add(self, item: tuple[float, int, Place]) -> None:
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, item)
        elif self._heap and item[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, item)

    def __iter__(self) -> Iterator[Place]:
        return iter([item[2] for item in sorted(self._heap, key=lambda i: i[:2], reverse=True)])


def _kept(candidate: Candidate, threshold: float) -> list[float]:
    return [d.score for d in candidate.labels.detections if d.score >= threshold]


def _shrunk(value: float, count: int) -> float:
    seen = min(count, _ENOUGH_OBJECTS)
    return value * seen / (seen + 1)
