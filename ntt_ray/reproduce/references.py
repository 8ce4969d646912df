"""Which annotations of a benchmark become references: the paper's sample, or published shots.

Classes with fewer valid annotations than shots are an error, but for LVIS: there the valid ones are
taken again, in order, and a class without any takes those that the paper's rules leave out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import count, cycle, islice
from typing import Any

from ntt_ray.coco_input import Annotation, CocoFile
from ntt_ray.references.dataset import MIN_MASK_AREA_PX
from ntt_ray.references.sample import sample_annotations
from ntt_ray.references.subset import subset_coco
from ntt_ray.references.validate import Choice, choose_annotations
from ntt_ray.reproduce.declaration import DataSet

logger = logging.getLogger(__name__)


def sampled_references(
    data: DataSet, classes: Sequence[str], shots: int, seed: int, *, fill_short: bool = False
) -> dict[str, Any]:
    """A COCO file with just the references of a part.

    Args:
        data: the files that the part reads.
        classes: names of the part's classes.
        shots: how many references a class gets.
        seed: seed of the sampling.
        fill_short: whether classes with too few annotations are filled, as the module says.

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
    items = CocoFile.of(data.training).items("annotations", Annotation)
    assert items is not None  # there is a choice of them
    own = {n: a for n, a in items.sound() if a.category_id in set(ids)}
    sizes = {i["id"]: (i.get("height"), i.get("width")) for i in data.training["images"]}
    large = {a.id for n, a in own.items() if items.raw(n).get("area", 0) >= MIN_MASK_AREA_PX}
    chosen, short = sample_annotations([*own.values()], sizes, ids, shots, seed, large)
    without = {i for i in ids if not chosen.get(i)}
    if short:
        logger.warning(
            "%d classes have fewer than %d valid references and take them again, or what the rules "
            "leave out; %d have none that can define them, and are left out",
            len(short),
            shots,
            len(without),
        )
    classes = tuple(label for label in choice.classes if label.category_id not in without)
    everything = [items.raw(n) for n in own]
    images = {image["id"]: image for image in data.training["images"]}
    kept = Choice(classes, images, choice.annotations)
    annotations = _repeated(everything, [chosen[i] for i in ids if i not in without], shots)
    return subset_coco(data.training, kept, annotations, info)


def _repeated(
    annotations: Sequence[Mapping[str, Any]], chosen: Sequence[Sequence[int]], shots: int
) -> list[Mapping[str, Any]]:
    """The chosen annotations, those of short classes again with ids of their own."""
    by_id = {annotation["id"]: annotation for annotation in annotations}
    new_ids = count(max(by_id, default=0) + 1)
    found: list[Mapping[str, Any]] = []
    for ids in chosen:
        found += [by_id[i] for i in ids[:shots]]
        found += [{**by_id[i], "id": next(new_ids)} for i in islice(cycle(ids), len(ids), shots)]
    return found
