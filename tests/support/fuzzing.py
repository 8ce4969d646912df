"""What the fuzzing tests share: hostile values, and changes to valid data and files.

`NTT_RAY_FUZZ=5000` tries so many examples per test, at random; the default, and what is below it,
is few and always the same.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

T = TypeVar("T")
_EXAMPLES = int(os.environ.get("NTT_RAY_FUZZ", "0"))


def fuzz(max_examples: int) -> settings:
    """Settings of a fuzzing test."""
    return settings(
        max_examples=_EXAMPLES or max_examples,
        derandomize=max_examples >= _EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def tried(action: Callable[[], T], *refusals: type[Exception]) -> T | None:
    """What an action gives, or None where it was refused with one of these, and with a reason."""
    try:
        return action()
    except refusals as error:
        if not str(error).strip():
            raise AssertionError(f"{error!r} gives no reason") from error
        return None


def nested(depth: int) -> list[Any]:
    """A list in a list, so many times."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


NUMBERS = [0, -1, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400]
FLOATS = [0.5, -0.0, 1.0, 1e-320, 1e9, 1e308, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "",
    " ",
    "\0",
    "x",
    "1",
    "..",
    "../../etc/x",
    "a/b",
    "\n",
    "☃",
    "\ud800",
    "a" * 3000,
    "true",
]
OTHERS = [None, True, False, [], {}, [[]], [None], {"a": 1}, {"": None}, nested(60)]
HOSTILE = st.one_of(
    st.sampled_from([*NUMBERS, *FLOATS, *TEXTS, *OTHERS]),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.one_of(st.sampled_from(NUMBERS + FLOATS), st.integers(-9, 99)), max_size=9),
)


@st.composite
def changed(draw: st.DrawFn, tree: Any, values: st.SearchStrategy[Any] = HOSTILE) -> Any:
    """A tree of plain data with one to four things in it replaced, dropped, doubled or added."""
    root = {"": copy.deepcopy(tree)}
    for _ in range(draw(st.integers(1, 4))):
        holder, key = draw(st.sampled_from(_places(root)))
        action = draw(st.sampled_from(["replace", "replace", "drop", "double", "add"]))
        if action == "replace" or holder is root:
            holder[key] = copy.deepcopy(draw(values))
        elif action == "drop":
            del holder[key]
        elif action == "double" and isinstance(holder, list):
            holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(holder[key]))
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(["id", "size", "counts", "int", "iscrowd"]))] = (
                copy.deepcopy(draw(values))
            )
        else:
            holder.append(copy.deepcopy(draw(values)))
    return root[""]


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree as its holder and the key in it."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in items:
        found.append((tree, key))
        if isinstance(value, dict | list):
            found += _places(value)
    return found


@st.composite
def damaged(draw: st.DrawFn, data: bytes, pieces: list[bytes] | None = None) -> bytes:
    """A file with one to six bytes changed, pieces put in, cut out or repeated, or its end off."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(found)))
        action = draw(st.sampled_from(["byte", "byte", "piece", "cut", "repeat", "end"]))
        if action == "byte" and at < len(found):
            found[at] = draw(st.integers(0, 255))
        elif action == "piece":
            found[at:at] = draw(
                st.sampled_from(pieces or [b"\0", b"\xff\xfe", b"{", b"]", b"9" * 99])
            )
        elif action == "cut":
            del found[at : at + draw(st.integers(1, 20))]
        elif action == "repeat":
            found[at:at] = found[at : at + draw(st.integers(1, 40))]
        elif action == "end":
            del found[at:]
    return bytes(found)
