"""What the options of `method` do to the quality and the speed of labels, on drawn scenes.

    python -m benchmarks.quality --json quality.json            # five seeds; about an hour
    python -m benchmarks.quality --json quality.json --seeds 7  # one; seeds in the file are kept
    python -m benchmarks.quality --kinds demo --variants clean  # against the paper's path, alone

Four kinds of scenes, all of families that the demo weights were not trained on, 5 references each:

* demo: the images of `ntt-ray demo`, with all 8 classes;
* looks: the same images, where each class is two of the families, as if it had two looks;
* strangers: the same images, where half of the families are no class; references lie among objects
  of other families, and every object of the class is annotated in their images;
* large: images three times as wide and high as those of the demo, with objects that have as many
  pixels as the demo's smaller ones, so that the models see them at a third of their size.

Of each seed every option is compared with the paper's path on the same images, in the same process
and in turn, image by image; where an option changes nothing but the matching, the models see the
image once for all of them (once more for those that take all outputs, and for those whose masks are
asked again), and their seconds count for each.
Prints for each kind of scenes means and standard deviations over the seeds, and the same of the
differences from the paper's path.

False alarms are counted at the score with the best F1 over all classes: the share of the images
without a class in which it is found (the mean of the classes), and of those without any object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import machine, write_json
from benchmarks.quality_scenes import (
    Form,
    Means,
    Scenes,
    busy_examples,
    class_labels,
    demo_examples,
    demo_scenes,
    large_scenes,
    means_of,
)
from ntt_ray.demo.families import NOVEL_FAMILIES
from ntt_ray.evaluate.evaluation import evaluate
from ntt_ray.images import RgbImage, resize_square
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.tiling import TiledLabeler, make_labeler
from ntt_ray.models.aspect import AspectEncoder
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.inputs import to_input
from ntt_ray.models.interfaces import Proposals, encoded
from ntt_ray.models.published import BUNDLED, bundled_file
from ntt_ray.models.sam2.decoder.refiner import Refiner
from ntt_ray.models.sam2.proposer import Sam2Proposer
from ntt_ray.records import ClassLabel, Detection, PromptWork
from ntt_ray.settings import (
    AveragingSettings,
    ComponentSettings,
    CorrespondenceSettings,
    DiffusionSettings,
    MethodSettings,
    PromptSettings,
    PrototypeSettings,
    RefinementSettings,
    TileSettings,
)

SEEDS = (7, 21, 31, 41, 51)
MIN_SMALL_OBJECTS = 10  # of each seed: with fewer their AP says nothing
# what decides the figures of a seed
CHOSEN = ("images", "large_images", "kinds", "variants")


class Asked(NamedTuple):
    """What SAM2 is asked of an image: variants alike in it share a proposer and proposals."""

    all_outputs: bool
    refinement: RefinementSettings | None


@dataclass(frozen=True)
class Variant:
    """A way to label.

    Attributes:
        settings: the settings of the method.
        background: the backgrounds of the references that count as negatives, if any do.
        debias: `models.encoder.positional_debias`.
        keep_aspect: `models.encoder.keep_aspect`.
    """

    settings: MethodSettings = field(default_factory=MethodSettings)
    background: Form | None = None
    debias: int | None = None
    keep_aspect: bool = False

    @property
    def encoder(self) -> tuple[int | None, bool]:
        """What tells the encoder that it needs from others."""
        return self.debias, self.keep_aspect

    @property
    def matching_only(self) -> bool:
        """Whether SAM2 is asked about whole images, as in the paper's path."""
        return self.settings.prompts is None and self.settings.tiles is None

    @property
    def asked(self) -> Asked:
        """What SAM2 is asked, beside chosen points and tiles."""
        return Asked(self.settings.all_outputs, self.settings.refinement)


