"""Class mIoU and FB-IoU: instances rendered into one class map per image, as COCO-20i is judged.

Ground truth is rendered largest first, detections by rising score, so the best one is on top.
Pixels of a crowd region are neither right nor wrong, unless an object lies on them. Each image is
counted into one confusion of pixels and forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray.errors import InputError
from ntt_ray.evaluate.average_precision import Items, Selection, by_image, falling_score
from ntt_ray.masks import decode_rle, rle_area

ClassMap = npt.NDArray[np.int64]


def semantic_metrics(
    selection: Selection, names: Mapping[int, str], min_score: float
) -> dict[str, Any]:
    """Compare class maps.

    Args:
        selection: ground truth and detections with masks.
        names: names of the classes by category id.
        min_score: detections with a lower score are not rendered.

    Returns:
        ``mIoU``, the mean over classes that have a pixel in the ground truth or in a detection;
        ``FBIoU``, the mean of foreground (any class) and background; ``classes``, IoU by name.
        None where no pixel was seen.

    Raises:
        InputError: a detection's mask has another size than its image.
    """
    rank = {category_id: n for n, category_id in enumerate(sorted(names), start=1)}
    pixels = np.zeros((len(rank) + 1, len(rank) + 1), dtype=np.int64)
    truths = by_image(selection.truth["annotations"])
    founds = by_image(d for d in selection.detections if d["score"] >= min_score)
    for image in selection.truth["images"]:
        size_hw = (image["height"], image["width"])
        objects = sorted(truths[image["id"]], key=lambda a: -rle_area(a["segmentation"]))
        # the reverse of falling scores: of equal ones the first is on top, as in `semantic-png`
        found = sorted(founds[image["id"]], key=falling_score)[::-1]
        crowds = [a for a in objects if a["iscrowd"]]
        things = [a for a in objects if not a["iscrowd"]]
        truth, ours, crowd = (
            _rendered(items, rank, size_hw, image["file_name"]) for items in (things, found, crowds)
        )
        judged = (crowd == 0) | (truth > 0)
        pixels += _confusion(truth[judged], ours[judged], len(pixels))
    ious = _ious(pixels)
    both = np.array(
        [[pixels[0, 0], pixels[0, 1:].sum()], [pixels[1:, 0].sum(), pixels[1:, 1:].sum()]]
    )
    return {
        "mIoU": _mean(ious[1:]),
        "FBIoU": _mean(_ious(both)),
        "classes": {names[i]: _mean(ious[n : n + 1]) for i, n in rank.items()},
    }


def _rendered(
    items: Items, rank: Mapping[int, int], size_hw: tuple[int, int], file_name: str
) -> ClassMap:
    """Render masks over each other, the last on top; 0 is background."""
    rendered = np.zeros(size_hw, dtype=np.int64)
    for item in items:
        mask = decode_rle(item["segmentation"])
        if mask.shape != size_hw:
            raise InputError(
                f"ground_truth: {file_name} has {size_hw[1]} x {size_hw[0]} pixels, a mask found "
                f"in it {mask.shape[1]} x {mask.shape[0]}"
            )
        rendered[mask] = rank[item["category_id"]]
    return rendered


def _confusion(truth: ClassMap, found: ClassMap, classes: int) -> npt.NDArray[np.int64]:
    """Pixels by true class and found class."""
    joint = np.bincount(truth * classes + found, minlength=classes * classes)
    return joint.reshape(classes, classes)


def _ious(pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """IoU of each class; NaN for one without a pixel on either side."""
    inner = np.diag(pixels).astype(np.float64)
    union = pixels.sum(0) + pixels.sum(1) - inner
    return np.asarray(np.divide(inner, union, out=np.full_like(inner, np.nan), where=union > 0))


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """Mean of the numbers; None where all are NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
