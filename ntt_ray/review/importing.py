"""Verdicts from files: of the page, or what people corrected in CVAT, FiftyOne or Label Studio.

What was corrected is compared with the labels that were drawn: by mask IoU, the best pairs first,
then by id. It does not know what verdicts are for.
"""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal

from ntt_ray import storage
from ntt_ray.coco_input import Annotation, Category, CocoFile, Image
from ntt_ray.config import Config
from ntt_ray.errors import InputError, ProblemListError, noted
from ntt_ray.json_input import read_json
from ntt_ray.masks import Rle, mask_ious, rle_area, rle_bbox_xywh, segmentation_to_rle
from ntt_ray.references.importers.label_studio import results_of, shapes_of
from ntt_ray.review.job import Review, open_reviews
from ntt_ray.review.problems import check_verdicts
from ntt_ray.review.records import (
    GOOD_MASK_IOU,
    MAX_TEXT,
    TASK_VERSION,
    Correction,
    Draw,
    ImageVerdict,
    Label,
    Mark,
    Order,
    Picture,
    Verdict,
    Verdicts,
    name_problem,
    parse_verdicts,
)
from ntt_ray.run.layout import verdicts_name

SAME_IOU = 0.5  # from here on a corrected mask is that of a label, whatever its id


class ReviewFileError(ProblemListError):
    """A file of another tool that cannot be read as verdicts; every problem is named."""

    exit_status = 2


@dataclass(frozen=True)
class Corrected:
    """An object as it was left by a reviewer: its class, its mask, and its id in the tool."""

    category_id: int
    rle: Rle
    name: str = ""


def import_run(
    config: Config,
    path: str,
    reviewer: str | None,
    *,
    order: Order | Literal["random"] | None = None,
    replace: bool = False,
) -> tuple[str, Verdicts, int]:
    """Take a file of verdicts into the output of a run.

    Args:
        config: the run.
        path: the file.
        reviewer: who said it; None where the file says so, or by its name.
        order: what the labels were chosen by; None where the file says so, or one draw is there.
        replace: whether this file counts where it differs from what the reviewer said before.

    Returns:
        The name of the file there, the verdicts of the reviewer, and how many of those in the file
        are on nothing that was drawn.

    Raises:
        InputError, ReviewFileError: it is no file of verdicts, or of another draw, or it differs
            from what the reviewer said before.
    """
    if reviewer is not None and (problem := name_problem(reviewer)):
        raise InputError(f"--reviewer: {problem}")
    reviews, uri = open_reviews(config), storage.absolute(path)
    if order is not None:
        reviews = [own for own in reviews if (own.draw.order or "random") == order]
        if not reviews:
            raise InputError(f"nothing was drawn by the order {order} yet; ntt-ray review draw")
    content = read_json(uri, reviews[0].store)
    if isinstance(content, dict) and "draw" in content:
        verdicts = parse_verdicts(content, uri)
        review = _of_design(reviews, verdicts, uri)
        check_verdicts(verdicts, review.draw, uri)
        if reviewer is not None:
            verdicts = verdicts.model_copy(update={"reviewer": reviewer})
        return _take_in(review, verdicts, uri, replace)
    review = _of_tool(reviews, drawn_as(content), uri)
    given = reviewer or _name_of(PurePath(path).stem)
    if isinstance(content, dict) and "annotations" in content:
        objects = coco_objects(content, review.draw, uri)
    elif isinstance(content, list):
        objects = label_studio_objects(content, review.draw, uri)
    else:
        raise InputError(
            f"{storage.redact(uri)}: neither verdicts of the page, nor COCO, nor a JSON export of "
            "Label Studio"
        )
    return _take_in(review, compared(review.draw, objects, given), uri, replace)


def _name_of(stem: str) -> str:
    """A reviewer named as a file is, whatever files may be called."""
    return "".join(c for c in stem if c.isprintable())[:MAX_TEXT].strip() or "reviewer"


