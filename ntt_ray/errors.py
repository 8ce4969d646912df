"""The exception tree. Every error a user can cause or meet derives from `NttRayError`.

The command line turns these into one readable message and an exit status; anything else that is
raised is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

Failure = Literal["content", "access", "worker"]  # why an image has no labels: see `records`


class NttRayError(Exception):
    """Base of all errors of this package; `exit_status` is what the command line returns."""

    exit_status = 1


class ProblemListError(NttRayError):
    """An error that lists the problems found, not only the first one.

    Attributes:
        title: what is wrong, as the message's first line.
        problems: all problems found; the message shows the first `MAX_SHOWN`.
    """

    MAX_SHOWN = 50

    def __init__(self, title: str, problems: Sequence[str]) -> None:
        self.title = title
        self.problems = tuple(problems)
        lines = [f"  - {problem}" for problem in self.problems[: self.MAX_SHOWN]]
        if (more := len(self.problems) - self.MAX_SHOWN) > 0:
            lines.append(f"  - and {more:,} more")
        super().__init__("\n".join([title, *lines]))

    def __reduce__(self) -> tuple[type[ProblemListError], tuple[str, tuple[str, ...]]]:
        """Rebuild from the two arguments, so that it survives the way between processes."""
        return (type(self), (self.title, self.problems))


@contextmanager
def noted(problems: list[str], name: str, *kinds: type[Exception]) -> Iterator[None]:
    """Add an error of these kinds to the problems, under the name of what has it, and go on."""
    try:
        yield
    except kinds as error:
        problems.append(f"{name}: {error}")


class ConfigError(ProblemListError):
    """Settings that cannot be used; every problem is named by its dotted path."""

    exit_status = 2


class ReferencesError(ProblemListError):
    """References that cannot define their classes."""

    exit_status = 2


class InputError(NttRayError):
    """An input named by the config that is missing or malformed (image list, bank, COCO file)."""

    exit_status = 2


class DataSetError(ProblemListError):
    """A benchmark's data folder lacks files; each is named with the place to get it from."""

    exit_status = 2


class MissingPackageError(InputError):
    """A kind of store whose package is not installed: nothing in it can be read here."""


class WeightsError(NttRayError):
    """A checkpoint that is missing, damaged or does not fit its model."""

    exit_status = 2


class OutputMismatchError(ProblemListError):
    """The output prefix belongs to a run with other settings."""

    exit_status = 2


class ClusterError(NttRayError):
    """Ray cannot be started on this machine, or the cluster that is named cannot be joined."""


class OutputLockedError(NttRayError):
    """Another driver is working on the output prefix."""


class ImageError(NttRayError):
    """One image that cannot be labelled; becomes a row with status ``failed``.

    Attributes:
        failure: the kind of failure, see `records.Failure`: of its content, unless a subclass says
            something else.
    """

    failure: Failure = "content"


class AccessError(ImageError):
    """An image whose bytes could not be read: another start of the run tries it again."""

    failure: Failure = "access"


class GivenBackError(NttRayError):
    """A unit that cannot be labelled in this start of a run; others go on."""


class SickDeviceError(NttRayError):
    """An error after which a GPU cannot be used by this process any more."""


class ImageMemoryError(ImageError):
    """An image for whose pixels there is not enough memory."""


class LabelError(NttRayError):
    """The method failed on an image; stops the run and names the image and the unit."""


class RunIncompleteError(NttRayError):
    """The run ended with something missing, or with too many failed images."""


class StorageError(NttRayError):
    """The store did not answer, or refused, after all retries.

    Attributes:
        passing: whether the same request may well succeed later; not whether it was refused.
    """

    passing = False


REASON_LIMIT = 300  # characters
# parts of an error that differ from image to image: URIs and paths, quoted text, numbers
_VARYING = (
    (re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+|(?<!\S)/\S+"), "…"),
    (re.compile(r"b?'(?:[^'\\]|\\.)*'|b?\"(?:[^\"\\]|\\.)*\""), "…"),
    (re.compile(r"\d+(?:\.\d+)?"), "N"),
)


def reason_of(error: str) -> str:
    """An error text without what differs from image to image, so that equal reasons are one."""
    for pattern, replacement in _VARYING:
        error = pattern.sub(replacement, error)
    return error[:REASON_LIMIT].strip() or "no reason given"


def did_you_mean(
    name: str, known: Iterable[str], otherwise: str = "", shown: Callable[[str], str] = repr
) -> str:
    """The end of a message on an unknown name: the known one most like it, or else `otherwise`."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {shown(near[0])}?" if near else otherwise
    return hint and f"; {hint}"
