"""Ground truth and results of ellipses, and what pycocotools itself says of any of both."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt_ray.masks import encode_mask

SIDE = 120
BOX, SMALL, LARGE = (10, 10, 40, 30), (5, 5, 20, 20), (5, 5, 110, 105)
METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def ellipse(box):
    x, y, width, height = box
    rows, columns = np.mgrid[:SIDE, :SIDE]
    across = (columns + 0.5 - x - width / 2) / (width / 2)
    down = (rows + 0.5 - y - height / 2) / (height / 2)
    return encode_mask(across**2 + down**2 <= 1)


def truth_of(objects, images, classes=3):
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, classes + 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": list(map(float, box))}
            | {"segmentation": ellipse(box), "area": 0.78 * box[2] * box[3], "iscrowd": int(crowd)}
            for n, (image, category, box, crowd) in enumerate(objects, start=1)
        ],
    }


def results_of(found):
    return [
        {"image_id": image, "category_id": category, "bbox": list(map(float, box))}
        | {"segmentation": ellipse(box), "score": score}
        for image, category, box, score in found
    ]


def official(truth, results, kind, category_ids=None):
    """What pycocotools itself summarises, of all or some classes; nothing of ours is in it."""
    own = "segmentation" if kind == "segm" else "bbox"
    with contextlib.redirect_stdout(io.StringIO()):
        coco, found = COCO(), COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        if results:
            rows = [{k: r[k] for k in ("image_id", "category_id", "score", own)} for r in results]
            found = coco.loadRes(rows)
        else:
            found.dataset = {**coco.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(coco, found, kind)
        if category_ids is not None:
            evaluation.params.catIds = category_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))
