"""One shard against its unit: rows, statuses, scores and masks. It reads nothing itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ntt_ray.masks import measure_rles
from ntt_ray.records import ImageEntry
from ntt_ray.verify.problems import Findings

DIFFERENCES_SHOWN = 3


def check_provenance(
    metadata: Mapping[bytes, bytes] | None, provenance: Mapping[str, str], where: str, out: Findings
) -> None:
    """Whether a shard's metadata say that it was made of what the run was made of."""
    found = metadata or {}
    for key, value in provenance.items():
        said = found.get(key.encode(), b"nothing").decode("utf-8", "replace")
        if said != value:
            text = f"its {key} is {said[:12]}, the run's {value[:12]}"
            out.problem("shard of another run", where, text)


def check_images(
    rows: Sequence[Mapping[str, Any]],
    entries: Sequence[ImageEntry],
    unit_of: Callable[[int], int | None],
    where: str,
    out: Findings,
) -> None:
    """Whether the rows are the images of the unit, each once, in order.

    Args:
        rows: rows of the shard.
        entries: images of the unit in the manifest.
        unit_of: gives the unit that an image id belongs to, if any.
        where: the shard's name.
        out: takes the problems.
    """
    found = [row["image_id"] for row in rows]
    wanted = [entry.image_id for entry in entries]
    names = {entry.image_id: entry.file_name for entry in entries}
    counts = Counter(found)
    for image_id, count in counts.items():
        if image_id not in names:
            unit = unit_of(image_id)
            home = "is not in the manifest" if unit is None else f"belongs to unit {unit}"
            out.problem("foreign image", where, f"image {image_id} {home}")
        elif count > 1:
            out.problem("image twice", where, f"image {image_id} has {count} rows")
    for image_id in wanted:
        if image_id not in counts:
            text = f"image {image_id} ({names[image_id]!r}) has no row"
            out.problem("image without row", where, text)
    if found != wanted and counts == Counter(wanted):
        first = next(a for a, b in zip(found, wanted, strict=True) if a != b)
        out.problem("rows out of order", where, f"image {first} is not where the manifest has it")
    for row in rows:
        name = names.get(row["image_id"], row["file_name"])
        if row["file_name"] != name:
            text = f"is {row['file_name']!r}, in the manifest {name!r}"
            out.problem("wrong file name", f"{where}, image {row['image_id']}", text)


def check_row(
    row: Mapping[str, Any], category_ids: Collection[int], where: str, out: Findings
) -> None:
    """Whether one row agrees with itself and with the category ids of the run's classes."""
    for text in _status_problems(row):
        out.problem("wrong status", where, text)
    found = row["annotations"]
    scores = [item["score"] for item in found]
    if not all(0.0 <= score <= 1.0 for score in scores):  # NaN is not either
        out.problem("wrong score", where, f"its scores {_shown(scores)} are not all in 0 to 1")
    elif any(a < b for a, b in pairwise(scores)):
        out.problem("wrong score", where, f"its scores {_shown(scores)} do not fall")
    if not all(math.isfinite(item["predicted_iou"]) for item in found):
        out.problem("wrong score", where, "a predicted_iou is not a number")
    for category_id in {item["category_id"] for item in found} - set(category_ids):
        out.problem("unknown class", where, f"category {category_id} is no class of the run")
    if found and row["height"] is not None and row["width"] is not None:
        _check_masks(row, where, out)


def _status_problems(row: Mapping[str, Any]) -> list[str]:
    status, size, found = row["status"], (row["height"], row["width"]), len(row["annotations"])
    if status == "failed":
        problems = [] if row["error"] else ["failed without a reason"]
        if size != (None, None) or found:
            problems.append("failed, yet it has a size or detections")
        return problems
    if status not in ("ok", "empty"):
        return [f"{status!r} is not one of ok, empty, failed"]
    problems = []
    if row["error"] is not None:
        problems.append(f"{status}, yet it has a reason to fail: {row['error']!r}")
    if not all(value is not None and value > 0 for value in size):
        problems.append(f"{status}, but its size is {size[0]} x {size[1]}")
    if (status == "ok") != (found > 0):
        problems.append(f"{status}, but it has {found} detections")
    return problems


def _check_masks(row: Mapping[str, Any], where: str, out: Findings) -> None:
    found = row["annotations"]
    count = len(found)
    counts = [item["counts"] for item in found]
    measures = measure_rles(counts, [row["height"]] * count, [row["width"]] * count)
    areas, boxes = measures.areas.tolist(), measures.boxes_xywh.tolist()
    for index, item in enumerate(found):
        place = f"{where}, detection {index + 1}"
        if index in measures.problems:
            out.problem("wrong mask", place, f"has an RLE {measures.problems[index]}")
        elif areas[index] == 0:
            out.problem("wrong mask", place, "its mask is empty")
        else:
            if item["area"] != areas[index]:
                text = f"says {item['area']}, its mask has {areas[index]} pixels"
                out.problem("wrong area", place, text)
            if item["bbox"] != boxes[index]:
                out.problem("wrong box", place, f"says {item['bbox']}, its mask {boxes[index]}")


def _shown(scores: Sequence[float]) -> str:
    text = ", ".join(f"{score:g}" for score in scores[:DIFFERENCES_SHOWN])
    return text + (", ..." if len(scores) > DIFFERENCES_SHOWN else "")
