"""COCO json from anybody: the only reader, strict, with every problem and not only the first.

Its records hold what of images, annotations and categories their users need, each field with the
type it must have; what else an item holds is parsed when it is asked for, by `Items.raw`. A large
file is therefore never parsed as a whole: `_item_spans` finds where its items lie, and pydantic
reads them a piece at a time. Memory holds the bytes of the file and one small record for each item.

It knows the format, and not which classes, annotations or masks anybody wants.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as record
from pydantic_core import from_json

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.masks import MAX_NUMBER, measure_rles
from ntt_ray.records import MAX_CATEGORY_ID
from ntt_ray.storage import Storage

MAX_ID = 2**53 - 1  # COCO readers take ids as doubles
SHOWN = 10
PIECE = 1000  # items that are checked at once
SCAN_BYTES = 1 << 22
Key = Literal["images", "annotations", "categories"]

Id = Annotated[int, Strict(), Field(ge=-MAX_ID, le=MAX_ID)]
Side = Annotated[int, Strict(), Field(gt=0, le=MAX_ID)]
Text = Annotated[str, Strict()]
Number = Annotated[float, Strict(), Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
Flag = Literal[0, 1, False, True]


@record(frozen=True, slots=True)
class ResultMask:
    """The mask of a detection, a compressed RLE whose counts are looked at elsewhere."""

    size: tuple[Side, Side]
    counts: Text


@record(frozen=True, slots=True)
class Result:
    """A detection in COCO results format."""

    image_id: Id
    category_id: Id
    bbox: tuple[Number, Number, Number, Number]
    score: Number
    segmentation: ResultMask


V = TypeVar("V")
T = TypeVar("T", bound="Item")


class Item(Protocol):
    """What every list of a COCO file holds."""

    @property
    def id(self) -> int:
        """The id of an image, an annotation or a category."""


@record(frozen=True, slots=True)
class ListedImage:
    """An image of an image list."""

    id: Annotated[int, Strict(), Field(ge=0, le=MAX_ID)]
    file_name: Text


@record(frozen=True, slots=True)
class Image:
    """An image with annotations; its sides in pixels."""

    id: Id
    height: Side
    width: Side


@record(frozen=True, slots=True)
class TruthImage(Image):
    """An image of a ground truth; LVIS says which classes were looked for in it."""

    file_name: Text
    neg_category_ids: list[Id] = Field(default_factory=list)
    not_exhaustive_category_ids: list[Id] = Field(default_factory=list)


@record(frozen=True, slots=True)
class Category:
    """A class that references define."""

    id: Annotated[int, Strict(), Field(ge=-MAX_CATEGORY_ID, le=MAX_CATEGORY_ID)]
    name: Annotated[str, Strict(), Field(min_length=1)]


@record(frozen=True, slots=True)
class TruthCategory:
    """A class of a ground truth."""

    id: Id
    name: Text


@record(frozen=True, slots=True)
class Annotation:
    """An annotated object, its box ``[x, y, width, height]`` in pixels; flags may hold anything."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[Number, Number, Number, Number]
    iscrowd: Any = 0
    isimpossible: Any = 0


@record(frozen=True, slots=True)
class TruthAnnotation:
    """An annotated object of a ground truth, as `Annotation`; its area in pixels may be unknown."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[Number, Number, Number, Number]
    area: Number = -1.0
    iscrowd: Flag = 0
    ignore: Flag = 0


_TEXTS = {
    "bbox": "its bbox is not [x, y, width, height]",
    "area": "its area is no number",
    "height": "needs width and height as whole numbers above 0",
    "width": "needs width and height as whole numbers above 0",
    "file_name": "has no file_name",
    "name": "has no name",
    "iscrowd": "its iscrowd is neither 0 nor 1",
    "ignore": "its ignore is neither 0 nor 1",
    "neg_category_ids": "its neg_category_ids are no list of category ids",
    "not_exhaustive_category_ids": "its not_exhaustive_category_ids are no list of category ids",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an item of a list.

    Attributes:
        field: the field that is wrong; ``id`` where the item is no object.
        text: what is wrong, to follow the name of the item.
    """

    field: str
    text: str


@dataclass(frozen=True)
class Items(Generic[T]):
    """One list of a COCO file.

    Attributes:
        records: the items in the file's order; None in the place of one that has a problem.
        problems: what is wrong with an item, by its position, in the file's order.
        raw: gives an item as it stands in the file, by its position.
    """

    records: Sequence[T | None]
    problems: Mapping[int, list[Problem]]
    raw: Callable[[int], Any]

    def ids(self) -> Iterator[int | None]:
        """The id of each item; None for one without a usable id."""
        for position, item in enumerate(self.records):
            if item is not None:
                yield item.id
            else:
                wrong = any(p.field == "id" for p in self.problems[position])
                yield None if wrong else self.raw(position)["id"]

    def listed_problems(self, name: str) -> list[str]:
        """All problems, each under the name of the list and the position of its item."""
        return [f"{name}[{n}]: {p.text}" for n, found in self.problems.items() for p in found]

    def sound(self) -> Iterator[tuple[int, T]]:
        """Positions and records of the items without a problem."""
        return ((n, item) for n, item in enumerate(self.records) if item is not None)


class CocoFile:
    """A COCO file whose lists are checked when they are asked for, each as its user needs it.

    Attributes:
        digest: SHA-256 of the file's bytes in hex; empty where there was no file.
    """

    def __init__(self, source: _Plain | _Pieces, digest: str = "") -> None:
        self._source = source
        self._checked: dict[tuple[str, type], Any] = {}
        self.digest = digest

    @classmethod
    def of(cls, coco: Any) -> CocoFile:
        """A file that was parsed before; a `CocoFile` stays as it is."""
        return coco if isinstance(coco, cls) else cls(_Plain(coco))

    @classmethod
    def parse(cls, data: bytes) -> CocoFile:
        """A file of these bytes.

        Raises:
            ValueError: it is not JSON, as far as was looked.
        """
        source = _Pieces.of(data) or _Plain(parse_json(data))
        return cls(source, hashlib.sha256(data).hexdigest())

    def get(self, key: str) -> Any:
        """A part of the file as it stands there; None where it has no such part."""
        return self._source.get(key)

    def items(self, key: Key, model: type[T]) -> Items[T] | None:
        """Check one list of the file; None where it has no such list.

        Raises:
            InputError: it is not JSON.
        """
        if (key, model) not in self._checked:
            self._checked[key, model] = self._items(key, model)
        found: Items[T] | None = self._checked[key, model]
        return found

    def _items(self, key: Key, model: type[T]) -> Items[T] | None:
        try:
            return self._source.items(key, model)
        except _NotInPiecesError as error:
            try:
                self._source = _Plain(parse_json(error.data))
            except (ValueError, RecursionError) as wrong:
                raise InputError(f"the COCO file is not JSON ({wrong})") from None
            return self._source.items(key, model)


def read_coco(uri: str, store: Storage) -> CocoFile:
    """Open a COCO file.

    Raises:
        InputError: it is missing or not JSON.
    """
    return _read(uri, store, CocoFile.parse)


_RESULTS = TypeAdapter(list[Result])


@dataclass(frozen=True)
class Truth:
    """The lists of a ground truth, in which nothing is wrong; masks are not looked at."""

    images: Items[TruthImage]
    annotations: Items[TruthAnnotation]
    categories: Items[TruthCategory]


def checked_truth(coco: Any) -> Truth:
    """Check a ground truth.

    Raises:
        InputError: with the first problems found, and how many more there are.
    """
    file = CocoFile.of(coco)
    images, annotations = (
        file.items("images", TruthImage),
        file.items("annotations", TruthAnnotation),
    )
    categories = file.items("categories", TruthCategory)
    if images is None or annotations is None or categories is None:
        raise InputError("ground_truth: not a COCO file with images, annotations and categories")
    lists: dict[str, Items[Any]] = {
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    problems = [text for key, items in lists.items() for text in items.listed_problems(key)]
    for key, items in lists.items() if not problems else ():
        if len(set(items.ids())) < len(items.records):
            problems.append(f"{key}: ids are used more than once")
    if problems:
        raise InputError(f"ground_truth: {shown(problems)}")
    return Truth(images, annotations, categories)


def check_results(results: Any, name: str) -> list[dict[str, Any]]:
    """Detections in COCO results format that can be used, masks included.

    Raises:
        InputError: with the first problems found.
    """
    if not isinstance(results, list):
        raise InputError(f"{name}: not a list of results; merge again")
    problems: list[str] = []
    for start in range(0, len(results), PIECE):
        part = results[start : start + PIECE]
        try:
            _RESULTS.validate_python(part)
        except ValidationError as error:
            problems += [
                f"result {start + int(item['loc'][0]) + 1} has a wrong "
                f"{'.'.join(map(str, item['loc'][1:])) or 'form'}"
                for item in error.errors(include_url=False, include_input=False)
            ]
            continue
        masks = [item["segmentation"] for item in part]
        heights, widths = zip(*(mask["size"] for mask in masks), strict=True)
        wrong = measure_rles([mask["counts"] for mask in masks], heights, widths).problems
        problems += [f"result {start + n + 1} has an RLE {text}" for n, text in wrong.items()]
    if problems:
        raise InputError(f"{name}: {shown(problems)}; merge again")
    return results


def shown(problems: Sequence[str]) -> str:
    """The first problems in one line, and how many more there are."""
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f"{'; '.join(problems[:SHOWN])}{more}"


def read_json(uri: str, store: Storage) -> Any:
    """Parse a JSON file of any kind.

    Raises:
        InputError: it is missing or not JSON.
    """
    return _read(uri, store, parse_json)


def parse_json(data: bytes) -> Any:
    """What `json.loads` gives, in a fifth of the time for large files.

    Raises:
        ValueError: it is not JSON.
    """
    collects = gc.isenabled()
    gc.disable()  # it would go through the millions of new objects again and again
    try:
        return from_json(data)
    except ValueError:
        return json.loads(data)  # takes half a character, and says better what is wrong
    finally:
        if collects:
            gc.enable()


def _read(uri: str, store: Storage, parse: Callable[[bytes], V]) -> V:
    try:
        return parse(store.read_bytes(uri))
    except FileNotFoundError:
        raise InputError(f"{storage.redact(uri)}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{storage.redact(uri)}: not JSON ({error})") from None


class _NotInPiecesError(Exception):
    """pydantic cannot read an item; the whole file must be parsed to say what is wrong."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


@dataclass(frozen=True)
class _Plain:
    """A file as parsed JSON."""

    coco: Any

    def get(self, key: str) -> Any:
        return self.coco.get(key) if isinstance(self.coco, dict) else None

    def items(self, key: Key, model: type[T]) -> Items[T] | None:
        found = self.get(key)
        if not isinstance(found, list):
            return None
        many, one = _adapters(model)
        return _checked(
            len(found),
            lambda start, end: many.validate_python(found[start:end]),
            lambda n: one.validate_python(found[n]),
            found.__getitem__,
        )


@dataclass(frozen=True)
class _Pieces:
    """The bytes of a file, and where its items lie.

    Attributes:
        data: the bytes.
        starts: of each item of the lists, the place of its first byte.
        ends: of each item, the place behind its last byte.
        skeleton: the file parsed, with the number of an item in its place.
    """

    data: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    skeleton: dict[str, Any]

    @classmethod
    def of(cls, data: bytes) -> _Pieces | None:
        """None for a file that is no object with lists of objects."""
        starts, ends = _item_spans(data)
        if len(starts) != len(ends) or (starts > ends).any():
            return None
        edges = zip([0, *ends.tolist()], [*starts.tolist(), len(data)], strict=True)
        between = (data[end:start] for end, start in edges)
        texts = chain.from_iterable((b"%d" % n, text) for n, text in enumerate(between, start=-1))
        try:
            skeleton = from_json(b"".join(list(texts)[1:]))
        except ValueError:
            return None
        if not isinstance(skeleton, dict):
            return None
        lists = [value for value in skeleton.values() if isinstance(value, list)]
        # numbers that stood there before, or a key that is used twice, would be in the way
        return cls(data, starts, ends, skeleton) if _counts(lists, len(starts)) else None

    def get(self, key: str) -> Any:
        found = self.skeleton.get(key)
        return [self._raw(n) for n in found] if isinstance(found, list) else found

    def items(self, key: Key, model: type[T]) -> Items[T] | None:
        found = self.skeleton.get(key)
        if not isinstance(found, list):
            return None
        first = found[0] if found else 0
        many, one = _adapters(model)

        def read(adapter: TypeAdapter[Any], text: bytes) -> Any:
            try:
                return adapter.validate_json(text)
            except ValidationError as error:
                if error.errors(include_input=False)[0]["type"] == "json_invalid":
                    raise _NotInPiecesError(self.data) from None
                raise

        return _checked(
            len(found),
            lambda a, b: read(many, b"[%b]" % self._bytes(first + a, first + b - 1)),
            lambda n: read(one, self._bytes(first + n, first + n)),
            lambda n: self._raw(first + n),
        )

    def _bytes(self, first: int, last: int) -> bytes:
        return self.data[self.starts[first] : self.ends[last]]

    def _raw(self, number: int) -> Any:
        try:
            return json.loads(self._bytes(number, number))
        except (ValueError, RecursionError) as error:
            raise InputError(f"the COCO file is not JSON ({error})") from None


def _counts(lists: Sequence[Sequence[Any]], items: int) -> bool:
    """Whether the lists together are 0, 1, 2 ... as numbers of all items."""
    numbers = list(chain.from_iterable(lists))
    return all(type(n) is int for n in numbers) and numbers == list(range(items))


_IS_MARK = np.isin(np.arange(256), list(b'"{}[]'))
_STEP = np.zeros(256, dtype=np.int8)
_STEP[list(b"{[")], _STEP[list(b"}]")] = 1, -1


def _item_spans(data: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where objects in lists of the outermost object start, and where they end; in bytes.

    Of a file that is not JSON it gives anything.
    """
    text = data.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")  # then each quote is one
    depth, quotes, list_open = 0, 0, False
    starts, ends = [], []
    for offset in range(0, len(text), SCAN_BYTES):
        chars = np.frombuffer(text, np.uint8, min(SCAN_BYTES, len(text) - offset), offset)
        at = np.flatnonzero(_IS_MARK[chars])
        marks = chars[at]
        is_quote = marks == ord('"')
        seen = np.cumsum(is_quote) + quotes
        quotes = int(seen[-1]) if len(seen) else quotes
        outside = ~is_quote & (seen % 2 == 0)
        at, marks = at[outside] + offset, marks[outside]
        steps = _STEP[marks]
        depths = np.cumsum(steps, dtype=np.int64) + depth
        depth = int(depths[-1]) if len(depths) else depth
        # whether the last thing that opened in the outermost object was a list
        opening = np.where((steps > 0) & (depths == 2), np.arange(1, len(marks) + 1), 0)
        opener = np.maximum.accumulate(opening)
        in_list = np.where(opener > 0, marks[opener - 1] == ord("["), list_open)
        list_open = bool(in_list[-1]) if len(in_list) else list_open
        starts.append(at[in_list & (marks == ord("{")) & (depths == 3)])
        ends.append(at[in_list & (marks == ord("}")) & (depths == 2)] + 1)
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *starts]), np.concatenate([none, *ends])


