"""The profile ``labelstudio``: tasks with brush masks as predictions, to be corrected by people.

``labelstudio.json`` has a task for each image that could be read, in manifest order, and
``labelstudio.xml`` the labelling interface that fits. The address of an image is its URI without
credentials, or what `merge.image_url` makes of its name or URI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pyarrow as pa

from ntt_ray.merge import mask_parts
from ntt_ray.merge.fragments import INSTANCE_BYTES, Measure
from ntt_ray.merge.instances import ShardIndex, flat_instances
from ntt_ray.merge.json_text import BETWEEN, SCORE_STEP
from ntt_ray.merge.mask_parts import MaskPart, iter_parts
from ntt_ray.merge.profiles.brush import brush_rle
from ntt_ray.merge.profiles.coco import publish_split, split
from ntt_ray.merge.rendering import Merge, Texts, Written
from ntt_ray.merge.text_files import Section, TextFile
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import INTERFACE_FILE, TASKS_FILE

_COLUMNS = ("file_name", "uri", *mask_parts.COLUMNS)
_LONGER = 10  # a brush mask than our RLE, about


def _weights(shard: ShardIndex) -> Any:
    mean = shard.counts_bytes / max(1, int(shard.found.sum()))
    return (1 + shard.kept) * float(INSTANCE_BYTES + _LONGER * mean)


TASKS = Measure(lambda shard: shard.readable, _weights)


def write_label_studio(merge: Merge) -> Written:
    """Write the tasks, split as ``annotations.json`` is, and the labelling interface."""
    names = {label.category_id: label.name for label in merge.classes}
    version, url = _model_version(merge.info), merge.image_url or "{uri}"
    render = partial(_tasks, names=names, version=version, image_url=url)
    files = []
    for name, start, stop in split(merge, TASKS_FILE):
        fragments = merge.layout.fragments(TASKS, start, stop, 1)
        section = Section("[", len(BETWEEN), "]\n", fragments, _COLUMNS, render)
        files.append(TextFile(name, (section,)))
    written = publish_split(merge, files, TASKS_FILE)
    interface_file = merge.source.publish(INTERFACE_FILE, interface(merge.classes).encode())
    return Written({**written.files, INTERFACE_FILE: interface_file})


def interface(classes: Sequence[ClassLabel]) -> str:
    """The labelling interface, for the settings of a Label Studio project."""
    labels = [
        f"    <Label value={quoteattr(label.name)}/>\n"
        for label in sorted(classes, key=lambda label: label.category_id)
    ]
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        '  <BrushLabels name="label" toName="image">\n'
        f"{''.join(labels)}  </BrushLabels>\n</View>\n"
    )


def _model_version(info: Mapping[str, Any]) -> str:
    """Which labels these are: our version, and the start of the run's hash."""
    return f"ntt-ray {info.get('version', '')} {info.get('labels_hash', '')[:12]}".strip()


def _tasks(
    rows: pa.RecordBatch,
    thresholds: Thresholds,
    _first_id: int,
    *,
    names: Mapping[int, str],
    version: str,
    image_url: str,
) -> Texts:
    instances = flat_instances(rows, thresholds)
    columns = [instances.column(name).to_pylist() for name in ("image_id", "category_id", "score")]
    found = zip(*columns, iter_parts(instances), strict=True)
    regions: dict[int, list[dict[str, Any]]] = {
        image_id: [region(names[category], score, part) for _, category, score, part in group]
        for image_id, group in groupby(found, key=lambda item: item[0])
    }
    tasks = [
        BETWEEN + task_text(row, regions.get(row["image_id"], []), version, image_url)
        for row in rows.select(["image_id", "file_name", "uri", "height"]).to_pylist()
        if row["height"] is not None
    ]
    return pa.array(tasks, pa.string()), None


def image_address(template: str, file_name: str, uri: str) -> str:
    """The address of an image by a template, e.g. ``/data/local-files/?d=photos/{file_name}``."""
    values = {"{file_name}": quote(file_name), "{uri}": uri}
    return re.sub(r"\{file_name\}|\{uri\}", lambda found: values[found[0]], template)


def task_text(
    row: Mapping[str, Any], regions: Sequence[dict[str, Any]], version: str, image_url: str
) -> str:
    """A task as JSON; the score of its prediction is the mean of its masks' scores.

    Args:
        row: image_id, file_name and uri of the image.
        regions: its masks, see `region`; one without an ``id`` gets one of image and rank.
        version: which labels these are.
        image_url: the address of the image, see `image_address`.
    """
    scores = [found["score"] for found in regions]
    mean = round(sum(scores) / len(scores), 7) if scores else 0.0
    numbered = [{"id": f"{row['image_id']}-{rank}", **r} for rank, r in enumerate(regions, 1)]
    address = image_address(image_url, row["file_name"], row["uri"])
    data = {"image": address, "file_name": row["file_name"], "image_id": row["image_id"]}
    prediction = {"model_version": version, "score": mean, "result": numbered}
    task = {"data": data, "predictions": [prediction]}
    return json.dumps(task, separators=(",", ":"), sort_keys=True)


def region(name: str, score: float, part: MaskPart) -> dict[str, Any]:
    """A brush mask of a class."""
    height, width = part.size_hw
    return {
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(score * SCORE_STEP) / SCORE_STEP,
        "value": {"format": "rle", "rle": brush_rle(part), "brushlabels": [name]},
    }
