"""What keeping proposals costs and loses, and how fast they are matched again.

    python -m benchmarks.rematch demo            # five seeds of drawn scenes, demo weights
    python -m benchmarks.rematch published       # proposals of the published models' size, one core
    python -m benchmarks.rematch flow            # does the host keep up with a GPU that sleeps?

`demo` labels the scenes of `benchmarks.quality` without keeping, from all proposals, and from
thinned ones: average precision, what is kept, and CPU time of labelling and of matching, on one
thread. `published` matches 600 synthetic proposals of 1,024 channels with 80 classes. `flow` runs
the real units, threads, thinning, RLE strings and Parquet files beside a device that sleeps.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.flow import IMAGES_PER_STEP, SleepingDecoders, SleepingStore
from benchmarks.measure import machine, write_json
from benchmarks.quality import SEEDS, Measured, Variant
from benchmarks.quality_scenes import class_labels, demo_examples, demo_scenes, means_of
from benchmarks.sleeping_models import SIDE
from benchmarks.synthetic_proposals import (
    synthetic_bank,
    synthetic_features,
    synthetic_proposals,
)
from ntt_ray.demo.families import NOVEL_FAMILIES
from ntt_ray.images import resize_square
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.pooling import mean_patch_feature, pooled_features
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.inputs import to_input
from ntt_ray.models.interfaces import Proposals
from ntt_ray.models.published import BUNDLED, bundled_file
from ntt_ray.models.sam2.proposer import Sam2Proposer
from ntt_ray.proposals import keeping
from ntt_ray.proposals.keeping import Keeper
from ntt_ray.proposals.kept import ImageProposals
from ntt_ray.proposals.matching import Matcher
from ntt_ray.proposals.table import ROWS_AT_ONCE, iter_images, to_table
from ntt_ray.proposals.thinning import first_of_near
from ntt_ray.records import FetchedImage, ImageEntry, View
from ntt_ray.run.proposal_shard import to_bytes
from ntt_ray.run.unit import UnitLabeler
from ntt_ray.settings import MethodSettings

MAX_IOU = 0.95
SIZE_HW = (480, 640)  # of the images that published models label in these figures
CHANNELS, CLASSES, PROPOSALS = 1024, 80, 600
PLAIN, ALL, THINNED = "without keeping", "all kept", "thinned"


@torch.inference_mode()
def demo(seed: int, images: int) -> dict[str, Any]:
    """Quality, bytes and seconds of one seed."""
    encoder = Dinov2Encoder.load(
        bundled_file(BUNDLED["dinov2_demo"]), name="dinov2_demo", image_size=280
    )
    proposer = Sam2Proposer.load(
        bundled_file(BUNDLED["sam2_demo"]), name="sam2_demo", image_size=320, points_per_side=16
    )
    groups, settings = [[k] for k in range(len(NOVEL_FAMILIES))], MethodSettings()
    with tempfile.TemporaryDirectory() as folder:
        means = means_of(demo_examples(Path(folder) / "a", seed), encoder, proposer.image_size)
        scenes = demo_scenes(Path(folder) / "b", seed, images)
    bank = means.bank(groups)
    plain, matcher = Labeler(encoder, proposer, bank, settings), Matcher(bank, settings)
    keepers = {
        ALL: Keeper(encoder, proposer, settings, None),
        THINNED: Keeper(encoder, proposer, settings, MAX_IOU),
    }
    measured = {name: Measured(name, Variant(), plain) for name in (PLAIN, *keepers)}
    rows: dict[str, list[ImageProposals]] = {name: [] for name in keepers}
    keeping_s = dict.fromkeys(keepers, 0.0)
    for image, picture in zip(scenes.truth["images"], scenes.pictures, strict=True):
        size_hw, started = picture.shape[:2], time.process_time()
        inputs = to_input([resize_square(picture, proposer.image_size)])
        features = encoder.encode(inputs)
        (proposals,) = proposer.propose(inputs, settings.min_predicted_iou, [0])
        detections = plain.best(features[0], proposals, size_hw).detections(plain.category_ids)
        measured[PLAIN].add(image["id"], detections, time.process_time() - started)
        pooled = pooled_features(features[0], proposals.logits > 0)
        mean = mean_patch_feature(features[0])
        view = View(0, 0, size_hw[1], size_hw[0])
        for name, keeper in keepers.items():
            started = time.process_time()
            kept = keeper.staying(view, proposals, pooled, mean).encoded()
            keeping_s[name] += time.process_time() - started
            entry = ImageEntry(image["id"], image["file_name"], "")
            rows[name].append(ImageProposals.kept(entry, size_hw, (kept,)))
    found = {name: {"images": len(scenes.pictures)} for name in measured}
    for name, own in rows.items():
        found[name] |= _matched_again(own, matcher, encoder.feature_dim, measured[name])
        found[name]["keeping_ms"] = 1000 * keeping_s[name] / len(own)
    for name, own in measured.items():
        figures = own.figures(scenes, class_labels(groups), measured[PLAIN].seconds)
        chosen = {key: figures[key] for key in ("mask_ap", "box_ap")}
        found[name] |= chosen | {"ms_per_image": 1000 * own.seconds / len(scenes.pictures)}
    return found


def _matched_again(
    rows: Sequence[ImageProposals], matcher: Matcher, channels: int, measured: Measured
) -> dict[str, float]:
    """Write the rows as a shard, read them and match them, as a task of a rematch does."""
    data = to_bytes(to_table(rows, channels), {})
    matcher.labels(rows[0])  # what is computed once is no matching
    started = time.process_time()
    file = pq.ParquetFile(io.BytesIO(data))
    batches = file.iter_batches(ROWS_AT_ONCE, use_threads=False)
    labels = [matcher.labels(image) for batch in batches for image in iter_images(batch)]
    seconds = time.process_time() - started
    for row in labels:
        measured.add(row.entry.image_id, row.detections, seconds / len(labels))
    count = sum(len(view) for row in rows for view in row.views)
    return {
        "proposals_per_image": count / len(rows),
        "bytes_per_image": len(data) / len(rows),
        "bytes_per_proposal": len(data) / count,
    }


class _Synthetic:
    """Stands for both models: features of regions, and ellipses; of each image other ones."""

    image_size, feature_dim, device = SIDE, CHANNELS, torch.device("cpu")

    def __init__(self) -> None:
        self._prototypes = synthetic_bank(CHANNELS, CLASSES).prototypes()

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [synthetic_features(self._prototypes, 37, seed=n) for n in range(len(images))]
        )

    def propose(
        self, images: torch.Tensor, _threshold: float, wanted: Sequence[int] | None = None
    ) -> list[Proposals]:
        positions = range(len(images)) if wanted is None else wanted
        return [synthetic_proposals(PROPOSALS, 256, seed=n) for n in positions]

    def halve_step(self) -> bool:
        return False


def _synthetic_rows(images: int, max_iou: float | None) -> list[ImageProposals]:
    models = _Synthetic()
    keeper = Keeper(models, models, MethodSettings(), max_iou)  # type: ignore[arg-type]
    inputs = [np.zeros((SIDE, SIDE, 3), np.uint8)] * images
    found = keeper.begin(inputs, [SIZE_HW] * images)
    return [
        ImageProposals.kept(ImageEntry(n, f"{n}", ""), SIZE_HW, views.result())
        for n, views in enumerate(found, start=1)
    ]


def published(images: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of CPU time for each image, and bytes, at the size of published models."""
    matcher, found = Matcher(synthetic_bank(CHANNELS, CLASSES), MethodSettings()), {}
    for name, max_iou in ((ALL, None), (THINNED, MAX_IOU)):
        rows = _synthetic_rows(images, max_iou)
        data = to_bytes(to_table(rows, CHANNELS), {})
        count = sum(len(view) for row in rows for view in row.views)
        read, match = [], []
        for _ in range(rounds):
            started = time.process_time()
            file = pq.ParquetFile(io.BytesIO(data))
            batches = list(file.iter_batches(ROWS_AT_ONCE, use_threads=False))
            kept = [image for batch in batches for image in iter_images(batch)]
            read.append(time.process_time() - started)
            started = time.process_time()
            for image in kept:
                matcher.labels(image)
            match.append(time.process_time() - started)
        found[name] = {
            "proposals_per_image": count / images,
            "read_ms": 1000 * min(read) / images,
            "match_ms": 1000 * statistics.median(match) / images,
            "bytes_per_image": len(data) / images,
            "bytes_per_proposal": len(data) / count,
        }
    return found


