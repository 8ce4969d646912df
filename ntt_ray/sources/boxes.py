"""Boxes that a detector found in images: read from a file, checked, and put in the images' order.

A file is COCO results, a COCO file with images and annotations, or a Parquet file. Its boxes are
``[x, y, width, height]`` in pixels of the images as they are labelled; scores are from 0 to 1, and
either all boxes have one or none has. It knows no output, and nothing of what boxes are for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.coco_input import BoxesFile, FoundBox
from ntt_ray.errors import InputError
from ntt_ray.json_input import read_with
from ntt_ray.storage import Storage

BOXES_AT_ONCE = 1 << 20
# boxes that are kept before those that are too many for their image are dropped
MOST_HELD = 1 << 24
SHOWN = 3
SIDES = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")  # as in our own table of instances

ImageColumn = Literal["file_name", "image_id"]
Floats = npt.NDArray[np.float64]


class BoxRows(NamedTuple):
    """Some boxes of a file, checked.

    Attributes:
        images: the image of each, by its file name or its id.
        boxes_xyxy: ``(N, 4)`` float32 in pixels.
        scores: ``(N,)`` float32; None where the file has no scores.
    """

    images: pa.Array
    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class BoxCounts:
    """What became of the boxes of a file.

    Attributes:
        boxes: how many there are.
        used: how many will be asked.
        images: how many images of the run have boxes that will be asked.
        images_without: how many have none.
        elsewhere: how many boxes belong to images that are none of the run's.
        over: how many were too many for their image.
        empty: how many have no width or no height.
        without: file names of some images without boxes.
        others: names or ids of some images that are none of the run's.
    """

    boxes: int
    used: int
    images: int
    images_without: int
    elsewhere: int
    over: int
    empty: int
    without: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlacedBoxes:
    """The boxes of all images, by rising row of the image, then by falling score.

    Attributes:
        rows: ``(N,)`` int32, the row of each box's image in the list of images.
        boxes_xyxy: ``(N, 4)`` float32.
        scores: ``(N,)`` float32; 1 in a file without scores.
        has_scores: whether the file has scores.
        counts: what became of the boxes.
    """

    rows: npt.NDArray[np.int32]
    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    has_scores: bool
    counts: BoxCounts


def boxes_digest(uri: str, store: Storage) -> str:
    """SHA-256 of a file of boxes, in hex.

    Raises:
        InputError: there is no such file.
    """
    try:
        with store.open_read(uri) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except FileNotFoundError:
        where = storage.missing_folder(uri)
        raise InputError(f"proposals.boxes: {storage.redact(uri)}: no such file{where}") from None


def placed_boxes(
    uri: str, store: Storage, known: Mapping[ImageColumn, pa.ChunkedArray], per_image: int
) -> PlacedBoxes:
    """Read a file of boxes, and give each image those of its own.

    Memory holds about 70 bytes for each box that is kept, beside the names of the images; of JSON
    the file as well.

    Args:
        uri: a ``.json`` or ``.parquet`` file.
        store: access to files.
        known: the column of file names of all images; that of ids too, where these are the user's.
        per_image: how many boxes of an image are kept, those with the highest scores; of equal ones
            those that come first.

    Raises:
        InputError: the file cannot be used, a box is malformed, or no box belongs to any image.
    """
    shown = f"proposals.boxes: {storage.redact(uri)}"
    try:
        if uri.lower().endswith(".json"):
            column, pieces = _of_json(read_with(BoxesFile, uri, store))
            return _placed(column, pieces, known, per_image)
        if uri.lower().endswith(".parquet"):
            with store.open_read(uri) as stream:
                column, pieces = _of_parquet(pq.ParquetFile(stream))
                return _placed(column, pieces, known, per_image)
    except InputError as error:
        text = str(error).removeprefix(f"{storage.redact(uri)}: ")
        raise InputError(f"{shown}: {text}") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ConnectionError | TimeoutError | FileNotFoundError):
            raise  # that is the store's
        raise InputError(f"{shown}: cannot be read ({error})") from None
    raise InputError(f"{shown}: boxes are read from .json (COCO) and .parquet files")


def _of_json(file: BoxesFile) -> tuple[ImageColumn, Iterator[BoxRows]]:
    return ("image_id" if file.names is None else "file_name"), _json_rows(file)


def _json_rows(file: BoxesFile) -> Iterator[BoxRows]:
    check = _Check()
    for start, found in file.pieces():
        images: pa.Array = pa.array([box.image_id for box in found], pa.int64())
        if file.names is not None:
            images = pa.array(_names_of(file, start, found), pa.string())
        xywh = np.array([box.bbox for box in found], np.float64).reshape(-1, 4)
        scores = np.array([np.nan if b.score is None else b.score for b in found], np.float64)
        yield check(images, xywh, scores, file.what + "[{}]", start)


def _names_of(file: BoxesFile, start: int, found: list[FoundBox]) -> list[str]:
    assert file.names is not None
    names = [file.names.get(box.image_id) for box in found]
    for number, name in enumerate(names):
        if name is None:
            where = f"{file.what}[{start + number}]"
            raise InputError(f"{where}: there is no image with the id {found[number].image_id}")
    return [name for name in names if name is not None]


def _of_parquet(file: pq.ParquetFile) -> tuple[ImageColumn, Iterator[BoxRows]]:
    names = file.schema_arrow.names
    column: ImageColumn = "file_name" if "file_name" in names else "image_id"
    boxes = ("bbox",) if "bbox" in names else SIDES
    if missing := [name for name in (column, *boxes) if name not in names]:
        raise InputError(
            f"has no column {missing[0]!r}; a file of boxes has file_name or image_id, bbox (or "
            f"{', '.join(SIDES)}), and perhaps score"
        )
    scored = ("score",) if "score" in names else ()
    return column, _parquet_rows(file, column, boxes, scored)


def _parquet_rows(
    file: pq.ParquetFile, column: ImageColumn, boxes: tuple[str, ...], scored: tuple[str, ...]
) -> Iterator[BoxRows]:
    kind, check, start = pa.string() if column == "file_name" else pa.int64(), _Check(), 0
    for batch in file.iter_batches(BOXES_AT_ONCE, columns=[column, *boxes, *scored]):
        if not _is(column, batch.schema.field(column).type):
            raise InputError(f"its column {column} is of type {batch.schema.field(column).type}")
        images = batch.column(column).cast(kind)
        xywh = _xywh(batch, boxes, start)
        scores = np.full(len(batch), np.nan)
        if scored:
            scores = _numbers(batch, "score")
        yield check(images, xywh, scores, "row {}", start)
        start += len(batch)


def _is(column: ImageColumn, kind: pa.DataType) -> bool:
    if column == "image_id":
        return bool(pa.types.is_integer(kind))
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _xywh(batch: pa.RecordBatch, boxes: tuple[str, ...], start: int) -> Floats:
    if boxes == SIDES:
        return np.stack([_numbers(batch, name) for name in SIDES], axis=1)
    lists = batch.column(boxes[0])
    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    if not any(is_kind(lists.type) for is_kind in kinds):
        raise InputError(f"its column bbox is of type {lists.type}, and holds no lists of numbers")
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    if (wrong := np.flatnonzero(lengths != 4)).size:
        raise InputError(f"row {start + wrong[0]}: its bbox is not [x, y, width, height]")
    flat = pa.RecordBatch.from_arrays([lists.flatten()], ["bbox"])
    return _numbers(flat, "bbox").reshape(-1, 4)


def _numbers(batch: pa.RecordBatch, name: str) -> Floats:
    """A column of numbers; NaN where it holds none."""
    column = batch.column(name)
    if not pa.types.is_integer(column.type) and not pa.types.is_floating(column.type):
        raise InputError(f"its column {name} holds {column.type}, and no numbers")
    numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, np.float64)


class _Check:
    """Checks boxes piece by piece; whether there are scores, the first box says."""

    def __init__(self) -> None:
        self._scored: bool | None = None

    def __call__(
        self, images: pa.Array, xywh: Floats, scores: Floats, name: str, start: int
    ) -> BoxRows:
        """Boxes of a file; `name` is what a box is called, by its number: from `start` on.

        Raises:
            InputError: with the first box that is malformed.
        """
        with np.errstate(over="ignore"):
            boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            boxes = boxes.astype(np.float32)
        missing = np.isnan(scores)
        if self._scored is None and len(scores):
            self._scored = not missing[0]
        problems = {
            "names no image": np.asarray(images.is_null().to_numpy(zero_copy_only=False)),
            "its bbox has a value that is no number, or too large": ~(
                np.isfinite(xywh).all(axis=1) & np.isfinite(boxes).all(axis=1)
            ),
            "its bbox has a negative width or height": (xywh[:, 2:] < 0).any(axis=1),
            "has a score where others have none" if not self._scored else "has no score": (
                missing == bool(self._scored)
            ),
            "its score is not from 0 to 1": (scores < 0) | (scores > 1),
        }
        for text, wrong in problems.items():
            if count := int(wrong.sum()):
                more = f" (and {count - 1} others near it)" if count > 1 else ""
                raise InputError(f"{name.format(start + int(wrong.argmax()))}: {text}{more}")
        return BoxRows(images, boxes, scores.astype(np.float32) if self._scored else None)


def _placed(
    column: ImageColumn,
    pieces: Iterator[BoxRows],
    known: Mapping[ImageColumn, pa.ChunkedArray],
    per_image: int,
) -> PlacedBoxes:
    if column not in known:
        raise InputError(
            "names images by image_id alone, and the images of this run (or of a sample of ntt-ray "
            "plan) were given no ids; list them by a COCO file, or name them in the boxes by "
            "file_name: in Parquet by a column, in JSON by a COCO file with images and annotations"
        )
    held, scored, others = _Held(per_image), False, dict[str, None]()
    total = elsewhere = empty = 0
    for images, boxes, scores in _joined(pieces):
        scored = scored or scores is not None
        rows = pc.index_in(images, value_set=known[column]).to_numpy(zero_copy_only=False)
        there = np.isfinite(rows) if rows.dtype.kind == "f" else np.ones(len(rows), np.bool_)
        some = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        total, elsewhere = total + len(rows), elsewhere + int((~there).sum())
        empty += int((there & ~some).sum())
        for number in np.flatnonzero(~there)[: 100 * SHOWN].tolist():
            if len(others) < SHOWN:
                others[str(images[number].as_py())] = None
        kept = there & some
        own = np.ones(len(rows), np.float32) if scores is None else scores
        held.add(rows[kept].astype(np.int32), boxes[kept], own[kept])
    rows, boxes, found = held.best()
    names = known["file_name"]
    if not len(rows):
        raise InputError(
            f"none of its {total} boxes can be asked: {elsewhere} belong to no image of the run"
            f"{_examples(others)}, {empty} have no width or height. The run's images are named as "
            f"{', '.join(names[:SHOWN].to_pylist())}"
        )
    with_boxes = np.zeros(len(names), np.bool_)
    with_boxes[rows] = True
    without = np.flatnonzero(~with_boxes)
    counts = BoxCounts(
        boxes=total,
        used=len(rows),
        images=int(with_boxes.sum()),
        images_without=len(without),
        elsewhere=elsewhere,
        over=held.over,
        empty=empty,
        without=tuple(names[int(row)].as_py() for row in without[:SHOWN]),
        others=tuple(others),
    )
    return PlacedBoxes(rows, boxes, found, scored, counts)


def _examples(names: Mapping[str, None]) -> str:
    return f" ({', '.join(names)}, ...)" if names else ""


def _joined(pieces: Iterator[BoxRows]) -> Iterator[BoxRows]:
    """The same boxes in pieces that are worth a search among all images."""
    held, count = list[BoxRows](), 0
    for piece in pieces:
        held.append(piece)
        count += len(piece.boxes_xyxy)
        if count >= BOXES_AT_ONCE:
            yield _one(held)
            held, count = [], 0
    if held:
        yield _one(held)


def _one(pieces: list[BoxRows]) -> BoxRows:
    images, boxes, scores = zip(*pieces)
    known = [own for own in scores if own is not None]
    return BoxRows(
        pa.concat_arrays(images), np.concatenate(boxes), np.concatenate(known) if known else None
    )


class _Held:
    """Boxes of images, of each image no more than are wanted in the end.

    Attributes:
        over: how many boxes were too many for their image.
    """

    def __init__(self, per_image: int) -> None:
        self._per_image, self.over, self._count = per_image, 0, 0
        # rows, boxes and scores, each in parts that are let go once they are joined
        self._parts: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self.add(np.zeros(0, np.int32), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def add(self, *fields: Any) -> None:
        """Rows, boxes and scores of boxes that come behind those there are."""
        for parts, field in zip(self._parts, fields, strict=True):
            parts.append(field)
        self._count += len(fields[0])
        if self._count > MOST_HELD:
            for parts, field in zip(self._parts, self.best(), strict=True):
                parts.append(field)
            self._count = 0  # what is left may be as many: then there is no more to drop

    def best(self) -> tuple[Any, Any, Any]:
        """The best boxes of each image, by rising row, then by falling score; none is held then."""
        every, boxes, scores = (_popped(parts) for parts in self._parts)
        order = np.lexsort((-scores, every)).astype(np.int32)  # stable
        rows = every[order]
        del every
        rank = np.arange(len(rows), dtype=np.int32)
        rank -= np.searchsorted(rows, rows).astype(np.int32)
        kept = rank < self._per_image
        self.over += int((~kept).sum())
        order, rows = order[kept], rows[kept]
        del rank, kept
        scores = scores[order]
        return rows, boxes[order], scores


def _popped(parts: list[Any]) -> Any:
    """The parts in one, and none of them left."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole
