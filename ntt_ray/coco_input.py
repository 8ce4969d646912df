"""COCO json from anybody: the only reader, strict, with every problem and not only the first.

Its records hold what of images, annotations and categories their users need, each field with the
type it must have; what else an item holds is parsed when it is asked for, by `Items.raw`. Memory
holds the bytes of the file and one small record for each item.

It knows the format, and not which classes, annotations or masks anybody wants.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Generic, Literal, NoReturn, Protocol, TypeVar

from pydantic import Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as record

from ntt_ray.errors import InputError
from ntt_ray.json_input import (
    JsonList,
    JsonPieces,
    NotInPiecesError,
    PlainJson,
    list_of,
    no_collection,
    parse_json,
    read_with,
)
from ntt_ray.masks import MAX_NUMBER, measure_rles
from ntt_ray.records import MAX_CATEGORY_ID
from ntt_ray.storage import Storage

MAX_ID = 2**53 - 1  # COCO readers take ids as doubles
SHOWN = 10
PIECE = 1000  # items that are checked at once
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


T = TypeVar("T", bound="Item")


class Item(Protocol):
    """What every list of a COCO file holds."""

    @property
    def id(self) -> int:
        """The id of an image, an annotation or a category."""


@record(frozen=True, slots=True)
class FoundBox:
    """A box of COCO results or annotations, ``[x, y, width, height]`` in pixels."""

    image_id: Id
    bbox: tuple[Number, Number, Number, Number]
    score: Number | None = None


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
class TruthAnnotation(Annotation):
    """An annotated object of a ground truth; its area in pixels, -1 where the file has none."""

    area: Number = -1.0
    iscrowd: Flag = 0
    ignore: Flag = 0


_TEXTS = {
    "bbox": "its bbox is not [x, y, width, height]",
    "score": "its score is no number",
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

    def __init__(self, source: PlainJson | JsonPieces, digest: str = "") -> None:
        self._source = source
        self._checked: dict[tuple[str, type], Any] = {}
        self.digest = digest

    @classmethod
    def of(cls, coco: Any) -> CocoFile:
        """A file that was parsed before; a `CocoFile` stays as it is."""
        return coco if isinstance(coco, cls) else cls(PlainJson(coco))

    @classmethod
    def parse(cls, data: bytes) -> CocoFile:
        """A file of these bytes.

        Raises:
            ValueError, RecursionError: it is not JSON, as far as was looked.
        """
        source = JsonPieces.of(data) or PlainJson(parse_json(data))
        return cls(source, hashlib.sha256(data).hexdigest())

    def get(self, key: str) -> Any:
        """A part of the file as it stands there; None where it has no such part."""
        return self._source.get(key)

    def listed(self, key: Key) -> JsonList | None:
        """One list of the file, of which nothing is checked; None where it has no such list."""
        return self._source.list_of(key)

    def items(self, key: Key, model: type[T]) -> Items[T] | None:
        """Check one list of the file; None where it has no such list.

        Raises:
            InputError: it is not JSON.
        """
        if (key, model) not in self._checked:
            try:
                self._checked[key, model] = _checked(self._source.list_of(key), model)
            except NotInPiecesError:
                self._parse_whole()
                self._checked[key, model] = _checked(self._source.list_of(key), model)
        found: Items[T] | None = self._checked[key, model]
        return found

    def _parse_whole(self) -> None:
        assert isinstance(self._source, JsonPieces)
        try:
            self._source = PlainJson(parse_json(self._source.data))
        except (ValueError, RecursionError) as error:
            raise InputError(f"the COCO file is not JSON ({error})") from None


def read_coco(uri: str, store: Storage) -> CocoFile:
    """Open a COCO file.

    Raises:
        InputError: it is missing or not JSON.
    """
    return read_with(CocoFile.parse, uri, store)


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
    images = file.items("images", TruthImage)
    annotations = file.items("annotations", TruthAnnotation)
    categories = file.items("categories", TruthCategory)
    if images is None or annotations is None or categories is None:
        raise InputError("ground_truth: not a COCO file with images, annotations and categories")
    truth = Truth(images, annotations, categories)
    lists: dict[str, Items[Any]] = vars(truth)
    problems = [text for key, items in lists.items() for text in items.listed_problems(key)]
    for key, items in lists.items() if not problems else ():
        if len(set(items.ids())) < len(items.records):
            problems.append(f"{key}: ids are used more than once")
    if not problems:  # they are joined with what a run labelled by their names
        named: dict[str, list[str]] = {
            "images": [image.file_name for _, image in images.sound()],
            "categories": [category.name for _, category in categories.sound()],
        }
        for key, names in named.items():
            problems += [
                f"{key}: the name {name!r} is used {count} times; make it one, with one id"
                for name, count in Counter(names).items()
                if count > 1
            ]
    if problems:
        raise InputError(f"ground_truth: {shown(problems)}")
    return truth


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


class BoxesFile:
    """Boxes in COCO results format, or the annotations of a COCO file with its images.

    Attributes:
        names: the file name of each image by its id, of a COCO file with images; None of results,
            which name images by their ids alone.
        what: what an item is called in messages.
    """

    def __init__(self, data: bytes) -> None:
        """Look at the form of the file.

        Raises:
            ValueError, RecursionError: it is not JSON, as far as was looked.
            InputError: it is neither, or its images cannot be used.
        """
        self.names: dict[int, str] | None = None
        self.what, found = "results", list_of(data)
        if found is None:
            file = CocoFile.parse(data)
            self.what, found = "annotations", file.listed("annotations")
            images = file.items("images", ListedImage)
            if found is None or images is None:
                raise InputError(
                    "is neither COCO results, a list of objects with image_id, bbox and score, nor "
                    "a COCO file with images and annotations"
                )
            if images.problems:
                raise InputError(shown(images.listed_problems("images")))
            self.names = {image.id: image.file_name for _, image in images.sound()}
        self._items = found

    def pieces(self) -> Iterator[tuple[int, list[FoundBox]]]:
        """Some boxes at a time, and the position of the first.

        Raises:
            InputError: a box is malformed; each of a piece is named by its position.
        """
        adapter = TypeAdapter(list[FoundBox])
        for start in range(0, len(self._items), PIECE):
            end = min(start + PIECE, len(self._items))
            with no_collection():
                try:
                    found = self._items.checked(adapter, start, end)
                except (ValidationError, NotInPiecesError):
                    self._refuse(start, end)
            yield start, found

    def _refuse(self, start: int, end: int) -> NoReturn:
        adapter, problems = TypeAdapter(list[FoundBox]), list[str]()
        for position in range(start, end):
            try:
                adapter.validate_python([self._items.raw(position)])
            except ValidationError as error:
                problems += [f"{self.what}[{position}]: {p.text}" for p in _problems(error)]
        raise InputError(shown(problems or [f"{self.what}[{start}] and on: not JSON"]))


def shown(problems: Sequence[str]) -> str:
    """The first problems in one line, and how many more there are."""
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f"{'; '.join(problems[:SHOWN])}{more}"


@cache
def _adapter(model: type[T]) -> TypeAdapter[list[T]]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def _checked(found: JsonList | None, model: type[T]) -> Items[T] | None:
    """Check items piece by piece, and those of a piece that has problems one by one."""
    if found is None:
        return None
    adapter = _adapter(model)
    records: list[T | None] = []
    problems: dict[int, list[Problem]] = {}
    with no_collection():
        for start in range(0, len(found), PIECE):
            end = min(start + PIECE, len(found))
            try:
                records += found.checked(adapter, start, end)
            except ValidationError:
                for position in range(start, end):
                    try:
                        records += found.checked(adapter, position, position + 1)
                    except ValidationError as error:
                        records.append(None)
                        problems[position] = _problems(error)
    return Items(records, problems, found.raw)


def _problems(error: ValidationError) -> list[Problem]:
    """What pydantic found in a list of one item, each text once."""
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        field = str(item["loc"][1]) if len(item["loc"]) > 1 else "id"  # the first is the item's
        text = _TEXTS.get(field, f"has no whole-number {field}")
        if isinstance(item["input"], str) and field in ("id", "image_id", "category_id"):
            text = f"its {field} is a text, {item['input'][:50]!r}; ids are whole numbers in COCO"
        elif limit := item.get("ctx", {}).get("le") if field == "id" else None:
            text += f" of {limit} or less"
        elif item["type"] == "string_unicode" and field == "file_name":
            text = f"the name {item['input']!r} is not valid Unicode"
        found.setdefault(text, field)
    return [Problem(field, text) for text, field in found.items()]