PLAIN = "the paper's"
PROMPTS = PromptSettings()
PARTS = {
    "largest component": Variant(MethodSettings(largest_component=ComponentSettings())),
    "components from half": Variant(
        MethodSettings(largest_component=ComponentSettings(min_share=0.5))
    ),
    "IoU to 0.25": Variant(MethodSettings(iou_power=0.25)),
    "IoU to 0.5": Variant(MethodSettings(iou_power=0.5)),
    "largest component, IoU to 0.25": Variant(
        MethodSettings(largest_component=ComponentSettings(), iou_power=0.25)
    ),
}
POWER = {"iou_power": 0.25}
AGAIN = {"refinement": RefinementSettings()}
MASKS = {
    "NMS at 0.7": Variant(MethodSettings(nms_iou=0.7)),
    "no NMS": Variant(MethodSettings(nms_iou=None)),
    "averaging": Variant(MethodSettings(averaging=AveragingSettings())),
    "all outputs": Variant(MethodSettings(all_outputs=True)),
    "asked again at the centre": Variant(MethodSettings(**AGAIN)),
    "clean": Variant(MethodSettings(preset="clean")),
    "clean, asked again at the centre": Variant(MethodSettings(preset="clean", **AGAIN)),
    "clean, no NMS": Variant(MethodSettings(preset="clean", nms_iou=None)),
    "clean, all outputs": Variant(MethodSettings(preset="clean", all_outputs=True)),
    "clean, averaging": Variant(MethodSettings(preset="clean", averaging=AveragingSettings())),
    "clean, IoU to 0.25": Variant(MethodSettings(preset="clean", **POWER)),
    "clean, no NMS, IoU to 0.25": Variant(MethodSettings(preset="clean", nms_iou=None, **POWER)),
    "clean, all outputs, averaging": Variant(
        MethodSettings(preset="clean", all_outputs=True, averaging=AveragingSettings())
    ),
    "clean, all outputs, averaging, IoU to 0.25": Variant(
        MethodSettings(preset="clean", all_outputs=True, averaging=AveragingSettings(), **POWER)
    ),
}
MATCHING = {
    PLAIN: Variant(),
    "diffusion": Variant(MethodSettings(diffusion=DiffusionSettings())),
    "prototypes, best of 3": Variant(MethodSettings(prototypes=PrototypeSettings())),
    "prototypes, soft-max of 3": Variant(
        MethodSettings(prototypes=PrototypeSettings(temperature=0.1))
    ),
    "forward-backward": Variant(MethodSettings(correspondence=CorrespondenceSettings())),
    "forward-backward to 0.25": Variant(
        MethodSettings(correspondence=CorrespondenceSettings(power=0.25))
    ),
    **PARTS,
    **MASKS,
}
# of the 192 channels of the demo's encoder
ENCODERS = {
    **{f"without {k} of places": Variant(debias=k) for k in (1, 5, 20)},
    "forward-backward, without 5 of places": Variant(
        MethodSettings(correspondence=CorrespondenceSettings()), debias=5
    ),
    "in proportion": Variant(keep_aspect=True),
}
BACKGROUNDS = {
    "background of the crops": Variant(background="crops"),
    "background of the images": Variant(background="images"),
}
ASKED_LESS = {
    "prompts from 0.3": Variant(MethodSettings(prompts=PROMPTS)),
    "prompts from 0.5": Variant(MethodSettings(prompts=PromptSettings(min_similarity=0.5))),
}
VARIANTS: Mapping[str, Mapping[str, Variant]] = {
    "demo": {
        **MATCHING,
        **ENCODERS,
        **BACKGROUNDS,
        **ASKED_LESS,
        "tiles": Variant(MethodSettings(tiles=TileSettings())),
    },
    "looks": {**MATCHING, **ENCODERS},
    "strangers": {**MATCHING, **ENCODERS, **BACKGROUNDS, **ASKED_LESS},
    "large": {
        PLAIN: Variant(),
        **PARTS,
        **MASKS,
        **ENCODERS,
        "prompts from 0.3": ASKED_LESS["prompts from 0.3"],
        "tiles": Variant(MethodSettings(tiles=TileSettings())),
        "tiles, prompts from 0.3": Variant(MethodSettings(tiles=TileSettings(), prompts=PROMPTS)),
        "tiles of 480, prompts from 0.3": Variant(
            MethodSettings(tiles=TileSettings(side=480), prompts=PROMPTS)
        ),
    },
}
COLUMNS = {
    "mask AP": "mask_ap",
    "AP50": "mask_ap50",
    "AP small": "mask_ap_small",
    "box AP": "box_ap",
    "best F1": "best_f1",
    "false alarms": "false_alarms",
    "in empty images": "alarmed_images",
    "speed": "speed",
    "points asked": "points_asked",
    "views skipped": "views_skipped",
    "masks asked again": "asked_again",
    "masks replaced": "replaced",
}
COMPARED = ("mask AP", "AP50", "AP small", "box AP", "best F1", "false alarms", "in empty images")
Figures = dict[str, float | None]
Found = dict[str, Any]  # of a kind of scenes: its sizes, and the figures of each variant


