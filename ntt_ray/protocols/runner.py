"""A benchmark from its original files to measured figures: one normal run per part, shots and seed.

It writes the files that a run needs and hands a config to whoever runs it; it knows neither Ray nor
models. The same command goes on where it stopped, as every run does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntt_ray import storage
from ntt_ray.config import Config, build_config
from ntt_ray.errors import InputError
from ntt_ray.protocols.declaration import Part, PartData, Protocol
from ntt_ray.protocols.drawing import drawn_references
from ntt_ray.references.dataset import read_json
from ntt_ray.references.selection import coco_bytes
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
OWN = ("images", "image_root", "output", "references", "bank", "ground_truth")


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
        parts: of the protocol.
        shots: references per class, one or more numbers.
        seeds: of the draw; where the shots are published files, only the first one counts.
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
    """The figures of one run, by name; None where the data have none."""

    part: str
    shots: int
    seed: int
    figures: Mapping[str, float | None]


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


def measure(protocol: Protocol, wanted: Wanted, steps: Steps) -> Iterator[Measured]:
    """Run everything that is wanted, part by part.

    Raises:
        InputError: files of the data set are missing or damaged.
        ReferencesError: a class has too few references.
    """
    store = Storage(check_overrides(protocol, wanted.overrides).storage_options)
    for part in wanted.parts:
        data: PartData | None = None
        for shots in wanted.shots:
            if data is None or data.given:
                data = part.read(wanted.data, store, shots)
            seeds = wanted.seeds[:1] if data.given else wanted.seeds
            for seed in seeds:
                logger.info("%s, %s: %d shots, seed %d", protocol.title, part.name, shots, seed)
                config = _prepared(protocol, wanted, part, data, shots, seed, steps, store)
                metrics = steps.run(config, protocol.class_maps)
                figures = {figure.name: figure.of(metrics) for figure in protocol.figures}
                yield Measured(part.name, shots, seed, figures)


def _prepared(
    protocol: Protocol,
    wanted: Wanted,
    part: Part,
    data: PartData,
    shots: int,
    seed: int,
    steps: Steps,
    store: Storage,
) -> Config:
    """Write the images to label and the references of one run; returns its config."""
    place = storage.join(wanted.output, part.name.replace(" ", "-"))
    run = storage.join(place, f"{shots}-shot" if data.given else f"{shots}-shot-seed-{seed}")
    test, references = storage.join(place, "test.json"), storage.join(run, "references.json")
    _publish(test, coco_bytes(data.test), store)
    drawn = coco_bytes(drawn_references(data, shots, seed, fill_short=protocol.fill_short))
    if protocol.boxes_only:
        boxes = storage.join(run, "boxes.json")
        config = _config(protocol, wanted, data, test, boxes, run)
        _make_masks(config, references, drawn, steps, store)
    else:
        _publish(references, drawn, store)
    return _config(protocol, wanted, data, test, references, run)


def _config(
    protocol: Protocol, wanted: Wanted, data: PartData, test: str, references: str, run: str
) -> Config:
    plain = {
        **protocol.settings,
        "images": test,
        "image_root": data.test_root,
        "output": storage.join(run, "run"),
        "references": {"annotations": references, "image_root": data.training_root},
        "ground_truth": test,
    }
    return build_config(plain, wanted.overrides)


def _make_masks(
    config: Config, references: str, drawn: bytes, steps: Steps, store: Storage
) -> None:
    """Masks of the drawn boxes, unless those of the same boxes by the same model are there."""
    assert config.references is not None
    boxes, model = config.references.annotations, config.models.proposer.name
    same_boxes = store.exists(boxes) and store.read_bytes(boxes) == drawn
    if same_boxes and store.exists(references):
        made_by = read_json(references, store).get("info", {}).get("proposer")
        if made_by == model:
            return
    store.publish_bytes(boxes, drawn)
    coco, page = steps.masks(config)
    store.publish_bytes(references.removesuffix(".json") + ".html", page.encode("utf-8"))
    store.publish_bytes(references, coco_bytes(coco))


def _publish(uri: str, data: bytes, store: Storage) -> None:
    if not store.exists(uri) or store.read_bytes(uri) != data:
        store.publish_bytes(uri, data)
