"""Which annotations of a COCO file become references; every problem that is in the way is named.

`coco_input` says what is wrong with an item; here it is known which items are wanted, and whether
they fit together. Masks are looked at by `dataset`.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from ntt_ray.coco_input import Annotation, Category, CocoFile, Image, Item, Items, Key, Problem
from ntt_ray.errors import ReferencesError, did_you_mean
from ntt_ray.records import ClassLabel
from ntt_ray.references.sample import Profile, sample_annotations, sample_plainly

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Item)
Crowds = Literal["ignore", "objects"]
TITLE = "the references cannot be used:"


@dataclass(frozen=True)
class Choice:
    """The annotations of a COCO file that become references, checked but for their masks.

    Attributes:
        classes: the selected classes, by rising id.
        images: the images of the chosen annotations by id, as they stand in the file, in its order.
        annotations: the chosen annotations as they stand in the file, in its order.
    """

    classes: tuple[ClassLabel, ...]
    images: Mapping[int, Mapping[str, Any]]
    annotations: tuple[Mapping[str, Any], ...]


def choose_annotations(
    coco: Any,
    *,
    classes: Sequence[str] | None = None,
    shots: int | None = None,
    seed: int = 33,
    profile: Profile = "paper",
    crowds: Crowds = "ignore",
) -> Choice:
    """Choose references among a COCO file's annotations, with masks or boxes only.

    Raises:
        ReferencesError: with every problem found.
    """
    problems: list[str] = []
    choice = checked_choice(coco, classes, shots, seed, profile, crowds, problems)
    if problems:
        raise ReferencesError(TITLE, problems)
    return choice


def checked_choice(
    coco: Any,
    classes: Sequence[str] | None,
    shots: int | None,
    seed: int,
    profile: Profile,
    crowds: Crowds,
    problems: list[str],
) -> Choice:
    """As `choose_annotations`, but adds to `problems`; raises when nothing more can be said."""
    file = CocoFile.of(coco)
    images = _block(file, "images", Image, problems)
    categories = _block(file, "categories", Category, problems)
    annotations = _block(file, "annotations", Annotation, problems)
    if images is None or categories is None or annotations is None or problems:
        raise ReferencesError(TITLE, problems)
    parent = _roboflow_parent(categories, annotations)
    labels = _selected_classes(categories, classes, parent, problems)
    wanted = {label.category_id for label in labels}
    others = categories.positions.keys() - wanted
    sizes = {image.id: (image.height, image.width) for _, image in images.items.sound()}
    usable: list[tuple[int, Annotation]] = []
    for identity, position in annotations.positions.items():
        annotation = annotations.items.records[position]
        if annotation and annotation.category_id in wanted and annotation.image_id in sizes:
            single = crowds == "objects" and bool(annotation.iscrowd)
            usable.append((position, replace(annotation, iscrowd=0) if single else annotation))
        elif annotation is None or annotation.category_id not in others:
            problems += _problems_of(identity, annotations, images, categories, others)
    ids = _chosen([a for _, a in usable], sizes, labels, shots, seed, profile, problems)
    chosen = [(position, a) for position, a in usable if a.id in ids]
    counts = Counter(a.category_id for _, a in chosen)
    marked = _crowds_of(labels, [a for _, a in usable])
    for label in labels:
        if shots is None and not counts[label.category_id]:
            why = marked.get(label.category_id)
            problems.append(
                f"class {label.name!r} (id {label.category_id}) has no reference; {why}"
                if why
                else f"class {label.name!r} (id {label.category_id}) has no reference; annotate "
                "one, or name the wanted classes in references.classes"
            )
        elif label.category_id in marked:
            logger.warning("class %r: %s", label.name, marked[label.category_id])
    used = {a.image_id for _, a in chosen}
    return Choice(
        tuple(labels),
        {i: images.items.raw(n) for i, n in images.positions.items() if i in used},
        tuple(annotations.items.raw(position) for position, _ in chosen),
    )


def _crowds_of(labels: Sequence[ClassLabel], annotations: Sequence[Annotation]) -> dict[int, str]:
    """What to say of the classes that are mostly crowds, by category id."""
    every = Counter(a.category_id for a in annotations)
    crowds = Counter(a.category_id for a in annotations if a.iscrowd)
    return {
        label.category_id: (
            f"{crowds[label.category_id]} of its {every[label.category_id]} annotations are marked "
            "iscrowd: 1, which means many objects and is no reference. CVAT, Datumaro and "
            "supervision mark brush masks so: if each is one object, set references.crowds: objects"
        )
        for label in labels
        if 2 * crowds[label.category_id] > every[label.category_id]
    }


@dataclass(frozen=True)
class _Block(Generic[T]):
    """A list of a COCO file.

    Attributes:
        items: what stands in it.
        positions: the place of each item in the list, by its id.
    """

    items: Items[T]
    positions: Mapping[int, int]

    def problems(self, identity: int) -> list[Problem]:
        """What is wrong with an item."""
        return self.items.problems.get(self.positions[identity], [])


def _block(file: CocoFile, key: Key, model: type[T], problems: list[str]) -> _Block[T] | None:
    """Look at the ids of a list; None where the file has no such list."""
    items = file.items(key, model)
    if items is None:
        problems.append(f"the COCO file has no list {key!r}")
        return None
    positions: dict[int, int] = {}
    for position, identity in enumerate(items.ids()):
        if identity is None:
            text = next(p.text for p in items.problems[position] if p.field == "id")
            problems.append(f"{key}[{position}]: {text}")
        elif identity in positions:
            problems.append(f"{key}[{position}]: id {identity} is used twice")
        else:
            positions[identity] = position
    return _Block(items, positions)


def _roboflow_parent(categories: _Block[Category], annotations: _Block[Annotation]) -> int | None:
    """The id of the entry that Roboflow puts before the classes, whose supercategory it is.

    None where there is no such entry, or it has an annotation: then it is a class.
    """
    raw = {identity: categories.items.raw(n) for identity, n in categories.positions.items()}
    entry = raw.pop(0, None)
    if not isinstance(entry, dict) or entry.get("supercategory") != "none" or not raw:
        return None
    if any(other.get("supercategory") != entry.get("name") for other in raw.values()):
        return None
    if any(_category_of(annotations, n) == 0 for n in annotations.positions.values()):
        return None
    logger.info(
        "references: category 0 %r has no annotation, and all others below it", entry.get("name")
    )
    return 0


def _category_of(annotations: _Block[Annotation], position: int) -> Any:
    record = annotations.items.records[position]
    return record.category_id if record else annotations.items.raw(position).get("category_id")


def _selected_classes(
    categories: _Block[Category],
    classes: Sequence[str] | None,
    left_out: int | None,
    problems: list[str],
) -> list[ClassLabel]:
    for identity in sorted(categories.positions):
        problems += [f"category {identity}: {p.text}" for p in categories.problems(identity)]
    sound = sorted((c for _, c in categories.items.sound() if c.id != left_out), key=lambda c: c.id)
    every = [ClassLabel(c.id, c.name) for c in sound]
    labels = [label for label in every if classes is None or label.name in classes]
    if classes is not None and not classes:
        problems.append("references.classes: names no class; leave it out to take all")
    elif not categories.positions:
        problems.append("the COCO file has no category")
    known = [label.name for label in every]
    for name in classes or ():
        if name not in known:
            hint = did_you_mean(name, known, f"known: {', '.join(sorted(known))}")
            problems.append(f"references.classes: unknown class {name!r}{hint}")
    for name, count in Counter(label.name for label in labels).items():
        if count > 1:
            problems.append(f"categories: the name {name!r} is used {count} times")
    alike: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(label.name for label in labels):
        alike["".join(name.split()).casefold()].append(name)
    for names in alike.values():
        if len(names) > 1:
            text = ", ".join(map(repr, names))
            logger.warning("references: the classes %s differ in blanks or case only", text)
    return labels


def _problems_of(
    identity: int,
    annotations: _Block[Annotation],
    images: _Block[Image],
    categories: _Block[Category],
    others: Collection[int],
) -> list[str]:
    """Why an annotation cannot be used: its ids or its box, or the size of its image.

    There is none where its class is one of the `others`, which are not wanted: then nothing of it
    matters. The mask is looked at when the annotation becomes a reference.
    """
    raw = annotations.items.raw(annotations.positions[identity])
    image_id, category_id = raw.get("image_id"), raw.get("category_id")
    if type(category_id) is int and category_id in others:
        return []
    name = f"annotation {identity}"
    found = []
    if type(image_id) is not int or image_id not in images.positions:
        found.append(f"{name}: its image {image_id!r} is not in the file")
    else:
        found += [f"image {image_id}: {p.text}" for p in images.problems(image_id)]
    if type(category_id) is not int or category_id not in categories.positions:
        found.append(f"{name}: unknown class id {category_id!r}")
    own = annotations.problems(identity)
    return found + [f"{name}: {p.text}" for p in own if p.field not in ("image_id", "category_id")]


def _chosen(
    annotations: list[Annotation],
    sizes_hw: Mapping[int, tuple[int, int]],
    labels: list[ClassLabel],
    shots: int | None,
    seed: int,
    profile: Profile,
    problems: list[str],
) -> set[int]:
    """The ids of the annotations that become references."""
    wanted = {label.category_id: label.name for label in labels}
    if shots is None:
        if crowds := sum(bool(a.iscrowd) for a in annotations):
            logger.info("%d crowd regions are not used as references", crowds)
        return {a.id for a in annotations if a.category_id in wanted and not a.iscrowd}
    if profile == "plain":
        by_category, short = sample_plainly(annotations, wanted, shots, seed)
        rules = "no crowd, a box of a pixel or more"
    else:
        by_category, short = sample_annotations(annotations, sizes_hw, wanted, shots, seed)
        rules = "at least 32 x 32 pixels, 10 from the border, no crowd, one per image"
    problems += [
        f"class {wanted[i]!r} (id {i}) has {len(by_category.get(i, ()))} valid references for "
        f"{shots} shots"
        for i in short
    ]
    if short:
        least = min(len(by_category.get(i, ())) for i in short)
        advice = f"annotate more, or ask for {least} shots" if least else "annotate more"
        if profile == "paper" and not sample_plainly(annotations, wanted, shots, seed)[1]:
            advice += "; the profile 'plain' has no such rules and finds enough"
        problems.append(f"valid are: {rules}. Too few: {advice}")
    return {i for ids in by_category.values() for i in ids}
