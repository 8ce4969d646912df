"""Labels the reference images, each with a bank that its own references are left out of.

The images are divided among tasks with the resources of a labelling actor. What the labels say of
score thresholds is `quality.calibrate`'s matter.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.images import decode_image
from ntt_ray.labeler import Labeler
from ntt_ray.matching.memory import MemoryBank, bank_digest
from ntt_ray.pipeline.bank import task_result
from ntt_ray.pipeline.models import ModelSpec
from ntt_ray.pipeline.placement import Resources
from ntt_ray.pipeline.run import ReferenceRun, prepare_references
from ntt_ray.quality.calibrate import (
    FILE,
    ClassCalibration,
    ImageOutcomes,
    calibrate,
    calibration_to_json,
    judge,
)
from ntt_ray.quality.truth import GroundTruth
from ntt_ray.records import ImageEntry, ImageLabels, MatchSettings, ReferenceSet
from ntt_ray.references.dataset import read_json
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
IMAGES_PER_TASK = 16  # a task loads both models first


def calibrate_run(
    config: Config,
    *,
    wanted_precision: float | None = None,
    complete: bool = False,
    on_images: Callable[[int, int], None] | None = None,
) -> list[ClassCalibration]:
    """Choose score thresholds from the references and write ``calibration.json``.

    Args:
        config: the run; needs references.
        wanted_precision: share of the detections that must be right, instead of the best F1.
        complete: whether every object of the run's classes is annotated in the reference images.
        on_images: called with the reference images done so far, and all of them.

    Raises:
        InputError: the config names a ready bank: there is no reference image to label.
    """
    if config.references is None:
        raise InputError(
            "calibrate: the config names a ready bank; references are needed, with their images"
        )
    store = Storage(config.storage_options)
    run = prepare_references(config, store)
    classes = run.inputs.classes()
    truth = GroundTruth(read_json(config.references.annotations, store), classes)
    seen: list[ImageOutcomes] = []
    entries = _images(run.inputs.references)
    for labels in _labelled(config, run, entries, store):
        matches = truth.match(labels)
        if matches is None:
            raise InputError(
                f"references: image {labels.entry.file_name} has another size than the file says"
            )
        seen.append(judge(labels.detections, matches, complete=complete))
        if on_images is not None:
            on_images(len(seen), len(entries))
    found = calibrate(seen, classes, wanted_precision=wanted_precision)
    content = calibration_to_json(
        found, wanted_precision=wanted_precision, bank=bank_digest(run.bank)
    )
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    store.publish_bytes(storage.join(config.output, FILE), text.encode())
    return found


def bank_without(bank: MemoryBank, references: ReferenceSet, image: ImageEntry) -> MemoryBank:
    """The bank less an image's references; a class without any other reference is left out.

    Args:
        bank: holds the references last in each class; what it was extended from comes before.
        references: under the bank's category ids.
        image: one that they lie in.
    """
    classes, means, negatives = [], [], []
    for label, pairs, against in zip(
        bank.classes, bank.means(), bank.negative_means(), strict=True
    ):
        own = references.of_class(label.category_id)
        before = len(pairs) - len(own)
        others = [pair for pair, r in zip(pairs[before:], own, strict=True) if r.image != image]
        if kept := pairs[:before] + others:
            classes.append(label)
            means.append(kept)
            negatives.append(against)
    if not classes:
        raise InputError(
            "calibrate: all references lie in one image; without it there is nothing to compare"
        )
    return MemoryBank.from_means(
        classes,
        means,
        encoder=bank.encoder,
        reference_digest=bank.reference_digest,
        negatives=negatives,
    )


@dataclass(frozen=True)
class _Task:
    """What a task needs to label reference images. Plain values and records only."""

    models: ModelSpec
    settings: MatchSettings
    points_per_side: int
    bank: bytes
    references: ReferenceSet
    store: Storage

    def label(self, entries: Sequence[ImageEntry]) -> list[ImageLabels]:
        """Label images one by one, each with the bank of all others."""
        import torch

        if self.models.device == "cpu":
            torch.set_num_threads(1)
        bank = MemoryBank.from_bytes(self.bank, "the bank")
        encoder = self.models.load_encoder()
        proposer = self.models.load_proposer(self.points_per_side)
        rows = []
        for entry in entries:
            image_rgb = decode_image(self.store.read_bytes(entry.uri))
            others = bank_without(bank, self.references, entry)
            (found,) = Labeler(encoder, proposer, others, self.settings).label([image_rgb])
            height, width = image_rgb.shape[:2]
            rows.append(ImageLabels.labelled(entry, (height, width), found))
        return rows


def _labelled(
    config: Config, run: ReferenceRun, entries: Sequence[ImageEntry], store: Storage
) -> Iterator[ImageLabels]:
    """Labels of the reference images in any order."""
    method = config.method
    task = _Task(
        run.models.uncompiled(),
        MatchSettings(method.min_predicted_iou, method.nms_iou, method.max_detections),
        method.points_per_side,
        run.bank,
        run.inputs.in_bank(),
        store,
    )
    waiting = _started(task, entries, run.resources)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        yield from task_result(done[0])


def _started(task: _Task, entries: Sequence[ImageEntry], resources: Resources) -> list[Any]:
    shared = ray.put(task)

    def work(task: _Task, own: list[ImageEntry]) -> list[ImageLabels]:
        return task.label(own)

    remote = ray.remote(work).options(**resources.actor_options())
    size = max(1, min(IMAGES_PER_TASK, -(-len(entries) // resources.actors)))
    parts = [list(entries[start : start + size]) for start in range(0, len(entries), size)]
    return [remote.remote(shared, part) for part in parts]


def _images(references: ReferenceSet) -> list[ImageEntry]:
    return sorted({r.image for r in references.references}, key=lambda entry: entry.image_id)
