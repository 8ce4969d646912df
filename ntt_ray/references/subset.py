"""A COCO file with just some references of another one: ids stay, the rest is left out.

The same input gives the same bytes: no clock, no path, file order kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ntt_ray.coco_input import CocoFile
from ntt_ray.errors import ReferencesError
from ntt_ray.references.sample import Profile
from ntt_ray.references.validate import TITLE, Choice, choose_annotations
from ntt_ray.yaml_input import is_unicode


def sampled_coco(
    coco: CocoFile, *, classes: Sequence[str] | None, shots: int, seed: int, profile: Profile
) -> dict[str, Any]:
    """Sample references and keep just them.

    Args:
        coco: the COCO file; its digest goes into ``info``.
        classes: names of the wanted classes; None takes all.
        shots: how many references a class gets.
        seed: seed of the sampling.
        profile: rules of the sampling, see `references.sample`.

    Raises:
        ReferencesError: with every problem found; a class with too few references is one.
    """
    choice = choose_annotations(coco, classes=classes, shots=shots, seed=seed, profile=profile)
    info = {
        "description": f"{shots} references per class, drawn by ntt-ray references sample",
        "sampled": {
            "source_sha256": coco.digest,
            "classes": None if classes is None else sorted(classes),
            "shots": shots,
            "seed": seed,
            "profile": profile,
        },
    }
    return subset_coco(coco, choice, choice.annotations, info)


def subset_coco(
    coco: Any, choice: Choice, annotations: Sequence[Mapping[str, Any]], info: Mapping[str, Any]
) -> dict[str, Any]:
    """A COCO file of the chosen annotations, in the order of the file they come from.

    Args:
        coco: the COCO file they come from, opened or parsed; gives licences and categories.
        choice: which of its classes, images and annotations were chosen.
        annotations: the chosen annotations, as they are or changed.
        info: says how they were chosen or made.

    Raises:
        ReferencesError: nothing was chosen.
    """
    if not annotations:
        raise ReferencesError(TITLE, ["no annotation was chosen"])
    file = CocoFile.of(coco)
    licenses = file.get("licenses")
    used = {annotation["image_id"] for annotation in annotations}
    wanted = {label.category_id for label in choice.classes}
    return {
        "info": dict(info),
        "licenses": [] if licenses is None else licenses,
        "images": [image for i, image in choice.images.items() if i in used],
        "annotations": list(annotations),
        "categories": [c for c in file.get("categories") if c["id"] in wanted],
    }


def coco_bytes(coco: Mapping[str, Any]) -> bytes:
    """The file's bytes: one item per line, so that two of them can be compared."""
    blocks = []
    for key, value in coco.items():
        if isinstance(value, list) and value:
            blocks.append(_text(key) + ": [\n" + ",\n".join(map(_text, value)) + "\n]")
        else:
            blocks.append(f"{_text(key)}: {_text(value)}")
    return ("{\n" + ",\n".join(blocks) + "\n}\n").encode("utf-8")


def _text(value: Any) -> str:
    """JSON; half a character (a lone surrogate), which UTF-8 does not have, stays an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text if is_unicode(text) else json.dumps(value)