@cache
def _adapters(model: type[T]) -> tuple[TypeAdapter[list[T]], TypeAdapter[T]]:
    return TypeAdapter(list[model]), TypeAdapter(model)  # type: ignore[valid-type]


def _checked(
    length: int,
    many: Callable[[int, int], list[T]],
    one: Callable[[int], T],
    raw: Callable[[int], Any],
) -> Items[T]:
    """Check items piece by piece, and those of a piece that has problems one by one."""
    records: list[T | None] = []
    problems: dict[int, list[Problem]] = {}
    for start in range(0, length, PIECE):
        end = min(start + PIECE, length)
        try:
            records += many(start, end)
        except ValidationError:
            for position in range(start, end):
                try:
                    records.append(one(position))
                except ValidationError as error:
                    records.append(None)
                    problems[position] = _problems(error)
    return Items(records, problems, raw)


def _problems(error: ValidationError) -> list[Problem]:
    """What pydantic found in an item, each text once."""
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        field = str(item["loc"][0]) if item["loc"] else "id"
        text = _TEXTS.get(field, f"has no whole-number {field}")
        if limit := item.get("ctx", {}).get("le") if field == "id" else None:
            text += f" of {limit} or less"
        elif item["type"] == "string_unicode" and field == "file_name":
            text = f"the name {item['input']!r} is not valid Unicode"
        found.setdefault(text, field)
    return [Problem(field, text) for text, field in found.items()]
