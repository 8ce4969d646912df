"""YAML to plain data, as strict and as bounded as a file from anybody must be read.

Plain data is text, numbers, true and false, null, and lists and mappings of them. It does not know
what the settings mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000  # also stops a few lines that stand for billions of values by aliases
MAX_DEPTH = 32
MAX_INTEGER = 2**63


class _Loader(yaml.SafeLoader):
    """A safe loader that takes no key twice and does not multiply merged keys without end."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        own = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in own.items():
            if count > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is used twice", node.start_mark
                )
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"merges more than {MAX_VALUES} values", node.start_mark
            )


def parse_yaml(text: str | bytes) -> Any:
    """Parse a YAML document.

    Raises:
        ValueError: it is not YAML, or not to be read within the limits; the message says why.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES / 1e6:g} MB")
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return yaml.load(plain, _Loader)  # noqa: S506 - it is a SafeLoader
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    # PyYAML lets these escape on scalars it cannot convert
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"a value cannot be read ({error})") from None


def plain_problems(data: Any) -> list[str]:
    """Problems of what is not plain in parsed data, each by its dotted path.

    Where there are too many values or levels, that is the one problem.
    """
    problems: list[str] = []
    left = [("", data, 0)]
    count = 0
    while left:
        path, value, depth = left.pop()
        count += 1
        if count > MAX_VALUES:
            return [f"there are more than {MAX_VALUES} values, aliases counted as often as used"]
        if depth > MAX_DEPTH:
            return [f"{path[:80]}: is nested more than {MAX_DEPTH} deep"]
        if isinstance(value, dict):
            problems += [f"{path}{key!r:.80}: is no text key" for key in value if _wrong_key(key)]
            items = [item for item in value.items() if not _wrong_key(item[0])]
            left += [(f"{path}{key}.", item, depth + 1) for key, item in reversed(items)]
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
            left += [(f"{path}{key}.", item, depth + 1) for key, item in reversed(items)]
        elif problem := _scalar_problem(value):
            problems.append(f"{path.removesuffix('.')}: {problem}")
    return problems


def _wrong_key(key: Any) -> bool:
    return not isinstance(key, str) or _scalar_problem(key) is not None


def _scalar_problem(value: Any) -> str | None:
    if isinstance(value, str):
        if "\0" in value:
            return "holds a NUL character"
        return None if is_unicode(value) else "holds half a character (a surrogate)"
    if isinstance(value, int):
        return None if abs(value) <= MAX_INTEGER else "is larger than any whole number here"
    if value is None or isinstance(value, float):
        return None
    return f"is a {type(value).__name__}, neither text, number nor list; put it in quotes"


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; one with half a character (a surrogate) cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