def _of_design(reviews: Sequence[Review], verdicts: Verdicts, uri: str) -> Review:
    found = [review for review in reviews if review.draw.design == verdicts.design]
    if not found:
        raise InputError(
            f"{storage.redact(uri)}: speaks of another draw (other labels, settings of merge, seed "
            "or order)"
        )
    return found[0]


def drawn_as(content: Any) -> str | None:
    """The digest of the draw that a file of another tool was made of, or how it begins.

    None where the tool kept none.
    """
    if isinstance(content, dict):
        info = content.get("info")
        draw = info.get("draw") if isinstance(info, dict) else None
        return draw if isinstance(draw, str) and draw else None
    for task in content if isinstance(content, list) else ():
        made = task.get("predictions") if isinstance(task, dict) else None
        for prediction in made if isinstance(made, list) else ():
            version = prediction.get("model_version") if isinstance(prediction, dict) else None
            if isinstance(version, str) and version.startswith(TASK_VERSION):
                return version.removeprefix(TASK_VERSION)
    return None


def _of_tool(reviews: Sequence[Review], digest: str | None, uri: str) -> Review:
    """The review that a corrected file is of: labels that it never had would look removed."""
    if digest is not None:
        found = [review for review in reviews if review.draw.sha256.startswith(digest)]
        if not found:
            raise InputError(
                f"{storage.redact(uri)}: was made of another draw than is there now; draw with the "
                "same --labels, --images, --seed and --order again, then import it"
            )
        return found[0]
    if len(reviews) > 1:
        orders = ", ".join(review.draw.order or "random" for review in reviews)
        raise InputError(
            f"{storage.redact(uri)}: does not say which draw it was made of; say it by --order "
            f"({orders})"
        )
    return reviews[0]


def _take_in(
    review: Review, verdicts: Verdicts, uri: str, replace: bool
) -> tuple[str, Verdicts, int]:
    known = {str(label.id) for label in review.draw.labels}
    whole = {str(image.image_id) for image in review.draw.whole_images}
    left_out = len(verdicts.labels.keys() - known) + len(verdicts.images.keys() - whole)
    if not (verdicts.labels.keys() & known or verdicts.images.keys() & whole):
        raise InputError(f"{storage.redact(uri)}: has no verdict on anything that was drawn")
    name = verdicts_name(verdicts.reviewer)
    before = [own for own in review.verdicts if verdicts_name(own.reviewer) == name]
    if before:
        verdicts = _joined(before[0], verdicts, replace)
    review.store.publish_bytes(review.uri(name), verdicts.to_bytes())
    return name, verdicts, left_out


def _joined(before: Verdicts, now: Verdicts, replace: bool) -> Verdicts:
    """What a reviewer said in two files; a larger draw asks for its new labels only.

    Raises:
        InputError: they differ where both speak, and `replace` does not say which counts.
    """
    if replace and before.draw == now.draw:
        return now
    both, images = before.labels.keys() & now.labels, before.images.keys() & now.images
    changed = sum(_of_label(before, key) != _of_label(now, key) for key in both)
    changed += sum(before.images[key] != now.images[key] for key in images)
    if changed and not replace:
        raise InputError(
            f"{changed} verdicts are others than {now.reviewer!r} gave before: --replace where the "
            "same person thought again, --reviewer NAME where it is somebody else"
        )
    kept = {key: own for key, own in before.corrections.items() if key not in now.labels}
    return now.model_copy(
        update={
            "labels": {**before.labels, **now.labels},
            "corrections": {**kept, **now.corrections},
            "images": {**before.images, **now.images},
        }
    )


def _of_label(verdicts: Verdicts, key: str) -> tuple[Verdict, Correction | None]:
    return verdicts.labels[key], verdicts.corrections.get(key)


