"""The one Jinja2 environment of all pages: every text is escaped, and an unknown name is an error.

It owns the filters, and with the folder ``templates`` the frame of a page, its style and the macros
that pages share. It does not know what a page shows: rooms that have a page compute that.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

COLOURS = 12  # colours.css defines so many; classes take them in turn
_NAME_SHOWN = 60
_DIGEST_SHOWN = 12


def render(template: str, **values: Any) -> str:
    """Fill a template of the folder ``templates``.

    Args:
        template: its file name.
        values: what it shows, by the names that it uses.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not given.
    """
    return _environment().get_template(template).render(values)


def number(value: float, spec: str = ",") -> str:
    """A number by a format specification; without one a whole number as ``1,234``."""
    return format(value, spec)


def fraction(value: float | None) -> str:
    """A fraction with three digits; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def threshold(value: float | None, digits: int = 3) -> str:
    """A score rounded down: as a threshold it keeps whatever has that score; a dash for none."""
    if value is None:
        return "–"
    step = Decimal(1).scaleb(-digits)
    return str(Decimal(repr(float(value))).quantize(step, ROUND_FLOOR))


def counted(value: int, noun: str) -> str:
    """``1 class``, ``1,234 images``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{value:,} {noun if value == 1 else plural}"


def shortened(name: str) -> str:
    """A name cut to a length that fits a table."""
    return name if len(name) <= _NAME_SHOWN else name[: _NAME_SHOWN - 1] + "…"


def digest(text: str | None) -> str:
    """The first digits of a checksum; empty where there is none."""
    return (text or "")[:_DIGEST_SHOWN]


def colour(position: int) -> str:
    """The CSS class with the colour of a class, by the position of the class in the run."""
    return f"c{position % COLOURS}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ntt_ray.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for function in (number, fraction, threshold, counted, shortened, digest, colour):
        environment.filters[function.__name__] = function
    return environment
