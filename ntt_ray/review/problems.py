"""What is wrong with verdicts on a draw, beyond their form: classes, masks, places.

A file of verdicts comes from anywhere. pycocotools reads a damaged mask past its end, so that masks
are measured before anything else sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.masks import measure_rles
from ntt_ray.review.records import Correction, Draw, ImageVerdict, Label, Mark, Picture, Verdicts

_SHOWN = 5
_SLACK_PX = 1.0  # places are rounded


def check_verdicts(verdicts: Verdicts, draw: Draw, where: str) -> None:
    """Check what is said of labels and images of a draw; what is said of others is not looked at.

    Raises:
        InputError: the first problems are named.
    """
    found = list(_problems(verdicts, draw))
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise InputError(f"{storage.redact(where)}: {'; '.join(found[:_SHOWN])}{more}")


def all_labels(draw: Draw) -> dict[int, Label]:
    """The drawn labels and those of whole images, by id."""
    found: dict[int, Label] = {label.id: label for label in draw.labels}
    for image in draw.whole_images:
        found |= {label.id: label for label in image.labels if label.id not in found}
    return found


def _problems(verdicts: Verdicts, draw: Draw) -> Iterator[str]:
    pictures, names = draw.by_image, draw.names
    for label in all_labels(draw).values():
        correction = verdicts.corrections.get(str(label.id))
        if correction is not None:
            problem = _of_correction(correction, label, pictures[label.image_id], names, verdicts)
            if problem:
                yield f"the correction of label {label.id} {problem}"
    for image in draw.whole_images:
        said = verdicts.images.get(str(image.image_id))
        if said is not None:
            yield from _of_image(said, image.labels, pictures[image.image_id], names)


def _of_correction(
    correction: Correction,
    label: Label,
    picture: Picture,
    names: Mapping[int, str],
    verdicts: Verdicts,
) -> str | None:
    if correction.category_id not in names:
        return f"has category {correction.category_id}, which was not drawn"
    said = verdicts.labels.get(str(label.id))
    if said == "class" and correction.category_id == label.category_id:
        return "has the class that was said to be wrong"
    return _of_counts(correction.counts, picture)


def _of_image(
    said: ImageVerdict, labels: tuple[Label, ...], picture: Picture, names: Mapping[int, str]
) -> Iterator[str]:
    where = f"image {picture.image_id}"
    if said.labels.keys() != {str(label.id) for label in labels}:
        yield f"{where} has verdicts on other labels than its own {len(labels)}"
    for number, mark in enumerate(said.missed, 1):
        problem = _of_mark(mark, picture, names) or _of_counts(mark.counts, picture)
        if problem:
            yield f"{where}: missing object {number} {problem}"


def _of_mark(mark: Mark, picture: Picture, names: Mapping[int, str]) -> str | None:
    if mark.category_id is not None and mark.category_id not in names:
        return f"has category {mark.category_id}, which was not drawn"
    right, bottom = mark.x + mark.width, mark.y + mark.height
    if right > picture.width + _SLACK_PX or bottom > picture.height + _SLACK_PX:
        return f"lies outside its image of {picture.width} x {picture.height}"
    return None


def _of_counts(counts: str | None, picture: Picture) -> str | None:
    if counts is None:
        return None
    if not counts.isascii():
        return "has a mask that is no compressed RLE"
    problem = measure_rles([counts], [picture.height], [picture.width]).problems.get(0)
    return None if problem is None else f"has a mask {problem}"
