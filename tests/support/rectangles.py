"""Ground truth of rectangles in three images, and results that find them all."""

import numpy as np

from ntt_ray.masks import encode_mask
from ntt_ray.records import ClassLabel

CLASSES = [ClassLabel(1, "nut"), ClassLabel(2, "bolt")]
NAMES = {10: "a.jpg", 11: "b.jpg", 12: "c.jpg"}


def rectangle(x, y, width, height):
    mask = np.zeros((50, 60), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return encode_mask(mask)


def truth_of(annotations, names=("nut", "bolt", "other")):
    return {
        "images": [
            {"id": i, "file_name": n, "width": 60, "height": 50}
            for i, n in enumerate(("a.jpg", "b.jpg", "c.jpg"), start=1)
        ],
        "categories": [{"id": 5 + i, "name": n} for i, n in enumerate(names)],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": list(map(float, box)),
                "area": float(box[2] * box[3]),
                "iscrowd": 0,
                "segmentation": rectangle(*box),
            }
            for number, (image, category, box) in enumerate(annotations, start=1)
        ],
    }


def result_of(image, category, box, score):
    return {
        "image_id": image,
        "category_id": category,
        "bbox": list(map(float, box)),
        "score": score,
        "segmentation": rectangle(*box),
    }


TRUTH = truth_of([(1, 5, (5, 5, 20, 20)), (2, 6, (30, 10, 20, 30)), (1, 7, (40, 30, 10, 10))])
PERFECT = [result_of(10, 1, (5, 5, 20, 20), 0.9), result_of(11, 2, (30, 10, 20, 30), 0.8)]
