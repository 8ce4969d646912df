"""Reading one large JSON document piece by piece, in memory that does not grow with it.

It knows JSON and nothing of COCO. Records are decoded whole by the standard library; only the
outermost object and the lists in it are walked here.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

CHUNK_BYTES = 1 << 18
MAX_VALUE_CHARS = 1 << 26  # one record; more is no file of ours
_SPACE = " \t\n\r"
_NUMBER = "+-.0123456789Ee"  # "" is in it too


class JsonStream:
    """A cursor in a JSON document.

    Every method raises ValueError when the text is not JSON, ends too early, or holds one value
    larger than `MAX_VALUE_CHARS`.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._text_of = codecs.getincrementaldecoder("utf-8")()
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._position, self._ended = "", 0, False

    def members(self, stream_lists: frozenset[str]) -> Iterator[tuple[str, Any]]:
        """Keys and values of the object at the cursor.

        A list under a key in `stream_lists` comes as an iterator, which must be used up before the
        next member is asked for.
        """
        for key in self._items("{", "}", self.value):
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is not a string")
            self._expect(":")
            yield key, self.items() if key in stream_lists else self.value()

    def items(self) -> Iterator[Any]:
        """The values of the list at the cursor."""
        return self._items("[", "]", self.value)

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self._next_char():
            raise ValueError(f"something follows the end: {self._shown()}")

    def value(self) -> Any:
        """The value at the cursor, decoded whole."""
        self._next_char()
        while True:
            try:
                value, end = self._decode(self._text, self._position)
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            except ValueError:  # wrong, or the rest of it is not read yet
                if self._ended or len(self._text) - self._position > MAX_VALUE_CHARS:
                    raise
            else:
                could_go_on = (
                    isinstance(value, int | float) and self._text[end : end + 1] in _NUMBER
                )
                if self._ended or not could_go_on:
                    self._position = end
                    return value
            self._fill(len(self._text))

    def _items(self, opening: str, closing: str, item: Any) -> Iterator[Any]:
        self._expect(opening)
        if self._next_char() == closing:
            self._position += 1
            return
        while True:
            yield item()
            char = self._next_char()
            if char not in (",", closing):
                raise ValueError(f"',' or '{closing}' is missing before {self._shown()}")
            self._position += 1
            if char == closing:
                return

    def _expect(self, char: str) -> None:
        if self._next_char() != char:
            raise ValueError(f"{char!r} is missing before {self._shown()}")
        self._position += 1

    def _next_char(self) -> str:
        """The character at the cursor, behind white space; empty at the end."""
        while True:
            while self._position < len(self._text):
                if self._text[self._position] not in _SPACE:
                    return self._text[self._position]
                self._position += 1
            if self._ended:
                return ""
            self._fill(0)

    def _fill(self, wanted: int) -> None:
        """Read on, at least as much as `wanted`; what lies before the cursor is forgotten."""
        data = self._stream.read(max(CHUNK_BYTES, wanted))
        self._ended = not data
        self._text = self._text[self._position :] + self._text_of.decode(data, final=not data)
        self._position = 0

    def _shown(self) -> str:
        return repr(self._text[self._position : self._position + 40]) if self._text else "the end"
