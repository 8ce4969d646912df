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

from ntt_ray import storage
from ntt_ray.merge.fragments import FOUND, IMAGES, KEPT, Fragment
from ntt_ray.merge.instances import flat_instances
from ntt_ray.merge.json_text import BETWEEN, annotation_texts, image_texts, result_texts
from ntt_ray.merge.rendering import (
    Merge,
    Piece,
    Render,
    Section,
    TextFile,
    Texts,
    Written,
    publish_files,
)
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import COCO_FILE, RESULTS_FILE, split_names, split_pattern

_SIZE = ("image_id", "height", "width")
_IMAGE = (*_SIZE, "file_name")
INSTANCE = _SIZE + tuple(
    f"annotations.list.element.{name}"
    for name in ("category_id", "score", "bbox.list.element", "area", "counts")
)


def write_coco(merge: Merge) -> Written:
    """Write ``annotations.json``, or the files that it is split into.

    Each file is whole in itself; annotation ids go on from file to file. Of an earlier merge that
    was split in another way nothing stays.
    """
    return publish_parts(merge, coco_files(merge, COCO_FILE, _annotations), COCO_FILE)


def publish_parts(merge: Merge, files: Sequence[TextFile], name: str) -> Written:
    """Publish the files that `name` is split into; of an earlier split nothing stays."""
    output, store, ours = merge.source.output, merge.source.store, re.compile(split_pattern(name))
    store.discard_unfinished(output, ours)
    written = publish_files(merge, files)
    for left in store.list_folder(output):
        if ours.fullmatch(left) and left not in written.files:
            store.delete(storage.join(output, left))
    return written


def write_results(merge: Merge) -> Written:
    """Write ``results.json``: every detection of the chosen classes, whatever its score."""
    merge.source.store.discard_unfinished(merge.source.output, re.compile(re.escape(RESULTS_FILE)))
    fragments = merge.layout.fragments(FOUND, 0, merge.layout.rows, 1)
    section = _section("[", len(BETWEEN), "]\n", fragments, INSTANCE, _results)
    return publish_files(merge, [TextFile(RESULTS_FILE, (section,))])


def coco_file_names(images: int, images_per_file: int | None, name: str = COCO_FILE) -> list[str]:
    """Names of the files that ``annotations.json`` consists of.

    Args:
        images: how many rows went into the merge, failed images included.
        images_per_file: how many images each file has; None: there is one file for all.
        name: name of another file that is split in the same way.
    """
    if images_per_file is None:
        return [name]
    return split_names(name, max(1, -(-images // images_per_file)))


def coco_files(merge: Merge, name: str, annotations: Render) -> list[TextFile]:
    """The COCO file of a merge, or its parts, with annotations of some form.

    Args:
        merge: what every profile gets.
        name: name of the file when it is not split.
        annotations: renders rows with the columns that `INSTANCE` names.
    """
    layout, head = merge.layout, _head(merge.classes, merge.info)
    step = merge.images_per_file or max(1, layout.rows)
    names = coco_file_names(layout.rows, merge.images_per_file, name)
    files, next_id = [], 1
    for number, part in enumerate(names):
        start = number * step
        images = layout.fragments(IMAGES, start, start + step, 1)
        kept = layout.fragments(KEPT, start, start + step, next_id)
        opening = f'{head},\n"images": ['
        sections = (
            _section(opening, 1, "]", images, _IMAGE, _images),
            _section(',\n"annotations": [', 1, "]}\n", kept, INSTANCE, annotations),
        )
        files.append(TextFile(part, sections))
        next_id += sum(fragment.items for fragment in kept)
    return files


def _section(
    opening: str,
    skip: int,
    closing: str,
    fragments: Sequence[Fragment],
    columns: tuple[str, ...],
    render: Render,
) -> Section:
    pieces = tuple(Piece(fragment, columns, render) for fragment in fragments)
    return Section(opening, skip, closing, pieces)


def _images(rows: pa.RecordBatch, _thresholds: Thresholds, _first_id: int) -> Texts:
    return Texts(image_texts(rows))


def _annotations(rows: pa.RecordBatch, thresholds: Thresholds, first_id: int) -> Texts:
    return Texts(annotation_texts(flat_instances(rows, thresholds), first_id))


def _results(rows: pa.RecordBatch, thresholds: Thresholds, _first_id: int) -> Texts:
    return Texts(result_texts(flat_instances(rows, thresholds.any_score())))


def _head(classes: Sequence[ClassLabel], info: Mapping[str, Any]) -> str:
    categories = [
        {"id": c.category_id, "name": c.name, "supercategory": ""}
        for c in sorted(classes, key=lambda c: c.category_id)
    ]
    head = {"info": dict(info), "licenses": [], "categories": categories}
    return json.dumps(head, separators=(",", ":"), sort_keys=True)[:-1]
