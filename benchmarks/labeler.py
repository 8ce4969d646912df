"""Time the plain path and the fast path on the same models, in one process and in turn.

    python -m benchmarks.labeler --models ts            # SAM2.1-T with DINOv2-S, random weights
    python -m benchmarks.labeler --models demo          # the bundled weights
    python -m benchmarks.labeler --models ll --device cuda --precision bf16

Prints images/s of both one by one, their ratio (median of the pairs), images/s of ours in steps of
``--batch`` images, seconds by part, peak memory and the share of the arithmetic floor; ``--json
FILE`` keeps it. Random weights do not say how many masks survive the threshold, so ``--survivors``
sets the threshold to let that share through; nor what masks look like, so matching and merging are
timed on `synthetic_proposals`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import gemm_flops, machine, peak_memory, timed, write_json
from benchmarks.plain import PlainLabeler
from benchmarks.random_checkpoints import write_checkpoints
from benchmarks.synthetic_proposals import (
    synthetic_bank,
    synthetic_features,
    synthetic_proposals,
)
from ntt_ray.images import RgbImage, resize_square
from ntt_ray.method.labeler import Labeler
from ntt_ray.models.cache import local_checkpoint
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.inputs import to_input
from ntt_ray.models.interfaces import Proposals
from ntt_ray.models.sam2.proposer import Sam2Proposer, build_sam2
from ntt_ray.models.weights import load_into, read_state_dict
from ntt_ray.settings import MethodSettings
from ntt_ray.storage import Storage

# encoder, its image size, proposer, its image size, points per side
MODELS = {
    "demo": ("dinov2_demo", 280, "sam2_demo", 320, 16),
    "ts": ("dinov2_vits14", 518, "sam2.1_hiera_t", 1024, 32),
    "ll": ("dinov2_vitl14", 518, "sam2_hiera_l", 1024, 32),
}
CLASSES = 20


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    plain, fast = _labelers(arguments, device)
    images = [_image(seed, arguments.size) for seed in range(arguments.images)]
    threshold = _threshold(fast, images[0], arguments.survivors)
    settings = MethodSettings(min_predicted_iou=threshold)
    fast.settings = plain._settings = settings

    share = _survivors(fast, images[0])
    floor_s = _flops(fast, images[0]) / gemm_flops(device, fast.encoder._dtype)
    pairs, ours_only = [], arguments.ours_only
    for number in range(arguments.repeats + 1):
        image = images[number % len(images)]
        with peak_memory(device) as plain_peak:
            plain_s, expected = (
                (math.nan, []) if ours_only else timed(lambda i=image: plain.label(i), device)
            )
        with peak_memory(device) as fast_peak:
            fast_s, found = timed(lambda i=image: fast.label([i])[0], device)
        print(
            f"{'warm-up' if number == 0 else f'pair {number}'}: "
            f"plain {plain_s:.2f} s, {plain_peak.bytes / 1e9:.2f} GB; "
            f"fast {fast_s:.2f} s, {fast_peak.bytes / 1e9:.2f} GB; "
            f"ratio {plain_s / fast_s:.2f}; {len(expected)} and {len(found)} detections",
            flush=True,
        )
        if number:
            pairs.append((plain_s, fast_s, plain_peak.bytes, fast_peak.bytes))
    plain_s, fast_s = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    result: dict[str, Any] = {
        "benchmark": "labeler",
        "models": arguments.models,
        "precision": arguments.precision,
        "compile": arguments.compile,
        "points": fast.proposer.points.shape[0],
        "image": arguments.size,
        "share_of_points_that_survive": round(share, 3),
        "plain_images_per_s": None if ours_only else 1 / plain_s,
        "fast_images_per_s": 1 / fast_s,
        "batch": arguments.batch,
        "fast_images_per_s_in_steps": _throughput(fast, images, arguments, device),
        "ratio": None if ours_only else statistics.median(a / b for a, b, *_ in pairs),
        "plain_peak_gb": max(pair[2] for pair in pairs) / 1e9,
        "fast_peak_gb": max(pair[3] for pair in pairs) / 1e9,
        "fast_seconds_by_part": _parts(fast, images[0], device),
        "share_of_arithmetic_floor": floor_s / fast_s,
        "repeats": arguments.repeats,
        "machine": machine(device),
    }
    for key, value in result.items():
        print(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
    if arguments.json:
        write_json(arguments.json, result)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=MODELS, default="demo")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", choices=("no", "yes", "cuda-graphs"), default="no")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1, help="images in a step of ours")
    parser.add_argument("--size", default="640x480", help="of the images, width x height")
    parser.add_argument("--points-per-side", type=int, default=None)
    parser.add_argument("--survivors", type=float, default=None, help="share of points, 0 to 1")
    parser.add_argument("--ours-only", action="store_true", help="without the plain path")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=None)
    return parser


def _labelers(arguments: argparse.Namespace, device: torch.device) -> tuple[PlainLabeler, Labeler]:
    """Both ways, on the same weights; the plain way in float32, as the paper's code."""
    encoder_name, encoder_size, proposer_name, image_size, points = MODELS[arguments.models]
    points = arguments.points_per_side or points
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        if arguments.models == "demo":
            paths = [
                local_checkpoint(name, None, mirror=None, store=Storage())
                for name in (encoder_name, proposer_name)
            ]
        else:
            paths = list(write_checkpoints(Path(folder), encoder_name, proposer_name))

        def encoder(precision: torch.dtype) -> Dinov2Encoder:
            return Dinov2Encoder.load(
                paths[0],
                name=encoder_name,
                image_size=encoder_size,
                device=device,
                dtype=precision,
            )

        proposer = Sam2Proposer.load(
            paths[1],
            name=proposer_name,
            image_size=image_size,
            points_per_side=points,
            device=device,
            dtype=dtype,
        )
        stock = build_sam2(proposer_name, image_size)
        load_into(stock, read_state_dict(paths[1]), paths[1])
        fast_encoder, plain_encoder = encoder(dtype), encoder(torch.float32)
    if arguments.compile != "no":
        options = CompileOptions(cuda_graphs=arguments.compile == "cuda-graphs")
        fast_encoder.compile(options)
        proposer.compile(options)
    bank = synthetic_bank(fast_encoder.feature_dim, CLASSES)
    fast = Labeler(fast_encoder, proposer, bank)
    plain = PlainLabeler(
        plain_encoder, stock.to(device), bank.prototypes(), fast.settings, points, device
    )
    return plain, fast


