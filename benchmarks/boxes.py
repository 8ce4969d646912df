"""What boxes of a detector in the place of the grid do to quality and speed, on drawn scenes.

    python -m benchmarks.boxes --json boxes.json      # three seeds; ten minutes

The scenes and references of `benchmarks.quality` ("demo"), with the demo's weights. A made-up
detector gives 30 boxes for each image: one for each object, its sides moved by chance until it has
an IoU of 0.8 with the object's own box, and distractors, boxes of sizes as objects have, with an
IoU below 0.3 with every object. It knows no class. Every way to ask is measured on the same images,
in the same process and in turn, image by image, with the same options of the method; seconds are
CPU time of the process, on one thread, so that a busy machine counts little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measure import machine, write_json
from benchmarks.quality_scenes import (
    Scenes,
    class_labels,
    demo_examples,
    demo_scenes,
    means_of,
)
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.demo.families import NOVEL_FAMILIES
from ntt_ray.evaluate.evaluation import evaluate
from ntt_ray.method.labeler import Labeler
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.published import BUNDLED, bundled_file
from ntt_ray.models.sam2.proposer import Sam2Proposer
from ntt_ray.records import ImageBoxes
from ntt_ray.settings import BoxSettings, ComponentSettings, MethodSettings

SEEDS = (41, 51, 61)  # the five points were chosen on 7, 21 and 31
PER_IMAGE, OBJECT_IOU, DISTRACTOR_IOU = 30, 0.8, 0.3
CENTRES, POINTS = BoxSettings(prompt="centre"), BoxSettings(prompt="points")
OPTIONS = {
    "the paper's": MethodSettings(),
    "largest component": MethodSettings(largest_component=ComponentSettings()),
}
# how SAM2 is asked: points on each side of the grid, or None, and with boxes, or not
WAYS: Mapping[str, tuple[int | None, BoxSettings | None]] = {
    "grid of 16 x 16": (16, None),
    "grid of 32 x 32": (32, None),
    "boxes by their centres": (None, CENTRES),
    "boxes by five points": (None, POINTS),
    "the same, weighed by scores to 0.25": (None, BoxSettings(prompt="points", score_power=0.25)),
    "grid of 16 x 16, and boxes by their centres": (16, CENTRES),
    "boxes by their corners": (None, BoxSettings(prompt="box")),
}
Figures = dict[str, float]
Boxes = npt.NDArray[np.float64]


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(1)  # as in a run on CPUs
    found: dict[str, Any] = {}
    for seed in arguments.seeds:
        found[str(seed)] = measure(seed, arguments.images)
        if arguments.json:
            about = {"benchmark": "boxes", "machine": machine(torch.device("cpu"))}
            write_json(arguments.json, about | {"images": arguments.images, "seeds": found})
    print("\n".join(tables(list(found.values()))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--json", type=Path, default=None)
    return parser


@torch.inference_mode()
def measure(seed: int, images: int) -> dict[str, Figures]:
    """Figures of every way and option, for one seed."""
    encoder = Dinov2Encoder.load(
        bundled_file(BUNDLED["dinov2_demo"]), name="dinov2_demo", image_size=280
    )
    proposers = {
        side: Sam2Proposer.load(
            bundled_file(BUNDLED["sam2_demo"]),
            name="sam2_demo",
            image_size=320,
            points_per_side=side,
        )
        for side in (16, 32)
    }
    with tempfile.TemporaryDirectory() as folder:
        means = means_of(demo_examples(Path(folder) / "references", seed), encoder, 320)
        scenes = demo_scenes(Path(folder) / "scenes", seed, images)
    bank = means.bank([[k] for k in range(len(NOVEL_FAMILIES))])
    found = detected(scenes, seed)
    labelers = {
        f"{way}; {name}": _labeler(encoder, proposers[side or 16], bank, method, side, boxes)
        for way, (side, boxes) in WAYS.items()
        for name, method in OPTIONS.items()
        if name == "the paper's" or boxes in (None, CENTRES, POINTS)
    }
    return compare(labelers, scenes, found)


def _labeler(
    encoder: Dinov2Encoder,
    proposer: Sam2Proposer,
    bank: MemoryBank,
    method: MethodSettings,
    side: int | None,
    boxes: BoxSettings | None,
) -> Labeler:
    return Labeler(encoder, proposer, bank, method, boxes=boxes, grid=side is not None)


def compare(
    labelers: Mapping[str, Labeler], scenes: Scenes, found: Sequence[ImageBoxes]
) -> dict[str, Figures]:
    """Label every image in every way, in turn."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in labelers}
    seconds = dict.fromkeys(labelers, 0.0)
    for labeler in labelers.values():  # what is computed once is no labelling
        labeler.label(scenes.pictures[:1], found[:1])
    images = scenes.truth["images"]
    for image, picture, boxes in zip(images, scenes.pictures, found, strict=True):
        for name, labeler in labelers.items():
            started = time.process_time()
            (detections,) = labeler.label([picture], [boxes])
            seconds[name] += time.process_time() - started
            results[name] += [
                {
                    "image_id": image["id"],
                    "category_id": d.category_id,
                    "score": d.score,
                    "bbox": list(d.bbox_xywh),
                    "segmentation": d.rle,
                }
                for d in detections
            ]
    names = {image["id"]: image["file_name"] for image in images}
    classes = class_labels([[k] for k in range(len(NOVEL_FAMILIES))])
    figures = {}
    for name in labelers:
        metrics = evaluate(scenes.truth, results[name], names, classes)
        figures[name] = {
            "mask_ap": metrics["segm"]["AP"],
            "mask_ap50": metrics["segm"]["AP50"],
            "box_ap": metrics["bbox"]["AP"],
            "images_per_s": len(images) / seconds[name],
        }
    return figures


