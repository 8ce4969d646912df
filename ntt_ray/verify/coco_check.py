"""Merged COCO files against the rows of the shards they were made of, one image at a time.

Every record of a file is compared with what its row says, so an edit is found wherever it is.
It does not know how the files were written; memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import IO, Any

from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.run.layout import RESULTS_FILE
from ntt_ray.verify.json_stream import JsonStream
from ntt_ray.verify.problems import Findings

LISTS = frozenset({"images", "annotations"})
KEYS = {"info", "licenses", "categories", *LISTS}
Open = Callable[[str], AbstractContextManager[IO[bytes]]]
Row = Mapping[str, Any]


class CocoCheck:
    """Compares ``annotations.json``, split or not, with rows as they come by.

    Args:
        names: the files, in order.
        open_file: opens one of them for reading.
        head: what ``info``, ``licenses`` and ``categories`` must be.
        thresholds: detections that do not reach them must not be there.
        images_per_file: of split files.
        out: takes the problems.
    """

    def __init__(
        self,
        names: Sequence[str],
        open_file: Open,
        *,
        head: Mapping[str, Any],
        thresholds: Thresholds,
        images_per_file: int | None,
        out: Findings,
    ) -> None:
        self._names, self._open, self._head = iter(names), open_file, head
        self._thresholds, self._per_file, self._out = thresholds, images_per_file, out
        self._rows, self._next_id = 0, 1
        self._files = ExitStack()
        self._images = self._annotations = _NO_RECORDS
        self._start_file()

    def row(self, row: Row) -> None:
        """Compare one image, in the order of the manifest."""
        if self._per_file and self._rows and self._rows % self._per_file == 0:
            self.finish_file()
            self._start_file()
        self._rows += 1
        if row["height"] is None:
            return  # a failed image is in the shard only
        image_id = row["image_id"]
        self._images.compare(image_id, [_image(row)])
        wanted = []
        for item in row["annotations"]:
            if item["score"] >= self._thresholds.of_class(item["category_id"]):
                fields = {"area": item["area"], "id": self._next_id, "iscrowd": 0}
                wanted.append({**_result(row, item, self._thresholds), **fields})
                self._next_id += 1
        self._annotations.compare(image_id, wanted)

    def finish_file(self) -> None:
        """Report what the current file has more than its rows, and close it."""
        self._images.finish()
        self._annotations.finish()
        self._files.close()

    def _start_file(self) -> None:
        name = next(self._names, None)
        self._images = self._annotations = _NO_RECORDS
        if name is None:
            return  # more rows than the record of the merge has files for
        streams = []
        try:
            for _ in LISTS:
                streams.append(self._files.enter_context(self._open(name)))
        except FileNotFoundError:
            self._out.problem("merged file missing", name, "merge again")
            return
        images = _items_of(streams[0], "images", None)
        annotations = _items_of(streams[1], "annotations", self._check_head(name))
        self._images = _Records(images, "id", name, "image", self._out)
        self._annotations = _Records(annotations, "image_id", name, "annotation", self._out)

    def _check_head(self, name: str) -> Callable[[dict[str, Any]], None]:
        def check(found: dict[str, Any]) -> None:
            for key, value in self._head.items():
                if found.get(key) != value:
                    text = f"its {key} is not that of the run: {_difference(found.get(key), value)}"
                    self._out.problem("merged file edited", name, text)
            if extra := sorted(found.keys() - KEYS):
                self._out.problem("merged file edited", name, f"has unknown keys: {extra}")

        return check


class ResultsCheck:
    """Compares ``results.json`` with rows as they come by."""

    def __init__(self, open_file: Open, thresholds: Thresholds, out: Findings) -> None:
        self._files, self._kept = ExitStack(), thresholds.any_score()
        self._records = _NO_RECORDS
        try:
            stream = self._files.enter_context(open_file(RESULTS_FILE))
        except FileNotFoundError:
            out.problem("merged file missing", RESULTS_FILE, "merge again")
            return
        self._records = _Records(_whole_list(stream), "image_id", RESULTS_FILE, "result", out)

    def row(self, row: Row) -> None:
        """Compare one image, in the order of the manifest."""
        if row["height"] is not None:
            wanted = [
                _result(row, item, self._kept)
                for item in row["annotations"]
                if item["score"] >= self._kept.of_class(item["category_id"])
            ]
            self._records.compare(row["image_id"], wanted)

    def finish_file(self) -> None:
        """Report what the file has more than the rows, and close it."""
        self._records.finish()
        self._files.close()


class _Records:
    """A list of records in rising order of image id, compared image by image.

    A record that is out of order is reported and left out, so that one edit is one problem and
    not one for every image behind it. Reading stops where the file is damaged.
    """

    def __init__(
        self, items: Iterator[Any], key: str, name: str, what: str, out: Findings | None
    ) -> None:
        self._items, self._key, self._name, self._what, self._out = items, key, name, what, out
        self._broken = out is None
        self._ahead: list[Any] = []

    def compare(self, image_id: int, wanted: Sequence[Mapping[str, Any]]) -> None:
        """Compare the records of one image."""
        found = self._take(image_id)
        if self._broken:
            return
        where = f"{self._name}, image {image_id}"
        if len(found) != len(wanted):
            counts = f"{len(found)} {self._what} records, {len(wanted)} by its shard"
            self._problem("merged file edited", where, counts)
            return
        for index, (one, other) in enumerate(zip(found, wanted, strict=True), start=1):
            if one != other or any(type(one[key]) is not type(other[key]) for key in other):
                place = f"{where}, {self._what} {index}"
                self._problem("merged file edited", place, _difference(one, other))

    def finish(self) -> None:
        """Read to the end; whatever is left belongs to no row."""
        while (item := self._peek()) is not None:
            self._stray(item)

    def _take(self, image_id: int) -> list[Any]:
        found = []
        while (item := self._peek()) is not None:
            identity = self._identity(item)
            follower = self._identity(self._ahead[1]) if len(self._ahead) > 1 else None
            if identity == image_id:
                found.append(self._ahead.pop(0))
            elif identity is None or identity < image_id or _is_below(follower, identity):
                self._stray(item)
            else:
                break
        return found

    def _stray(self, item: Any) -> None:
        self._ahead.pop(0)
        text = f"an {self._what} of image {self._identity(item)} that no shard has there"
        self._problem("merged file edited", self._name, text.replace("an result", "a result"))

    def _identity(self, item: Any) -> int | None:
        value = item.get(self._key) if isinstance(item, dict) else None
        return value if type(value) is int else None

    def _peek(self) -> Any:
        """The next record; one more is read ahead."""
        while len(self._ahead) < 2 and not self._broken:
            try:
                self._ahead.append(next(self._items))
            except StopIteration:
                break
            except ValueError as error:
                self._problem("merged file damaged", self._name, str(error))
                self._broken = True
                self._ahead.clear()
        return self._ahead[0] if self._ahead else None

    def _problem(self, kind: str, where: str, text: str) -> None:
        if self._out is not None:
            self._out.problem(kind, where, text)


_NO_RECORDS = _Records(iter(()), "", "", "", None)


def _is_below(follower: int | None, identity: int) -> bool:
    return follower is not None and follower < identity


def _items_of(
    stream: IO[bytes], wanted: str, check: Callable[[dict[str, Any]], None] | None
) -> Iterator[Any]:
    """The records of one list of a COCO file; `check` gets the rest, once all was read."""
    document = JsonStream(stream)
    rest: dict[str, Any] = {}
    seen: set[str] = set()
    for key, value in document.members(LISTS):
        if key in seen:
            raise ValueError(f"it has the key {key!r} twice")
        seen.add(key)
        if key == wanted:
            yield from value
            if check is None:
                return
        elif key in LISTS:
            for _ in value:
                pass
        else:
            rest[key] = value
    document.end()
    if wanted not in seen:
        raise ValueError(f"it has no list {wanted!r}")
    if check is not None:
        check(rest)


def _whole_list(stream: IO[bytes]) -> Iterator[Any]:
    document = JsonStream(stream)
    yield from document.items()
    document.end()


def _image(row: Row) -> dict[str, Any]:
    return {
        "file_name": row["file_name"],
        "height": row["height"],
        "id": row["image_id"],
        "width": row["width"],
    }


def _result(row: Row, item: Mapping[str, Any], thresholds: Thresholds) -> dict[str, Any]:
    return {
        "bbox": list(item["bbox"]),
        "category_id": thresholds.category_of(item["category_id"]),
        "image_id": row["image_id"],
        "score": round(item["score"], 7),
        "segmentation": {"counts": item["counts"], "size": [row["height"], row["width"]]},
    }


def _difference(found: Any, wanted: Any) -> str:
    """The first fields that differ."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return f"{_short(found)} instead of {_short(wanted)}"
    keys = sorted(str(key) for key in found.keys() | wanted.keys())
    texts = [
        f"{key} is {_short(found.get(key))}, should be {_short(wanted.get(key))}"
        for key in keys
        if found.get(key) != wanted.get(key) or type(found.get(key)) is not type(wanted.get(key))
    ]
    return "; ".join(texts[:3])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-10:]}"
