"""Judged images of a made-up calibration, and the page of them; names are hostile."""

import numpy as np

from ntt_ray.calibrate.page import (
    Judged,
    render_calibration,
    render_judged,
    worst_first,
)
from ntt_ray.calibrate.thresholds import calibrate, judge
from ntt_ray.evaluate.matching import TruthObject, match
from ntt_ray.masks import encode_mask
from ntt_ray.records import ClassLabel, Detection, ImageEntry, ImageLabels

HOSTILE = '"><script>alert(1)</script> 鳥'
NUT, BOLT = ClassLabel(2, HOSTILE), ClassLabel(2**31 - 1, "bolt")
IMAGE = np.zeros((40, 60, 3), dtype=np.uint8)


def _rle(x1, y1, x2, y2):
    mask = np.zeros((40, 60), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return encode_mask(mask)


def _found(category_id, score, *box) -> Detection:
    x1, y1, x2, y2 = box
    return Detection(
        category_id, score, 0.9, (x1, y1, x2 - x1, y2 - y1), (x2 - x1) * (y2 - y1), _rle(*box)
    )


def _judged(number: int, *found: Detection, classes=None) -> Judged:
    """A nut at (5, 5) to (15, 15) and a bolt at (30, 5) to (40, 15)."""
    entry = ImageEntry(number, f"{number}{HOSTILE}.png", f"/x/{number}.png")
    ordered = tuple(sorted(found, key=lambda d: -d.score))
    objects = (
        TruthObject(2, _rle(5, 5, 15, 15)),
        TruthObject(BOLT.category_id, _rle(30, 5, 40, 15)),
    )
    matches = match(ordered, objects)
    labels = ImageLabels.labelled(entry, (40, 60), ordered)
    return Judged(labels, matches, judge(ordered, matches, classes=classes))


GOOD = (_found(2, 0.9, 5, 5, 15, 15), _found(BOLT.category_id, 0.8, 30, 5, 40, 15))
PART = _found(2, 0.7, 5, 5, 15, 9)
ELSEWHERE = _found(2, 0.6, 5, 25, 15, 35)
LOW = _found(2, 0.1, 5, 25, 15, 35)
LIMITS = {2: 0.5, BOLT.category_id: 0.5}


def _page(images, **options) -> str:
    seen = [image.outcomes for image in images]
    found = calibrate(seen, [NUT, BOLT])
    shown = worst_first(images, LIMITS)
    views = [render_judged(image, IMAGE, LIMITS) for image in shown]
    return render_calibration(
        found, seen, views, **({"wanted_precision": None, "complete": False} | options)
    )