def compared(draw: Draw, objects: Mapping[int, Sequence[Corrected]], reviewer: str) -> Verdicts:
    """Verdicts by what became of the labels.

    Args:
        draw: what was drawn.
        objects: what each reviewed image has now, by image id.
        reviewer: who reviewed.
    """
    drawn: dict[int, list[Label]] = defaultdict(list)
    for label in draw.labels:
        drawn[label.image_id].append(label)
    whole = {image.image_id: image.labels for image in draw.whole_images}
    labels: dict[str, Verdict] = {}
    corrections: dict[str, Correction] = {}
    images: dict[str, ImageVerdict] = {}
    for image_id, found in sorted(objects.items()):
        picture = draw.by_image[image_id]
        shown = {label.id: label for label in [*drawn[image_id], *whole.get(image_id, ())]}
        pairs = _paired(list(shown.values()), found, picture)
        said = {key: _verdict(shown[key], pairs.get(key)) for key in sorted(shown)}
        labels |= {str(label.id): said[label.id] for label in drawn[image_id]}
        for key, (position, _) in pairs.items():
            if said[key] in ("class", "mask"):
                own = found[position]
                corrections[str(key)] = Correction(
                    category_id=own.category_id, counts=own.rle["counts"]
                )
        if image_id in whole:
            taken = {position for position, _ in pairs.values()}
            more = [own for position, own in enumerate(found) if position not in taken]
            images[str(image_id)] = ImageVerdict(
                labels={str(label.id): said[label.id] for label in whole[image_id]},
                missed=tuple(map(_mark, more)),
            )
    return Verdicts(
        draw=draw.sha256, design=draw.design, reviewer=reviewer, labels=labels,
        corrections=corrections, images=images,
    )  # fmt: skip


def _paired(
    labels: Sequence[Label], found: Sequence[Corrected], picture: Picture
) -> dict[int, tuple[int, tuple[float, Corrected]]]:
    """For each label that is still there, the position of its object, with IoU and object."""
    ious = mask_ious([label.rle(picture) for label in labels], [own.rle for own in found])
    order = sorted(
        ((float(ious[i, j]), -i, -j) for i in range(len(labels)) for j in range(len(found))),
        reverse=True,
    )
    pairs: dict[int, tuple[int, tuple[float, Corrected]]] = {}
    taken: set[int] = set()
    for by_name in (False, True):
        for iou, i, j in order:
            label, own = labels[-i], found[-j]
            same = own.name == str(label.id) and iou > 0 if by_name else iou >= SAME_IOU
            if same and label.id not in pairs and -j not in taken:
                pairs[label.id] = (-j, (iou, own))
                taken.add(-j)
    return pairs


def _verdict(label: Label, pair: tuple[int, tuple[float, Corrected]] | None) -> Verdict:
    if pair is None:
        return "nothing"
    iou, own = pair[1]
    if own.category_id != label.category_id:
        return "class"
    return "right" if iou >= GOOD_MASK_IOU else "mask"


def _mark(own: Corrected) -> Mark:
    x, y, width, height = rle_bbox_xywh(own.rle)
    return Mark(
        x=x, y=y, width=width, height=height, category_id=own.category_id,
        counts=own.rle["counts"],
    )  # fmt: skip


