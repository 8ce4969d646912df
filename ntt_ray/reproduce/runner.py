"""A benchmark from its original files to measured figures: one normal run per part, shots and seed.

First everything is read, checked and sampled, so that what is missing is said before the first
image is labelled; then it writes the files that a run needs and hands a config to whoever runs it.
It knows neither Ray nor models. The same command goes on where it stopped, as every run does.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ntt_ray import storage
from ntt_ray.config import Config, build_config
from ntt_ray.errors import DataSetError, InputError
from ntt_ray.json_input import read_json
from ntt_ray.references.subset import coco_bytes
from ntt_ray.reproduce.coco_files import find_needed, missing_line
from ntt_ray.reproduce.declaration import DataSet, Part, Protocol
from ntt_ray.reproduce.references import sampled_references
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
OWN = ("images", "image_root", "output", "references", "bank", "ground_truth")
MADE_FROM = "made_from"  # in the info of references whose masks were made here


@dataclass(frozen=True)
class Steps:
    """What the runner asks others to do.

    Attributes:
        run: label, merge, evaluate, report; returns the metrics, class maps if they are wanted.
        masks: make masks of a config's box references; returns a COCO file and a page.
    """

    run: Callable[[Config, bool], Mapping[str, Any]]
    masks: Callable[[Config], tuple[dict[str, Any], str]]


@dataclass(frozen=True)
class Wanted:
    """What of a protocol is measured, and where.

    Attributes:
        data: folder or URI of the data set's original files.
        output: prefix of everything written.
        parts: the parts of the protocol that are measured.
        shots: references per class, one or more numbers.
        seeds: seeds of the sampling; where the shots are published files, only the first
            one counts.
        overrides: settings as ``a.b=value``; they win.
    """

    data: str
    output: str
    parts: tuple[Part, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A run's figures by name; None where it has none; and all of its metrics."""

    part: str
    shots: int
    seed: int
    figures: Mapping[str, float | None]
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A run whose files are written, but for the masks of references that are boxes.

    Attributes:
        part: name of the part.
        shots: references per class.
        seed: seed of the sampling.
        images: how many images are labelled.
        config: settings of the run.
        boxes: the file of sampled boxes that masks are to be made of; None where masks are there.
    """

    part: str
    shots: int
    seed: int
    images: int
    config: Config
    boxes: str | None = None


def check_overrides(protocol: Protocol, overrides: Sequence[str]) -> Config:
    """The settings all runs share; paths in it are placeholders.

    Raises:
        ConfigError: a setting is unknown or of a wrong type.
        InputError: a setting is the protocol's own.
    """
    taken = [o for o in overrides if o.split("=")[0].split(".")[0].strip() in OWN]
    if taken:
        raise InputError(f"--set {taken[0]}: the protocol chooses images, references and output")
    plain = {**protocol.settings, "images": "images", "output": "output", "bank": "bank"}
    return build_config(plain, overrides, title="--set has problems:")


def prepare(protocol: Protocol, wanted: Wanted, *, write: bool = True) -> list[Planned]:
    """Read, check and sample everything that is wanted; write what the runs need.

    Args:
        protocol: the benchmark.
        wanted: what of it.
        write: False looks only.

    Raises:
        DataSetError: files of the data set are missing, all of them named.
        InputError: files of the data set are damaged.
        ReferencesError: a class has too few references.
    """
    store = Storage(check_overrides(protocol, wanted.overrides).storage_options)
    _check_files(protocol, wanted, store)
    planned = []
    data, read_by = None, None
    for part in wanted.parts:
        for shots in wanted.shots:
            if data is None or data.given or read_by is not part.read:
                data, read_by = part.read(wanted.data, store, shots), part.read
                _check_images(protocol, part, data, store)
            for seed in wanted.seeds[:1] if data.given else wanted.seeds:
                item, files = _planned(protocol, wanted, part, data, shots, seed)
                planned.append(item)
                for uri, content in files.items() if write else ():
                    _publish(uri, content, store)
    return planned


def measure(protocol: Protocol, planned: Sequence[Planned], steps: Steps) -> Iterator[Measured]:
    """Run what is planned, one after the other."""
    for item in planned:
        logger.info("%s, %s: %d shots, seed %d", protocol.title, item.part, item.shots, item.seed)
        if item.boxes is not None:
            _make_masks(item.config, item.boxes, steps)
        metrics = steps.run(item.config, protocol.class_maps)
        figures = {figure.name: figure.of(metrics) for figure in protocol.figures}
        yield Measured(item.part, item.shots, item.seed, figures, metrics)


def _check_files(protocol: Protocol, wanted: Wanted, store: Storage) -> None:
    needed = [n for part in wanted.parts for shots in wanted.shots for n in part.needed(shots)]
    missing = [n for n in dict.fromkeys(needed) if find_needed(wanted.data, n, store) is None]
    if missing:
        own_files = len({part.needed(wanted.shots[0]) for part in wanted.parts}) > 1
        fewer = "; --part chooses what is there" if own_files else ""
        raise DataSetError(
            f"--data lacks files for {protocol.name} (docs/protocols.md shows the layout{fewer}):",
            [missing_line(wanted.data, n) for n in missing],
        )


def _check_images(protocol: Protocol, part: Part, data: DataSet, store: Storage) -> None:
    """Look for the first and the last image of each file: unpacking may not have happened or ended.

    Others that are missing are failed rows of the run, which then is incomplete.
    """
    missing = []
    for coco, root in ((data.training, data.training_root), (data.test, data.test_root)):
        names = sorted(str(image.get("file_name")) for image in coco["images"])
        uris = [storage.below(root, name) for name in dict.fromkeys([*names[:1], *names[-1:]])]
        missing += [storage.redact(uri) for uri in uris if not store.exists(uri)]
    if missing:
        raise DataSetError(
            f"--data lacks images for {protocol.name}, {part.name} (docs/protocols.md shows the "
            "layout):",
            [f"{uri}: no such file; get it from {protocol.images_from}" for uri in missing],
        )


def _planned(
    protocol: Protocol, wanted: Wanted, part: Part, data: DataSet, shots: int, seed: int
) -> tuple[Planned, dict[str, bytes]]:
    """One run, and the files it needs: the images to label, and the references."""
    classes = part.classes(data)
    place = storage.join(wanted.output, part.name.replace(" ", "-"))
    run = storage.join(place, f"{shots}-shot" if data.given else f"{shots}-shot-seed-{seed}")
    test, references = storage.join(place, "test.json"), storage.join(run, "references.json")
    boxes = storage.join(run, "boxes.json") if protocol.references == "boxes" else None
    sampled = sampled_references(data, classes, shots, seed, fill_short=protocol.fill_short)
    files = {test: coco_bytes(data.test), boxes or references: coco_bytes(sampled)}
    config = build_config(
        {
            "decode": {"orientation": "stored"},  # as the paper's code reads images
            **protocol.settings,
            "images": test,
            "image_root": data.test_root,
            "output": storage.join(run, "run"),
            "references": {
                "annotations": references,
                "image_root": data.training_root,
                "orientation": "stored",
            },
            "ground_truth": test,
        },
        wanted.overrides,
    )
    return Planned(part.name, shots, seed, len(data.test["images"]), config, boxes), files


def _make_masks(config: Config, boxes: str, steps: Steps) -> None:
    """Masks of the sampled boxes, unless those of the same boxes by the same model are there."""
    assert config.references is not None
    store, references = Storage(config.storage_options), config.references.annotations
    made_from = _made_from(config, store.read_bytes(boxes))
    there = read_json(references, store).get("info", {}) if store.exists(references) else {}
    if there.get(MADE_FROM) == made_from:
        return
    block = config.references.model_copy(update={"annotations": boxes})
    coco, page = steps.masks(config.model_copy(update={"references": block}))
    coco = {**coco, "info": {**coco["info"], MADE_FROM: made_from}}
    store.publish_bytes(references.removesuffix(".json") + ".html", page.encode("utf-8"))
    store.publish_bytes(references, coco_bytes(coco))


def _made_from(config: Config, sampled: bytes) -> str:
    """A digest of what masks depend on: the boxes, the model and what is taken of its answers."""
    settings = config.resolved()
    chosen = [settings["models"]["proposer"], settings["method"]["min_predicted_iou"]]
    return hashlib.sha256(sampled + json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def _publish(uri: str, data: bytes, store: Storage) -> None:
    if not store.exists(uri) or store.read_bytes(uri) != data:
        store.publish_bytes(uri, data)
