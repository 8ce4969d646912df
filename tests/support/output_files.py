"""Which files of an output the layout does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from ntt_ray.run.layout import FILES, PLAN_FOLDER


def unknown_files(names: Iterable[str]) -> list[str]:
    """Those that match no pattern of the layout.

    Args:
        names: relative to the output; below ``plan/*/`` lies an output of its own.
    """
    sample = re.compile(rf"^{PLAN_FOLDER}/[0-9a-f]+/")
    return [
        name
        for name in names
        if not any(fnmatchcase(found, p) for p in FILES for found in (name, sample.sub("", name)))
    ]
