"""The profiles ``coco`` (``annotations.json``) and ``coco-results`` (``results.json``).

The rules each have a reader behind them that fails otherwise: compressed RLE with an ASCII string,
``iscrowd`` 0, annotation ids from 1 without gaps, tight boxes, ``info`` and ``licenses`` present,
images without objects listed, the decoded size of every image. It does not know Ray or the models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ntt_ray.merge.fragments import FOUND, IMAGES, KEPT, Measure
from ntt_ray.merge.instances import annotation_columns, flat_instances
from ntt_ray.merge.json_text import BETWEEN, annotation_texts, image_texts, result_texts
from ntt_ray.merge.rendering import Merge, Render, Texts, Written
from ntt_ray.merge.text_files import Section, TextFile, publish_files
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import COCO_FILE, RESULTS_FILE, split_names, split_pattern

_SIZE = ("image_id", "height", "width")
_IMAGE = (*_SIZE, "file_name")
INSTANCE = _SIZE + annotation_columns("category_id", "score", "bbox.list.element", "area", "counts")


def write_coco(merge: Merge) -> Written:
    """Write ``annotations.json``, or the files that it is split into.

    Each file is whole in itself; annotation ids go on from file to file. Of an earlier merge that
    was split in another way nothing stays.
    """
    return publish_split(merge, coco_files(merge, COCO_FILE, _annotations), COCO_FILE)


def publish_split(merge: Merge, files: Sequence[TextFile], name: str) -> Written:
    """Publish the files that `name` is split into; of an earlier split nothing stays."""
    source, ours = merge.source, re.compile(split_pattern(name))
    source.store.discard_unfinished(source.target, ours)
    written = publish_files(merge, files)
    source.delete_others(ours, written.files)
    return written


def write_results(merge: Merge) -> Written:
    """Write ``results.json``: every detection of the chosen classes, whatever its score.

    It is split as ``annotations.json`` is.
    """
    files = []
    for name, start, stop in split(merge, RESULTS_FILE):
        fragments = merge.layout.fragments(FOUND, start, stop, 1)
        section = Section("[", len(BETWEEN), "]\n", fragments, INSTANCE, _results)
        files.append(TextFile(name, (section,)))
    return publish_split(merge, files, RESULTS_FILE)


def split(merge: Merge, name: str) -> list[tuple[str, int, int]]:
    """The files that `name` is split into, each with its first row and the one behind its last."""
    rows, per_file = merge.layout.rows, merge.images_per_file
    if per_file is None:
        return [(name, 0, rows)]
    names = split_names(name, max(1, -(-rows // per_file)))
    return [(part, n * per_file, (n + 1) * per_file) for n, part in enumerate(names)]


def coco_files(
    merge: Merge, name: str, annotations: Render, measure: Measure = KEPT
) -> list[TextFile]:
    """The COCO file of a merge, or what it is split into.

    Args:
        merge: the merge.
        name: name of the file.
        annotations: renders them of rows with the columns that `INSTANCE` names.
        measure: counts them, and knows how long they are.
    """
    opening = f'{_head(merge.classes, merge.info)},\n"images": ['
    files, next_id = [], 1
    for part, start, stop in split(merge, name):
        images = merge.layout.fragments(IMAGES, start, stop, 1)
        kept = merge.layout.fragments(measure, start, stop, next_id)
        sections = (
            Section(opening, 1, "]", images, _IMAGE, _images),
            Section(',\n"annotations": [', 1, "]}\n", kept, INSTANCE, annotations),
        )
        files.append(TextFile(part, sections))
        next_id += sum(fragment.items for fragment in kept)
    return files


def _images(rows: pa.RecordBatch, _thresholds: Thresholds, _first_id: int) -> Texts:
    return image_texts(rows), None


def _annotations(rows: pa.RecordBatch, thresholds: Thresholds, first_id: int) -> Texts:
    return annotation_texts(flat_instances(rows, thresholds), first_id), None


def _results(rows: pa.RecordBatch, thresholds: Thresholds, _first_id: int) -> Texts:
    return result_texts(flat_instances(rows, thresholds.any_score())), None


def _head(classes: Sequence[ClassLabel], info: Mapping[str, Any]) -> str:
    categories = [{"id": c.category_id, "name": c.name, "supercategory": ""} for c in classes]
    head = {"info": dict(info), "licenses": [], "categories": categories}
    return json.dumps(head, separators=(",", ":"), sort_keys=True)[:-1]