def detected(scenes: Scenes, seed: int) -> list[ImageBoxes]:
    """What the made-up detector finds in each image: objects in random order among distractors."""
    random = np.random.default_rng([seed, 17])
    every = []
    for image in scenes.truth["images"]:
        own = [a["bbox"] for a in scenes.truth["annotations"] if a["image_id"] == image["id"]]
        xywh = np.array(own, np.float64).reshape(-1, 4)
        objects = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        size_wh = np.array([image["width"], image["height"]], np.float64)
        moved = [shifted(box, OBJECT_IOU, random) for box in objects]
        while len(moved) < PER_IMAGE:
            box = _anywhere(size_wh, random)
            if not len(objects) or ious(box, objects).max() < DISTRACTOR_IOU:
                moved.append(box)
        scores = np.where(np.arange(len(moved)) < len(objects), 0.5, 0.1)
        scores = scores + 0.5 * random.random(len(moved))
        order = np.argsort(-scores)
        boxes = np.array(moved)[order].astype(np.float32)
        found = ImageBoxes(boxes, scores[order].astype(np.float32))
        every.append(found.on_image((image["height"], image["width"])))
    return every


def shifted(box: Boxes, iou: float, random: np.random.Generator) -> Boxes:
    """A box whose sides are moved in random directions, as far as makes this IoU."""
    sides = np.tile(box[2:] - box[:2], 2)
    way = random.uniform(-1, 1, 4) * sides
    low, high = 0.0, 0.5
    for _ in range(40):
        middle = (low + high) / 2
        near = ious(box + middle * way, box[None])[0] > iou
        low, high = (middle, high) if near else (low, middle)
    return np.asarray(box + low * way)


def _anywhere(size_wh: Boxes, random: np.random.Generator) -> Boxes:
    sides = random.uniform(0.1, 0.5, 2) * size_wh.min()
    corner = random.uniform(0, 1, 2) * (size_wh - sides)
    return np.concatenate([corner, corner + sides])


def ious(box: Boxes, boxes: Boxes) -> Boxes:
    """IoU of a box with boxes ``(N, 4)``, xyxy: ``(N,)``."""
    shared = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    both = shared.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return np.asarray(both / (areas - both))


def tables(seeds: Sequence[Mapping[str, Figures]]) -> Iterator[str]:
    """A Markdown table of means and deviations, and of what is gained over both grids."""
    grids = [way for way, (_, boxes) in WAYS.items() if boxes is None]
    titles = [
        f"{what} of the {way}" for way in grids for what in ("AP above that", "times the speed")
    ]
    yield f"| asked; options | mask AP | AP50 | box AP | images/s | {' | '.join(titles)} |"
    yield "|---" * (5 + len(titles)) + "|"
    for name in seeds[0]:
        rows = [own[name] for own in seeds]
        cells = [_summary([row[key] for row in rows]) for key in ("mask_ap", "mask_ap50", "box_ap")]
        cells.append(_summary([row["images_per_s"] for row in rows], digits=2))
        for way in grids:
            base = [own[f"{way}; {name.partition('; ')[2]}"] for own in seeds]
            pairs = list(zip(rows, base, strict=True))
            cells.append(_summary([a["mask_ap"] - b["mask_ap"] for a, b in pairs], "+"))
            faster = [a["images_per_s"] / b["images_per_s"] for a, b in pairs]
            cells.append(_summary(faster, digits=2))
        yield f"| {name} | {' | '.join(cells)} |"


def _summary(values: Sequence[float], sign: str = "", digits: int = 3) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.{digits}f}{spread}"


if __name__ == "__main__":
    main()