class _SleepingKeeper(Keeper):
    """The real threads and strings; what a GPU would do takes its time asleep."""

    def __init__(self, models: _Synthetic, label_s: float, examples: int, threads: int) -> None:
        super().__init__(models, models, MethodSettings(), MAX_IOU)  # type: ignore[arg-type]
        self._label_s, self._encoding = label_s, ThreadPoolExecutor(threads)
        self.strips, self.spans = True, list[tuple[float, float]]()
        self._near = np.eye(PROPOSALS, dtype=bool)
        features = models.encode(torch.zeros(examples, 1))
        view = View(0, 0, SIZE_HW[1], SIZE_HW[0])
        self._examples = [
            self.staying(
                view,
                proposed,
                pooled_features(own, proposed.logits > 0),
                mean_patch_feature(own),
            )
            for own, proposed in zip(features, models.propose(features, 0.0), strict=True)
        ]

    def begin(self, images_rgb: Any, sizes_hw: Any) -> list[Future[Any]]:
        """Sleep as long as the device works on all places; then the host's part for each."""
        began = time.perf_counter()
        time.sleep(self._label_s * len(images_rgb))
        self.spans.append((began, time.perf_counter()))
        found = []
        for n, size in enumerate(sizes_hw):
            example = self._examples[n % len(self._examples)]
            staying = self._host.submit(self.proposer.device, self._thin, example)
            encoded = self._encoding.submit(keeping._encoded, staying)
            found.append(self._joined([encoded] if size is not None else []))
        return found

    def _thin(self, example: Any) -> Any:
        """The host's share of thinning: which of a matrix of pairs stay."""
        first_of_near(self._near)
        return example


