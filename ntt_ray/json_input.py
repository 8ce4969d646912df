"""JSON of any size to plain data, or to lists of objects that are parsed a piece at a time.

A large file is not parsed as a whole where its user wants a little of many objects: `_item_spans`
finds where the objects in its lists lie, and what lies between them is parsed first. It gives what
`json.loads` gives, and does not know what a file means.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.storage import Storage

SCAN_BYTES = 1 << 22
V = TypeVar("V")


class NotInPiecesError(Exception):
    """An object cannot be read by pydantic: the whole file must be parsed to say what is wrong."""


class JsonList(Protocol):
    """The objects of a list, none of them checked."""

    def __len__(self) -> int:
        """How many there are."""

    def raw(self, position: int) -> Any:
        """One as it stands in the file."""

    def checked(self, adapter: TypeAdapter[list[V]], start: int, end: int) -> list[V]:
        """Some of them, checked; raises pydantic's ValidationError, or `NotInPiecesError`."""


def read_json(uri: str, store: Storage) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: it is missing or not JSON.
    """
    return read_with(parse_json, uri, store)


def read_with(parse: Callable[[bytes], V], uri: str, store: Storage) -> V:
    """Read a JSON file by a function of its bytes.

    Raises:
        InputError: the file is missing or not JSON.
    """
    try:
        return parse(store.read_bytes(uri))
    except FileNotFoundError:
        raise InputError(f"{storage.redact(uri)}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{storage.redact(uri)}: not JSON ({error})") from None


def parse_json(data: bytes) -> Any:
    """What `json.loads` gives, in a fifth of the time for large files.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    try:
        with no_collection():
            return from_json(data)
    except ValueError:
        return json.loads(data)  # takes half a character, and says better what is wrong


@contextmanager
def no_collection() -> Iterator[None]:
    """Let Python not go through millions of new objects again and again while they are made."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@dataclass(frozen=True)
class PlainJson:
    """A file that is parsed."""

    value: Any

    def get(self, key: str) -> Any:
        """What stands under a key; None where nothing does."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def list_of(self, key: str) -> JsonList | None:
        """The list under a key; None where there is no list."""
        found = self.get(key)
        return _PlainList(found) if isinstance(found, list) else None


@dataclass(frozen=True)
class JsonPieces:
    """The bytes of a file, and where the objects in its lists lie.

    Attributes:
        data: the bytes.
        starts: the place of the first byte of each object.
        ends: the place behind the last byte of each object.
        skeleton: the file parsed, with the number of each object in its place.
    """

    data: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    skeleton: dict[str, Any]

    @classmethod
    def of(cls, data: bytes) -> JsonPieces | None:
        """None for a file that is no object with lists of objects; it must be parsed whole."""
        starts, ends = _item_spans(data)
        if len(starts) != len(ends) or (starts > ends).any():
            return None
        edges = zip([0, *ends.tolist()], [*starts.tolist(), len(data)], strict=True)
        texts = ((data[end:start], b"%d" % n) for n, (end, start) in enumerate(edges))
        try:
            skeleton = from_json(b"".join(list(chain.from_iterable(texts))[:-1]))
        except ValueError:
            return None
        lists = skeleton.values() if isinstance(skeleton, dict) else ()
        numbers = list(chain.from_iterable(v for v in lists if isinstance(v, list)))
        # numbers that stood there before, or a key that is used twice, would be in the way
        exact = all(type(n) is int for n in numbers) and numbers == list(range(len(starts)))
        return cls(data, starts, ends, skeleton) if isinstance(skeleton, dict) and exact else None

    def get(self, key: str) -> Any:
        """What stands under a key, objects and all; None where nothing does."""
        found = self.skeleton.get(key)
        return [self.raw(n) for n in found] if isinstance(found, list) else found

    def list_of(self, key: str) -> JsonList | None:
        """The list under a key; None where there is no list."""
        found = self.skeleton.get(key)
        if not isinstance(found, list):
            return None
        return _PieceList(self, found[0] if found else 0, len(found))

    def between(self, first: int, last: int) -> bytes:
        """The text from one object to another one, both included."""
        return self.data[self.starts[first] : self.ends[last]]

    def raw(self, number: int) -> Any:
        """An object parsed.

        Raises:
            InputError: it is not JSON.
        """
        try:
            return json.loads(self.between(number, number))
        except (ValueError, RecursionError) as error:
            raise InputError(f"the file is not JSON ({error})") from None


@dataclass(frozen=True)
class _PlainList:
    items: list[Any]

    def __len__(self) -> int:
        return len(self.items)

    def raw(self, position: int) -> Any:
        return self.items[position]

    def checked(self, adapter: TypeAdapter[list[V]], start: int, end: int) -> list[V]:
        return adapter.validate_python(self.items[start:end])


@dataclass(frozen=True)
class _PieceList:
    pieces: JsonPieces
    first: int
    length: int

    def __len__(self) -> int:
        return self.length

    def raw(self, position: int) -> Any:
        return self.pieces.raw(self.first + position)

    def checked(self, adapter: TypeAdapter[list[V]], start: int, end: int) -> list[V]:
        try:
            text = self.pieces.between(self.first + start, self.first + end - 1)
            return adapter.validate_json(b"[%b]" % text)
        except ValidationError as error:
            if error.errors(include_input=False)[0]["type"] == "json_invalid":
                raise NotInPiecesError from None
            raise


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
