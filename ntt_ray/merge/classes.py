"""Which classes of a run go into its merged files, and what they are called there.

Labelling knows the classes of the references only; a merge may leave some out, rename them or make
one of several. Ids stay the user's. It does not know files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ntt_ray.errors import InputError, did_you_mean
from ntt_ray.records import ClassLabel


@dataclass(frozen=True)
class ClassChoice:
    """The classes of merged files.

    Attributes:
        categories: category id of the run -> category id in the files; others are left out.
            None: all classes, as they are.
        labels: the classes of the files, by rising id.
    """

    categories: Mapping[int, int] | None
    labels: tuple[ClassLabel, ...]


def choose_classes(
    classes: Sequence[ClassLabel], names: Sequence[str] | None, new_names: Mapping[str, str]
) -> ClassChoice:
    """Choose and rename classes.

    Args:
        classes: the classes of the run.
        names: names of the classes that are kept; None keeps all.
        new_names: name of a class of the run -> its name in the files. Classes that come to have
            the same name become one, with the lowest of their ids.

    Raises:
        InputError: a name that the run does not have, or one that is renamed and not kept.
    """
    own = tuple(sorted(classes, key=lambda label: label.category_id))
    if names is None and not new_names:
        return ClassChoice(None, own)
    known = [label.name for label in own]
    _check_known(names or (), known, "merge.classes", "the run has no such class")
    kept = [label for label in own if names is None or label.name in names]
    why = "the run has no such class" if names is None else "is not one of merge.classes"
    _check_known(new_names, [label.name for label in kept], "merge.rename", why)
    ids: dict[str, int] = {}
    for label in kept:
        ids.setdefault(new_names.get(label.name, label.name), label.category_id)
    categories = {c.category_id: ids[new_names.get(c.name, c.name)] for c in kept}
    return ClassChoice(categories, tuple(ClassLabel(number, name) for name, number in ids.items()))


def _check_known(names: Iterable[str], known: Sequence[str], key: str, why: str) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"{key}: {name}: {why}{did_you_mean(name, known)}")
