"""JSON of any size to plain data, or to lists of objects that are parsed a piece at a time.

A large file is not parsed as a whole where its user wants a little of many objects: msgspec finds
where they lie. All of it gives what `json.loads` gives. It does not know what a file means.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.storage import Storage

V = TypeVar("V")
_GZIP = b"\x1f\x8b"


class NotInPiecesError(Exception):
    """An object cannot be read by pydantic: the whole file must be parsed to say what is wrong."""


@dataclass(frozen=True)
class JsonList:
    """The objects of a list, none of them checked."""

    items: list[Any]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.items)

    def raw(self, position: int) -> Any:
        """One as it stands in the file."""
        return self.items[position]

    def checked(self, adapter: TypeAdapter[list[V]], start: int, end: int) -> list[V]:
        """Some of them, checked; raises pydantic's ValidationError, or `NotInPiecesError`."""
        return adapter.validate_python(self.items[start:end])


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
        data = store.read_bytes(uri)
        if data.startswith(_GZIP):
            raise InputError(f"{storage.redact(uri)}: is compressed (gzip); unpack it")
        return parse(data)
    except FileNotFoundError:
        where = storage.missing_folder(uri)
        raise InputError(f"{storage.redact(uri)}: no such file{where}") from None
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
        return JsonList(found) if isinstance(found, list) else None


@dataclass(frozen=True)
class JsonPieces:
    """An object whose values are not parsed.

    Attributes:
        data: the bytes of the file.
        values: the text of each value, by its key.
    """

    data: bytes
    values: dict[str, Raw]

    @classmethod
    def of(cls, data: bytes) -> JsonPieces | None:
        """None for a file that is no object, or must be parsed to say what is wrong with it."""
        try:
            return cls(data, msgspec.json.decode(data, type=dict[str, Raw]))
        except (msgspec.MsgspecError, RecursionError):
            return None

    def get(self, key: str) -> Any:
        """What stands under a key, parsed; None where nothing does."""
        return _parsed(self.values[key]) if key in self.values else None

    def list_of(self, key: str) -> JsonList | None:
        """The list under a key; None where there is no list."""
        found = self.values.get(key)
        if found is None or bytes(memoryview(found)[:1]) != b"[":
            return None
        return _PieceList(msgspec.json.decode(found, type=list[Raw]))


def _parsed(text: Raw) -> Any:
    try:
        return json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise InputError(f"the file is not JSON ({error})") from None


class _PieceList(JsonList):
    """Objects that are not parsed: each is the text of one."""

    def raw(self, position: int) -> Any:
        return _parsed(self.items[position])

    def checked(self, adapter: TypeAdapter[list[V]], start: int, end: int) -> list[V]:
        text = b"[%b]" % b",".join(map(memoryview, self.items[start:end]))
        try:
            return adapter.validate_json(text)
        except ValidationError as error:
            if error.errors(include_input=False)[0]["type"] == "json_invalid":
                raise NotInPiecesError from None
            raise


def list_of(data: bytes) -> JsonList | None:
    """The objects of a file that is a list; None for one that is none.

    Raises:
        ValueError, RecursionError: it begins as a list, and is not JSON.
    """
    if data.lstrip()[:1] != b"[":
        return None
    try:
        return _PieceList(msgspec.json.decode(data, type=list[Raw]))
    except (msgspec.MsgspecError, RecursionError):
        return JsonList(parse_json(data))