class Measured:
    """Results, seconds and saved work of one variant."""

    def __init__(self, name: str, variant: Variant, labeler: Labeler | TiledLabeler) -> None:
        self.name, self.variant, self.labeler = name, variant, labeler
        self.results: list[dict[str, Any]] = []
        self.seconds = 0.0

    def add(self, image_id: int, detections: Sequence[Detection], seconds: float) -> None:
        """What was found in an image."""
        self.seconds += seconds
        self.results += [
            {
                "image_id": image_id,
                "category_id": d.category_id,
                "score": d.score,
                "bbox": list(d.bbox_xywh),
                "segmentation": d.rle,
            }
            for d in detections
        ]

    def figures(
        self, scenes: Scenes, classes: Sequence[ClassLabel], plain_seconds: float
    ) -> Figures:
        """All of `COLUMNS`."""
        names = {image["id"]: image["file_name"] for image in scenes.truth["images"]}
        metrics = evaluate(scenes.truth, self.results, names, classes)
        work: PromptWork = self.labeler.take_work()
        refiner = refiner_of(self.labeler)
        alarms = metrics["false_alarms"]
        return {
            "mask_ap": metrics["segm"]["AP"],
            "mask_ap50": metrics["segm"]["AP50"],
            "mask_ap_small": metrics["segm"]["APs"],
            "box_ap": metrics["bbox"]["AP"],
            "best_f1": alarms["best_f1"],
            "false_alarms": alarms["class_share"],
            "alarmed_images": alarms["share"],
            "speed": plain_seconds / self.seconds,
            "points_asked": work.points_asked / work.points if work.points else None,
            "views_skipped": work.views_skipped / work.views if work.views else None,
            "asked_again": refiner.asked / refiner.masks if refiner and refiner.masks else None,
            "replaced": refiner.taken / refiner.masks if refiner and refiner.masks else None,
        }


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.variants or ()).difference(*VARIANTS.values()):
        parser.error(f"no such variant: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)  # as in a run on CPUs
    sizes = {name: getattr(arguments, name) for name in CHOSEN}
    kept: dict[str, Any] = sizes | {"seeds": {}}
    if arguments.json and arguments.json.exists():
        kept = json.loads(arguments.json.read_text())
        if sizes != {key: kept.get(key) for key in sizes}:
            raise SystemExit(f"{arguments.json}: holds seeds of other choices")
    found = kept["seeds"]
    for seed in arguments.seeds:
        if str(seed) not in found:
            found[str(seed)] = measure(seed, **sizes)
            if arguments.json:
                about = {"benchmark": "quality", "machine": machine(torch.device("cpu"))}
                write_json(arguments.json, about | sizes | {"seeds": found})
    print("\n".join(tables([found[str(seed)] for seed in arguments.seeds])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--large-images", type=int, default=8)
    parser.add_argument("--kinds", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--variants", nargs="+", default=None, help="beside the paper's; or all")
    parser.add_argument("--json", type=Path, default=None)
    return parser


@torch.inference_mode()
def measure(
    seed: int,
    images: int,
    large_images: int,
    kinds: Sequence[str] = tuple(VARIANTS),
    variants: Sequence[str] | None = None,
) -> dict[str, Found]:
    """Figures of every variant, or of some and the paper's path, by kind, for one seed."""
    chosen = {
        kind: {
            name: variant
            for name, variant in VARIANTS[kind].items()
            if variants is None or name in (PLAIN, *variants)
        }
        for kind in kinds
    }
    encoders = {
        (debias, keep_aspect): (AspectEncoder if keep_aspect else Dinov2Encoder).load(
            bundled_file(BUNDLED["dinov2_demo"]),
            name="dinov2_demo",
            image_size=280,
            positional_debias=debias,
        )
        for debias, keep_aspect in {v.encoder for own in chosen.values() for v in own.values()}
    }
    proposers = {
        asked: Sam2Proposer.load(
            bundled_file(BUNDLED["sam2_demo"]),
            name="sam2_demo",
            image_size=320,
            points_per_side=16,
            all_outputs=asked.all_outputs,
            refinement=asked.refinement,
        )
        for asked in {variant.asked for own in chosen.values() for variant in own.values()}
    }
    side = proposers[Variant().asked].image_size
    order = np.random.default_rng([seed, 11]).permutation(len(NOVEL_FAMILIES)).tolist()
    half = len(order) // 2
    every = [[k] for k in range(len(order))]
    looks = [[order[n], order[n + half]] for n in range(half)]
    known = [[k] for k in sorted(order[:half])]
    with tempfile.TemporaryDirectory() as folder:
        examples = list(demo_examples(Path(folder) / "references", seed))
        demo = demo_scenes(Path(folder) / "scenes", seed, images)
    clear = {key: means_of(examples, encoder, side) for key, encoder in encoders.items()}
    examples = list(busy_examples(seed))
    busy = {key: means_of(examples, encoder, side) for key, encoder in encoders.items()}
    large = large_scenes(seed, large_images)

    def compared(
        kind: str,
        means: Mapping[tuple[int | None, bool], Means],
        groups: Sequence[Sequence[int]],
        scenes: Scenes,
    ) -> Found:
        measured = [
            Measured(
                name,
                variant,
                make_labeler(
                    encoders[variant.encoder],
                    proposers[variant.asked],
                    means[variant.encoder].bank(
                        groups,
                        variant.background,
                        patches=variant.settings.correspondence is not None,
                    ),
                    variant.settings,
                ),
            )
            for name, variant in chosen[kind].items()
        ]
        return compare(measured, scenes, class_labels(groups))

    scenes = {
        "demo": (clear, every, demo),
        "looks": (clear, looks, demo.grouped(looks)),
        "strangers": (busy, known, demo.grouped(known)),
        "large": (clear, every, large),
    }
    return {kind: compared(kind, *scenes[kind]) for kind in kinds}


def compare(measured: Sequence[Measured], scenes: Scenes, classes: Sequence[ClassLabel]) -> Found:
    """Label every image in every way, in turn; the paper's path comes first."""
    for own in measured:
        own.labeler.label([scenes.pictures[0][:320, :320]])  # what is computed once is no labelling
        own.labeler.take_work()
    for refiner in (refiner_of(own.labeler) for own in measured):
        if refiner is not None:
            refiner.masks = refiner.asked = refiner.taken = 0
    for image, picture in zip(scenes.truth["images"], scenes.pictures, strict=True):
        seen: dict[tuple[int | None, bool], tuple[Tensor, float]] = {}  # by the encoder
        proposed: dict[Asked, tuple[Proposals, float]] = {}
        for own in measured:
            asked, encoder = own.variant.asked, own.variant.encoder
            if own.variant.matching_only:
                assert isinstance(own.labeler, Labeler)
                if encoder not in seen:
                    seen[encoder] = encode(own.labeler, picture)
                if asked not in proposed:
                    proposed[asked] = propose(own.labeler, picture)
                (features, encoder_s), (proposals, s) = seen[encoder], proposed[asked]
                started = time.perf_counter()
                best = own.labeler.best(features, proposals, picture.shape[:2])
                detections = best.detections(own.labeler.category_ids)
                seconds = encoder_s + s + time.perf_counter() - started
            else:
                started = time.perf_counter()
                (detections,) = own.labeler.label([picture])
                seconds = time.perf_counter() - started
            own.add(image["id"], detections, seconds)
    plain_seconds = measured[0].seconds
    figures = {own.name: own.figures(scenes, classes, plain_seconds) for own in measured}
    return {"sizes": scenes.sizes(), "variants": figures}


def refiner_of(labeler: Labeler | TiledLabeler) -> Refiner | None:
    """What asks about masks again, where the labeller does so."""
    proposer = labeler.proposer
    return proposer.refiner if isinstance(proposer, Sam2Proposer) else None


def encode(labeler: Labeler, picture: RgbImage) -> tuple[Tensor, float]:
    """The features of a picture, ``(h, w, C)``, and the seconds that took, with its resizing."""
    started = time.perf_counter()
    inputs = to_input([resize_square(picture, labeler.proposer.image_size)])
    features = encoded(labeler.encoder, inputs, [picture.shape[:2]])[0]
    return features, time.perf_counter() - started


def propose(labeler: Labeler, picture: RgbImage) -> tuple[Proposals, float]:
    """The proposals in a picture that wait for no features, and the seconds that took."""
    inputs = to_input([resize_square(picture, labeler.proposer.image_size)])
    started = time.perf_counter()
    threshold = labeler.settings.min_predicted_iou
    (proposals,) = labeler.proposer.propose(inputs, threshold, [0])
    return proposals, time.perf_counter() - started


def tables(seeds: Sequence[Mapping[str, Found]]) -> Iterator[str]:
    """Markdown tables of each kind of scenes: figures, and differences from the paper's path."""
    for kind, first in seeds[0].items():
        found = [own[kind] for own in seeds]
        sizes = ", ".join(
            f"{_range([own['sizes'][name] for own in found])} {name.replace('_', ' ')}"
            for name in first["sizes"]
        )
        yield f"\n{kind}: {len(seeds)} seeds, each with {sizes}\n"
        small = min(own["sizes"]["small_objects"] for own in found)
        hidden = () if small >= MIN_SMALL_OBJECTS else ("AP small",)
        columns = {title: key for title, key in COLUMNS.items() if title not in hidden}
        rows = {
            name: [[own["variants"][name].get(key) for own in found] for key in columns.values()]
            for name in first["variants"]
        }
        yield from _table(list(columns), rows, "")
        plain = rows.pop(PLAIN)
        compared = [n for n, title in enumerate(columns) if title in COMPARED]
        differences = {
            name: [_differences(row[n], plain[n]) for n in compared] for name, row in rows.items()
        }
        yield ""
        titles = [list(columns)[n] for n in compared]
        yield from _table(titles, differences, "+", corner="difference")


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def _differences(
    values: Sequence[float | None], plain: Sequence[float | None]
) -> list[float | None]:
    return [None if a is None or b is None else a - b for a, b in zip(values, plain, strict=True)]


def _table(
    titles: Sequence[str],
    rows: Mapping[str, Sequence[Sequence[float | None]]],
    sign: str,
    corner: str = "",
) -> Iterator[str]:
    texts = {name: [_summary(values, sign) for values in row] for name, row in rows.items()}
    shown = [n for n in range(len(titles)) if any(row[n] for row in texts.values())]
    yield f"| {corner} | {' | '.join(titles[n] for n in shown)} |"
    yield "|---" * (len(shown) + 1) + "|"
    for name, row in texts.items():
        yield f"| {name} | {' | '.join(row[n] for n in shown)} |"


def _summary(values: Sequence[float | None], sign: str) -> str:
    """Mean and standard deviation; nothing where there is no figure."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):{sign}.3f}{spread}"


if __name__ == "__main__":
    main()