def _image(seed: int, size: str) -> RgbImage:
    """Blobs of colour over noise: something for the encoders to see."""
    width, height = (int(part) for part in size.split("x"))
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = np.repeat(np.repeat(coarse, -(-height // 6), axis=0), -(-width // 8), axis=1)
    noise = rng.integers(-20, 21, (height, width, 3))
    return np.clip(smooth[:height, :width] + noise, 0, 255).astype(np.uint8)


def _threshold(labeler: Labeler, image: RgbImage, survivors: float | None) -> float:
    if survivors is None:
        return labeler.settings.min_predicted_iou
    _, iou = labeler.proposer.predict(_sam_features(labeler, image), 2.0)
    return max(0.0, float(iou[:, 1:].amax(dim=1).quantile(max(0.0, 1 - survivors))) - 1e-6)


def _sam_features(labeler: Labeler, image: RgbImage) -> Any:
    side = labeler.proposer.image_size
    return labeler.proposer.encode_images(to_input([resize_square(image, side)]))


def _survivors(labeler: Labeler, image: RgbImage) -> float:
    threshold = labeler.settings.min_predicted_iou
    proposals, iou = labeler.proposer.predict(_sam_features(labeler, image), threshold)
    return len(proposals) / len(iou)


def _flops(labeler: Labeler, image: RgbImage) -> float:
    with FlopCounterMode(display=False) as counter:
        labeler.label([image])
    return float(counter.get_total_flops())


def _throughput(
    labeler: Labeler, images: list[RgbImage], arguments: argparse.Namespace, device: torch.device
) -> float:
    """Images/s in steps of several: the best of the repeats, after one to warm up."""
    step = [images[number % len(images)] for number in range(arguments.batch)]
    runs = [timed(lambda: labeler.label(step), device)[0] for _ in range(arguments.repeats + 1)]
    return arguments.batch / min(runs[1:])


def _parts(labeler: Labeler, image: RgbImage, device: torch.device) -> dict[str, float]:
    """Seconds of each part of the fast path, one after the other."""
    side = labeler.proposer.image_size
    seconds = {}
    seconds["resize"], inputs = timed(lambda: to_input([resize_square(image, side)]), device)
    seconds["dinov2"], _ = timed(lambda: labeler.encoder.encode(inputs), device)
    seconds["sam2 encoder"], sam = timed(lambda: labeler.proposer.encode_images(inputs), device)
    threshold = labeler.settings.min_predicted_iou
    seconds["sam2 decoder"], (found, _) = timed(
        lambda: labeler.proposer.predict(sam.image(0), threshold), device
    )
    made = synthetic_proposals(len(found), side // 4)
    grid = labeler.encoder.image_size // labeler.encoder.patch_size
    features = synthetic_features(labeler.prototypes.cpu(), grid)[None].to(device)
    fields = (made.logits, made.predicted_iou, made.index)
    proposals = Proposals(*(field.to(device) for field in fields))
    with torch.inference_mode():
        seconds["match, nms"], candidates = timed(
            lambda: labeler.suppress(labeler.match(features[0], proposals)), device
        )
        limit = labeler.settings.max_detections
        seconds["merge, rle"], _ = timed(
            lambda: labeler.merge(candidates, image.shape[:2], limit), device
        )
    return {name: round(value, 4) for name, value in seconds.items()}


if __name__ == "__main__":
    main()
