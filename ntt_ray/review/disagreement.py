"""Where two runs of the same images disagree: labels that the other run lacks or has otherwise.

Images are the same where their file names are; classes where their names are. It reads the shards
of the other run that hold the images in question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.masks import Rle, mask_ious
from ntt_ray.review.records import Label, Picture
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.record import RunRecord
from ntt_ray.run.shard import existing_shards, iter_labels, read_shard
from ntt_ray.storage import Storage

SAME_IOU = 0.5  # from here on two masks are of one object
AGREE_IOU = 0.9  # from here on nobody needs to look

Objects = list[tuple[str, Rle]]  # class name and mask


@dataclass(frozen=True)
class Difference:
    """How far a label is from what the other run says there.

    Attributes:
        size: 1 where the other run has no such object, or of another class; else 1 - IoU.
        reason: why the two runs disagree about this label, in words for people.
    """

    size: float
    reason: str


def other_objects(
    output: str,
    record: RunRecord,
    names: Iterable[str],
    renamed: Mapping[str, str],
    min_score: float,
    store: Storage,
) -> dict[str, Objects]:
    """What another run has in some images, by file name; images that it lacks are not there.

    Args:
        output: the prefix of the other run.
        record: its record.
        names: file names of the images.
        renamed: what classes are called here, by their names in a run; others keep theirs.
        min_score: labels below it count as if they were not there.
        store: access to files.

    Raises:
        InputError: the manifest or a shard is missing or damaged, or no image is in both runs.
    """
    wanted, existing = set(names), existing_shards(output, store)
    classes = {c.category_id: renamed.get(c.name, c.name) for c in record.class_labels}
    least, found = float(np.float32(min_score)), dict[str, Objects]()
    for unit in _units(output, wanted, store):
        if unit not in existing:
            raise InputError(
                f"{storage.redact(output)}: shard {unit} is missing; label the rest of that run "
                "first"
            )
        for row in iter_labels(read_shard(output, unit, store)):
            name = row.entry.file_name
            if name in wanted and row.status != "failed":
                found[name] = [
                    (classes[own.category_id], own.rle)
                    for own in row.detections
                    if own.score >= least
                ]
    if wanted and not found:
        raise InputError(
            f"{storage.redact(output)}: has none of the images; runs are compared by the file "
            "names of their images"
        )
    return found


def _units(output: str, wanted: set[str], store: Storage) -> list[int]:
    """The units of the images in a manifest, rising."""
    data = manifest_file.read_manifest(output, store)
    ends = np.cumsum(manifest_file.unit_sizes(data))
    names = (name for batch in manifest_file.name_batches(data) for name in batch)
    rows = [row for row, name in enumerate(names) if name in wanted]
    return sorted({int(unit) for unit in np.searchsorted(ends, rows, side="right")})


def differences(
    labels: Sequence[Label], names: Mapping[int, str], others: Objects, picture: Picture
) -> list[Difference]:
    """How far each label of an image is from what the other run has there."""
    ious = mask_ious([label.rle(picture) for label in labels], [rle for _, rle in others])
    return [
        _difference(names[label.category_id], ious[n].tolist(), others)
        for n, label in enumerate(labels)
    ]


def _difference(name: str, ious: Sequence[float], others: Objects) -> Difference:
    best = max(range(len(ious)), key=lambda n: ious[n], default=-1)
    own = [iou for iou, (other, _) in zip(ious, others, strict=True) if other == name]
    iou = max(own, default=0.0)
    if iou >= SAME_IOU:
        return Difference(1 - iou, f"the other run's mask overlaps it with an IoU of {iou:.2f}")
    if best >= 0 and ious[best] >= SAME_IOU:
        return Difference(1.0, f"the other run says {others[best][0]}")
    return Difference(1.0, "the other run has no label here")


def only_there(
    labels: Sequence[Label], names: Mapping[int, str], others: Objects, picture: Picture
) -> int:
    """How many objects of the other run have no label of their class here."""
    if not labels or not others:
        return len(others)
    ious = mask_ious([rle for _, rle in others], [label.rle(picture) for label in labels])
    same = np.array([[names[own.category_id] == name for own in labels] for name, _ in others])
    return int((np.where(same, ious, 0).max(1) < SAME_IOU).sum())
