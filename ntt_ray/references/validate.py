"""Which annotations of a COCO file become references. Their masks are looked at elsewhere.

It checks what choosing needs, ids, sizes and boxes, and names every problem it finds.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ntt_ray.errors import ReferencesError
from ntt_ray.masks import is_finite_number
from ntt_ray.records import MAX_CATEGORY_ID, ClassLabel
from ntt_ray.references.sample import Profile, sample_annotations, sample_plainly
from ntt_ray.yaml_input import is_unicode

logger = logging.getLogger(__name__)

# COCO readers take ids as doubles
MAX_IDS = {"images": 2**53 - 1, "annotations": 2**53 - 1, "categories": MAX_CATEGORY_ID}
TITLE = "the references cannot be used:"


@dataclass(frozen=True)
class Choice:
    """The annotations of a COCO file that become references, checked but for their masks.

    Attributes:
        classes: the selected ones, by rising id.
        images: every image of the file by id, as it stands there.
        annotations: the chosen ones as they stand there, in the file's order.
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
) -> Choice:
    """Choose references among a COCO file's annotations, with masks or boxes only.

    Raises:
        ReferencesError: with every problem found.
    """
    problems: list[str] = []
    choice = checked_choice(coco, classes, shots, seed, profile, problems)
    if problems:
        raise ReferencesError(TITLE, problems)
    return choice


def checked_choice(
    coco: Any,
    classes: Sequence[str] | None,
    shots: int | None,
    seed: int,
    profile: Profile,
    problems: list[str],
) -> Choice:
    """See `choose_annotations`; adds to `problems`, and raises when nothing more can be said."""
    images = _by_id(coco, "images", problems)
    categories = _by_id(coco, "categories", problems)
    annotations = _by_id(coco, "annotations", problems)
    if problems:
        raise ReferencesError(TITLE, problems)
    labels = _selected_classes(categories, classes, problems)
    others = categories.keys() - {label.category_id for label in labels}
    wanted = [a for a in annotations.values() if not _is_of(a, others)]
    usable = [a for a in wanted if _is_sound(a, images, categories, problems)]
    chosen = _chosen(usable, images, labels, shots, seed, profile, problems)
    counts = Counter(a["category_id"] for a in chosen)
    problems += [
        f"class {label.name!r} (id {label.category_id}) has no reference; annotate one, or name "
        "the wanted classes in references.classes"
        for label in labels
        if shots is None and not counts[label.category_id]
    ]
    return Choice(tuple(labels), images, tuple(chosen))


def _by_id(coco: Any, key: str, problems: list[str]) -> dict[int, dict[str, Any]]:
    block = coco.get(key) if isinstance(coco, dict) else None
    if not isinstance(block, list):
        problems.append(f"the COCO file has no list {key!r}")
        return {}
    items: dict[int, dict[str, Any]] = {}
    for position, item in enumerate(block):
        identity = item.get("id") if isinstance(item, dict) else None
        if not _is_int(identity) or abs(identity) > MAX_IDS[key]:
            problems.append(f"{key}[{position}]: has no whole-number id of {MAX_IDS[key]} or less")
        elif identity in items:
            problems.append(f"{key}[{position}]: id {identity} is used twice")
        else:
            items[identity] = item
    return items


def _selected_classes(
    categories: dict[int, dict[str, Any]], classes: Sequence[str] | None, problems: list[str]
) -> list[ClassLabel]:
    labels = []
    for identity, category in sorted(categories.items()):
        name = category.get("name")
        if not isinstance(name, str) or not name or not is_unicode(name):
            problems.append(f"category {identity}: has no name")
        elif classes is None or name in classes:
            labels.append(ClassLabel(identity, name))
    if classes is not None and not classes:
        problems.append("references.classes: names no class; leave it out to take all")
    elif not categories:
        problems.append("the COCO file has no category")
    if any(label.category_id < 1 for label in labels):
        problems.append("category ids must be 1 or more: several COCO readers drop category 0")
    known = [str(category.get("name")) for category in categories.values()]
    for name in classes or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            problems.append(f"references.classes: unknown class {name!r}; {hint}")
    for name, count in Counter(label.name for label in labels).items():
        if count > 1:
            problems.append(f"categories: the name {name!r} is used {count} times")
    return labels


def _is_of(annotation: Mapping[str, Any], category_ids: Collection[int]) -> bool:
    """Whether it is of one of these classes, which are not wanted: then nothing of it matters."""
    category_id = annotation.get("category_id")
    return _is_int(category_id) and category_id in category_ids


def _is_sound(
    annotation: dict[str, Any],
    images: dict[int, dict[str, Any]],
    categories: dict[int, dict[str, Any]],
    problems: list[str],
) -> bool:
    """Whether ids and the box make sense; the mask is looked at only if it becomes a reference."""
    name = f"annotation {annotation['id']}"
    before = len(problems)
    image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
    image = images.get(image_id) if _is_int(image_id) else None
    if image is None:
        problems.append(f"{name}: its image {image_id!r} is not in the file")
    elif not all(_is_int(v) and v > 0 for v in _size_hw(image)):
        problems.append(f"image {image_id}: needs width and height as whole numbers above 0")
    if not _is_int(category_id) or category_id not in categories:
        problems.append(f"{name}: unknown class id {category_id!r}")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(is_finite_number(v) for v in box):
        problems.append(f"{name}: its bbox is not [x, y, width, height]")
    return len(problems) == before


def _size_hw(image: dict[str, Any]) -> tuple[Any, Any]:
    return image.get("height"), image.get("width")


def _chosen(
    annotations: list[dict[str, Any]],
    images: dict[int, dict[str, Any]],
    labels: list[ClassLabel],
    shots: int | None,
    seed: int,
    profile: Profile,
    problems: list[str],
) -> list[dict[str, Any]]:
    wanted = {label.category_id: label.name for label in labels}
    if shots is None:
        chosen = [a for a in annotations if a["category_id"] in wanted and not a.get("iscrowd")]
        if crowds := sum(bool(a.get("iscrowd")) for a in annotations):
            logger.info("%d crowd regions are not used as references", crowds)
        return chosen
    plainly, too_few = sample_plainly(annotations, wanted, shots, seed)
    if profile == "plain":
        by_category, short = plainly, too_few
        rules = "no crowd, a box of a pixel or more"
    else:
        sizes = {i: _size_hw(image) for i, image in images.items()}
        by_category, short = sample_annotations(annotations, sizes, wanted, shots, seed)
        rules = "at least 32 x 32 pixels, 10 from the border, no crowd, one per image"
    problems += [
        f"class {wanted[i]!r} (id {i}) has {len(by_category.get(i, ()))} valid references for "
        f"{shots} shots"
        for i in short
    ]
    if short:
        least = min(len(by_category.get(i, ())) for i in short)
        advice = f"annotate more, or ask for {least} shots" if least else "annotate more"
        if profile == "paper" and not too_few:
            advice += "; the profile 'plain' has no such rules and finds enough"
        problems.append(f"valid are: {rules}. Too few: {advice}")
    ids = {i for chosen_ids in by_category.values() for i in chosen_ids}
    return [a for a in annotations if a["id"] in ids]


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