def flow(
    *, label_ms: float, decode_ms: float, threads: int, units: int, images: int
) -> dict[str, float]:
    """Share of the time for which the device works, two units at a time as in an actor."""
    models = _Synthetic()
    keeper = _SleepingKeeper(models, label_ms / 1000, IMAGES_PER_STEP, threads)
    labelling = UnitLabeler(
        keeper, "/none", "token", SleepingStore(), images_per_step=IMAGES_PER_STEP
    )
    labelling._decoders = SleepingDecoders(4, decode_ms / 1000)  # type: ignore[assignment]
    unit = [FetchedImage(ImageEntry(n, "image", "image"), b"image", None) for n in range(images)]

    def work(number: int) -> int:
        rows = labelling.label(number, unit).rows
        return len(to_bytes(to_table(rows, CHANNELS), {}))  # type: ignore[arg-type]

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as calls:
        sizes = list(calls.map(work, range(units)))
    took_s = time.perf_counter() - started
    worked_s = sum(end - begin for begin, end in keeper.spans)
    return {
        "threads": threads,
        "label_ms": label_ms,
        "ms_per_image": 1000 * took_s / (units * images),
        "busy": worked_s / took_s,
        "mb_per_unit": sizes[0] / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("demo", "published", "flow"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--images", type=int, default=64, help="of a seed, or of a unit")
    parser.add_argument("--units", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--label-ms", type=float, default=7.0, help="of an image, on the GPU")
    parser.add_argument("--decode-ms", type=float, default=13.5)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2, 4))
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)  # as in a run on CPUs, and in a task
    found: Any
    if given.part == "demo":
        found = {seed: demo(seed, given.images) for seed in given.seeds}
        _print_demo(list(found.values()))
    elif given.part == "published":
        found = published(min(given.images, 8), given.rounds)
        for name, figures in found.items():
            print(name, ", ".join(f"{key} {value:.1f}" for key, value in figures.items()))
    else:
        each = {"label_ms": given.label_ms, "decode_ms": given.decode_ms, "units": given.units}
        found = [flow(threads=n, images=given.images, **each) for n in given.threads]
        for figures in found:
            print(", ".join(f"{key} {value:.3g}" for key, value in figures.items()))
    if given.json is not None:
        about = {"benchmark": f"rematch {given.part}", "machine": machine(torch.device("cpu"))}
        write_json(given.json, about | {"found": found})


def _print_demo(seeds: Sequence[dict[str, Any]]) -> None:
    for name in (PLAIN, ALL, THINNED):
        own = [seed[name] for seed in seeds]
        keys = [key for key in own[0] if key != "images"]
        print(name, ", ".join(f"{k} {statistics.mean(s[k] for s in own):.4f}" for k in keys))
    for first, second in ((PLAIN, ALL), (ALL, THINNED), (PLAIN, THINNED)):
        for key in ("mask_ap", "box_ap"):
            apart = [seed[second][key] - seed[first][key] for seed in seeds]
            worst = max(apart, key=abs)
            print(f"{second} - {first}, {key}: {statistics.mean(apart):+.5f}, worst {worst:+.5f}")


if __name__ == "__main__":
    main()