def coco_objects(content: Any, draw: Draw, where: str) -> dict[int, list[Corrected]]:
    """The objects of a corrected COCO file on the images of a draw, by the run's image id.

    Raises:
        ReviewFileError: with every problem found.
    """
    file, problems = CocoFile.of(content), list[str]()
    images, annotations = file.items("images", Image), file.items("annotations", Annotation)
    categories = file.items("categories", Category)
    if images is None or annotations is None or categories is None:
        raise ReviewFileError(_title(where), ["it lacks images, annotations or categories"])
    for name, items in (("images", images), ("annotations", annotations)):
        problems += items.listed_problems(name)
    classes = _class_ids([(c.id, c.name) for _, c in categories.sound()], draw, problems)
    find, own = _finder(draw.pictures), dict[int, Picture]()
    for position, image in images.sound():
        picture = find(images.raw(position).get("file_name"))
        if picture is not None and (image.height, image.width) != (picture.height, picture.width):
            problems.append(
                f"image {image.id} is {image.width} x {image.height} pixels, but was drawn at "
                f"{picture.width} x {picture.height}"
            )
        elif picture is not None:
            own[image.id] = picture
    found: dict[int, list[Corrected]] = {picture.image_id: [] for picture in own.values()}
    for position, annotation in annotations.sound():
        if (picture := own.get(annotation.image_id)) is None:
            continue
        with noted(problems, f"annotation {annotation.id}", ValueError):
            mask = annotations.raw(position).get("segmentation")
            if not mask:
                raise ValueError("has a box and no mask")
            rle = segmentation_to_rle(mask, picture.height, picture.width)
            _keep(found[picture.image_id], classes.get(annotation.category_id), rle, annotation.id)
    if problems:
        raise ReviewFileError(_title(where), problems)
    return found


def label_studio_objects(
    tasks: Sequence[Any], draw: Draw, where: str
) -> dict[int, list[Corrected]]:
    """The objects of a JSON export of Label Studio, by image id; tasks nobody submitted are not in.

    Raises:
        ReviewFileError: with every problem found.
    """
    problems, left_out = list[str](), Counter[str]()
    names, find = {name: key for key, name in draw.names.items()}, _finder(draw.pictures)
    found: dict[int, list[Corrected]] = {}
    for number, task in enumerate(tasks):
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict):
            problems.append(f"task {number}: has no data; export as JSON, not as JSON-MIN")
            continue
        picture, results = find(data.get("file_name")), None
        with noted(problems, f"task {number}", ValueError):
            results = results_of({**task, "predictions": None})
        if results is None or picture is None or not _was_submitted(task):
            continue
        own = found.setdefault(picture.image_id, [])
        for place, result in enumerate(results):
            with noted(problems, f"task {number}: result {place}", ValueError):
                size_hw = (picture.height, picture.width)
                for shape in shapes_of(result, size_hw, left_out):
                    if shape.rle is None:
                        raise ValueError("is a box and no mask")
                    if shape.label not in names:
                        raise ValueError(f"has the class {shape.label!r}, which was not drawn")
                    _keep(own, names[shape.label], shape.rle, result.get("id"))
    if problems:
        raise ReviewFileError(_title(where), problems)
    return found


def _was_submitted(task: Mapping[str, Any]) -> bool:
    made = task.get("annotations") or ()
    return any(isinstance(item, dict) and not item.get("was_cancelled") for item in made)


def _keep(own: list[Corrected], category_id: int | None, rle: Rle, name: Any) -> None:
    """Add an object; masks that were erased whole are none, and neither are unknown classes."""
    if category_id is not None and rle_area(rle):
        own.append(replace(Corrected(category_id, rle), name=str(name)))


def _class_ids(
    listed: Iterable[tuple[int, str]], draw: Draw, problems: list[str]
) -> dict[int, int]:
    """Category ids of the draw by those of a file; classes go by their names."""
    names = {name: key for key, name in draw.names.items()}
    found = {}
    for own, name in listed:
        if name in names:
            found[own] = names[name]
    if not found:
        problems.append(f"it has none of the classes {', '.join(sorted(names))}")
    return found


def _finder(pictures: Sequence[Picture]) -> Any:
    """Finds an image of the draw by its name, or by the last part of it where that is unique."""
    whole = {picture.file_name: picture for picture in pictures}
    counts = Counter(posixpath.basename(name) for name in whole)
    last = {
        base: picture
        for name, picture in whole.items()
        if counts[base := posixpath.basename(name)] == 1
    }

    def find(name: Any) -> Picture | None:
        if not isinstance(name, str):
            return None
        return whole.get(name) or last.get(posixpath.basename(name))

    return find


def _title(where: str) -> str:
    return f"{storage.redact(where)} cannot be read as verdicts:"
