"""The COCO files of a run, written plainly: one record after another, with Python's json.

What `ntt_ray.merge.passes` must give to the byte; simple enough to be believed.
"""

import json
from dataclasses import replace

from ntt_ray.run.shard import iter_labels, read_shard


def plain_coco(
    output, shard_ids, store, *, classes, info, thresholds, images_per_file=None
) -> dict[str, bytes]:
    """Content of ``annotations.json``, and ``results.json`` by name, or of their parts."""
    rows = [row for shard in shard_ids for row in iter_labels(read_shard(output, shard, store))]
    step = images_per_file or max(1, len(rows))
    parts = [rows[start : start + step] for start in range(0, max(1, len(rows)), step)]
    names = ["annotations.json"]
    if images_per_file:
        count = len(parts)
        names = [f"annotations-{i:05d}-of-{count:05d}.json" for i in range(1, count + 1)]
    files, next_id = {}, 1
    for name, part in zip(names, parts, strict=True):
        images = [_dumps(_image(row)) for row in part if row.height is not None]
        annotations = []
        for row in part:
            for detection in kept_detections(row, thresholds):
                annotations.append(_dumps(_annotation(next_id, row, detection)))
                next_id += 1
        text = _head(classes, info)
        text += f',\n"images": [{_listed(images)}],\n"annotations": [{_listed(annotations)}]}}\n'
        files[name] = text.encode("ascii")
    every = thresholds.any_score()
    for name, part in zip(names, parts, strict=True):
        results = [_dumps(_result(row, d)) for row in part for d in kept_detections(row, every)]
        text = "[" + ",\n".join(results) + "]\n"
        files[name.replace("annotations", "results")] = text.encode("ascii")
    return files


def kept_detections(row, thresholds):
    """What a merge keeps of a row, by rank, with the category ids of the merged files."""
    own = thresholds.categories
    return [
        d if own is None else replace(d, category_id=own[d.category_id])
        for d in row.detections
        if d.score >= thresholds.of_class(d.category_id)
    ]


def _listed(items):
    return "\n" + ",\n".join(items) if items else ""


def _head(classes, info):
    categories = [
        {"id": c.category_id, "name": c.name, "supercategory": ""}
        for c in sorted(classes, key=lambda c: c.category_id)
    ]
    return _dumps({"info": info, "licenses": [], "categories": categories})[:-1]


def _image(row):
    return {
        "id": row.entry.image_id,
        "file_name": row.entry.file_name,
        "width": row.width,
        "height": row.height,
    }


def _annotation(identity, row, detection):
    return {
        "id": identity,
        "area": detection.area,
        "iscrowd": 0,
        **_result(row, detection),
    }


def _result(row, detection):
    return {
        "image_id": row.entry.image_id,
        "category_id": detection.category_id,
        "bbox": list(detection.bbox_xywh),
        "score": round(detection.score, 7),
        "segmentation": detection.rle,
    }


def _dumps(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
