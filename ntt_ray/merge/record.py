"""The merge record ``merge.json``: what the merged files of a run were made with. Defines it.

Settings of a merge may change from one merge to the next without labelling again, so they are not
in ``run.json``; without them nobody can say whether a merged file is whole. No clocks in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.rendering import Loss
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.run.layout import MERGE_FILE
from ntt_ray.storage import Storage

FORMAT_VERSION = 1


@dataclass(frozen=True)
class MergeRecord:
    """How the merged files were made.

    Attributes:
        labels_hash: of the run.
        min_score: ``annotations.json`` has detections of at least this score, where a
            class has no other.
        profiles: what was written.
        images_per_file: of a split ``annotations.json``.
        units: the shards that were merged, as ``(first, last)`` of each gapless stretch.
        files: written by the merge, relative to the output.
        class_scores: category ids with a threshold of their own, and that score, by rising id.
        classes: where classes were left out or renamed: of each one kept its category id in the
            run, and its id and name in the files.
        folders: with a file for each image, relative to the output, and how many files.
        losses: of the masks of profiles that cannot hold ours as they are.
    """

    labels_hash: str
    min_score: float
    profiles: tuple[str, ...]
    images_per_file: int | None
    units: tuple[tuple[int, int], ...]
    files: tuple[str, ...]
    class_scores: tuple[tuple[int, float], ...] = ()
    classes: tuple[tuple[int, int, str], ...] | None = None
    folders: Mapping[str, int] = field(default_factory=dict)
    losses: Mapping[str, Loss] = field(default_factory=dict)

    @property
    def thresholds(self) -> Thresholds:
        """What ``annotations.json`` has."""
        categories = None if self.classes is None else {c[0]: c[1] for c in self.classes}
        return Thresholds(self.min_score, dict(self.class_scores), categories)

    def missing(self, units: int) -> list[int]:
        """Those of the units of a run whose shard did not go into the merge."""
        merged = {unit for first, last in self.units for unit in range(first, last + 1)}
        return [unit for unit in range(units) if unit not in merged]


def stretches(units: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Rising numbers as ``(first, last)`` of each gapless stretch."""
    found: list[tuple[int, int]] = []
    for unit in units:
        if found and unit == found[-1][1] + 1:
            found[-1] = (found[-1][0], unit)
        else:
            found.append((unit, unit))
    return tuple(found)


def write_merge_record(output: str, record: MergeRecord, store: Storage) -> None:
    """Publish the record, after the files it speaks of."""
    data = {"format_version": FORMAT_VERSION, **asdict(record)}
    text = json.dumps(data, indent=1, sort_keys=True) + "\n"
    store.publish_bytes(storage.join(output, MERGE_FILE), text.encode())


def read_merge_record(output: str, store: Storage) -> MergeRecord | None:
    """The record of the last merge, or None where there is none.

    Raises:
        InputError: there is one that cannot be read.
    """
    uri = storage.join(output, MERGE_FILE)
    try:
        return _parsed(json.loads(store.read_bytes(uri)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        text = f"{storage.redact(uri)}: not a merge record ({type(error).__name__}: {error})"
        raise InputError(f"{text}; merge again") from None


def _parsed(data: Any) -> MergeRecord:
    if data["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format {data['format_version']!r}, not {FORMAT_VERSION}")
    per_file = data["images_per_file"]
    if per_file is not None and (type(per_file) is not int or per_file < 1):
        raise ValueError(f"images_per_file is {per_file!r}")
    return MergeRecord(
        labels_hash=str(data["labels_hash"]),
        min_score=float(data["min_score"]),
        profiles=tuple(str(name) for name in data["profiles"]),
        images_per_file=per_file,
        units=tuple((int(first), int(last)) for first, last in data["units"]),
        files=tuple(str(name) for name in data["files"]),
        class_scores=tuple((int(c), float(score)) for c, score in data["class_scores"]),
        classes=None
        if (classes := data.get("classes")) is None
        else tuple((int(own), int(new), str(name)) for own, new, name in classes),
        folders={str(name): int(count) for name, count in data.get("folders", {}).items()},
        losses={str(name): Loss(**loss) for name, loss in data.get("losses", {}).items()},
    )
