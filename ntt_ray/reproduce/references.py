"""Which annotations of a benchmark become references: the paper's draw, or the shots it publishes.

Classes with fewer valid annotations than shots are an error, but for LVIS: there the valid ones are
taken again, in order, and a class without any takes those that the paper's rules leave out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

from ntt_ray.references.dataset import MIN_MASK_AREA_PX
from ntt_ray.references.sample import sample_annotations, sample_plainly
from ntt_ray.references.subset import subset_coco
from ntt_ray.references.validate import Choice, choose_annotations
from ntt_ray.reproduce.declaration import DataSet

logger = logging.getLogger(__name__)


def drawn_references(
    data: DataSet, classes: Sequence[str], shots: int, seed: int, *, fill_short: bool = False
) -> dict[str, Any]:
    """A COCO file with just the references of a part.

    Args:
        data: what the part reads.
        classes: names of the part's classes.
        shots: references per class.
        seed: of the draw.
        fill_short: see the module.

    Raises:
        ReferencesError: with every problem found.
    """
    info = {"description": f"{shots} references per class", "shots": shots, "seed": seed}
    if data.given:
        choice = choose_annotations(data.training, classes=classes)
        info = {"description": f"{shots} references per class, as published", "shots": shots}
        return subset_coco(data.training, choice, choice.annotations, info)
    if fill_short:
        return _filled(data, classes, shots, seed, info)
    choice = choose_annotations(data.training, classes=classes, shots=shots, seed=seed)
    return subset_coco(data.training, choice, choice.annotations, info)


def _filled(
    data: DataSet, names: Sequence[str], shots: int, seed: int, info: Mapping[str, Any]
) -> dict[str, Any]:
    choice = choose_annotations(data.training, classes=names)  # every sound annotation
    ids = [label.category_id for label in choice.classes]
    everything = [a for a in data.training["annotations"] if a["category_id"] in set(ids)]
    sizes = {i: (image["height"], image["width"]) for i, image in choice.images.items()}
    chosen, short = sample_annotations(everything, sizes, ids, shots, seed)
    none = [i for i in short if not chosen.get(i)]
    large = [a for a in everything if a.get("area", 0) >= MIN_MASK_AREA_PX]
    chosen |= sample_plainly(large, none, shots, seed)[0]
    without = {i for i in ids if not chosen[i]}
    if short:
        logger.warning(
            "%d classes have fewer than %d valid references: %d of them take what the rules leave "
            "out, %d are left out",
            len(short),
            shots,
            len(none) - len(without),
            len(without),
        )
    classes = tuple(label for label in choice.classes if label.category_id not in without)
    kept = Choice(classes, choice.images, choice.annotations)
    annotations = _repeated(everything, [chosen[i] for i in ids if i not in without], shots)
    return subset_coco(data.training, kept, annotations, info)


def _repeated(
    annotations: Sequence[Mapping[str, Any]], chosen: Sequence[Sequence[int]], shots: int
) -> list[Mapping[str, Any]]:
    """The chosen annotations, those of short classes again with ids of their own."""
    by_id = {annotation["id"]: annotation for annotation in annotations}
    last = max(by_id, default=0)
    found: list[Mapping[str, Any]] = []
    for ids in chosen:
        for number, identity in enumerate(islice(cycle(ids), shots)):
            if number >= len(ids):
                last += 1
                found.append({**by_id[identity], "id": last})
            else:
                found.append(by_id[identity])
    return found
