"""What labelling one image asks of a GPU, counted without one, and how long that would take.

    python -m benchmarks.budget --models ll             # SAM2-L with DINOv2-L in bf16
    python -m benchmarks.budget --models ts --json FILE

The product's own code runs on tensors without content at the published sizes. For each part it
prints launches, synchronisations with the line that causes each, arithmetic, bytes, copies and
predicted milliseconds on an H100, H200, A100 and L4. Counted are operations, shapes and waits;
assumed are the rates in `device_costs`, the share of points that survive (`--survivors`), and what
NMS and the masks' outlines leave, which is taken from `synthetic_proposals`. A prediction is a
simulated queue: the host launches ahead, the device works, a wait stops the host.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.device_costs import GPUS, Cost
from benchmarks.device_log import forget_device
from benchmarks.device_queue import DeviceQueue, as_fake, on_fake_device
from benchmarks.measure import write_json
from benchmarks.synthetic_proposals import (
    synthetic_bank,
    synthetic_features,
    synthetic_proposals,
)
from ntt_ray.images import RgbImage
from ntt_ray.method.detections import BestMasks
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.strips import axis_resize, strip_runs
from ntt_ray.method.suppression import ranking
from ntt_ray.models import inputs
from ntt_ray.models.dinov2 import Dinov2Encoder, build_vit
from ntt_ray.models.sam2.decoder import image, run, transform_kernels
from ntt_ray.models.sam2.decoder.fold import DecoderWeights
from ntt_ray.models.sam2.decoder.fused_transform import LAUNCHES_90, FusedTransform
from ntt_ray.models.sam2.decoder.image import ImageMaps
from ntt_ray.models.sam2.decoder.keys import LowRankKeys
from ntt_ray.models.sam2.decoder.transform_cost import transform_cost
from ntt_ray.models.sam2.decoder.upscale_kernel import upscale_cost
from ntt_ray.models.sam2.proposer import Sam2Proposer, build_sam2
from ntt_ray.run.actor import IMAGES_PER_GPU_STEP

MODELS = {
    "ts": ("dinov2_vits14", "sam2.1_hiera_t"),
    "ll": ("dinov2_vitl14", "sam2_hiera_l"),
}
CLASSES = 20
# of our own kernels: what they reach of a product's FLOP/s, as a fused attention does; float32
# operations of an element of a softmax, and of a GELU
KERNEL_SHARE = 0.5
SOFTMAX_FLOPS = 20
GELU_FLOPS = 30
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=MODELS, default="ll")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--batch", type=int, default=IMAGES_PER_GPU_STEP, help="images in a step")
    parser.add_argument("--size", default="640x480", help="of the images, width x height")
    parser.add_argument("--survivors", type=float, default=1.0, help="share of points, 0 to 1")
    parser.add_argument("--kernels", choices=("yes", "no"), default="yes", help="our own")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    width, height = (int(part) for part in arguments.size.split("x"))
    found = budget(
        arguments.models,
        precision=PRECISIONS[arguments.precision],
        batch=arguments.batch,
        size_hw=(height, width),
        survivors=arguments.survivors,
        kernels=arguments.kernels == "yes",
    )
    print_table(found)
    if arguments.json:
        write_json(arguments.json, found)


def budget(
    models: str,
    *,
    precision: torch.dtype = torch.bfloat16,
    batch: int = IMAGES_PER_GPU_STEP,
    size_hw: tuple[int, int] = (480, 640),
    survivors: float = 1.0,
    kernels: bool = True,
) -> dict[str, Any]:
    """Count one step of images; what is given is for one image.

    Args:
        models: a key of `MODELS`.
        precision: type of weights and activations.
        batch: images in a step.
        size_hw: height and width of the images.
        survivors: share of the points whose mask is above the threshold.
        kernels: whether our own kernels are used, else torch's operations.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    labeler = _labeler(models, precision, fake)
    points = len(labeler.proposer.points)
    dim = labeler.encoder.feature_dim
    assumed = assumed_of(dim, points, round(survivors * points), size_hw)
    axis_resize(labeler.proposer.image_size // 4, size_hw[0])  # from content: not under `fake`
    log = DeviceQueue(_PARTS, assumed)
    images = torch.zeros(batch, labeler.proposer.image_size, labeler.proposer.image_size, 3)
    steps: list[RgbImage] = list(images.to(torch.uint8).numpy())
    with _kernels(labeler, log) if kernels else nullcontext():
        for _ in range(2):  # the first fills what stays on the device
            log.events.clear()
            with on_fake_device(log, fake):
                _label(labeler, steps, size_hw, log)
    forget_device()
    return {"benchmark": "budget", "models": models, **_result(log, batch)}


@dataclass(frozen=True)
class Assumed:
    """What content would decide, as the synthetic proposals have it.

    Attributes:
        points: points asked.
        survivors: masks above the threshold.
        similar: masks that NMS and the cut keep, and that resemble a class at all.
        changes: for each pixel of the masks that become detections, how often they begin or end.
    """

    points: int
    survivors: int
    similar: int
    changes: float

    def rows(self, part: str, name: str, given: Tensor) -> int:
        """How many rows an operation gives whose shape the content decides."""
        if part == "survivors":
            return round(len(given) * self.survivors / self.points)
        if part == "results" and name == "nonzero":
            return round(self.changes * given.numel())
        raise NotImplementedError(f"{part}: nothing is assumed for {name}")

    def values(self, part: str, asked: Tensor) -> Any:
        """The values of a tensor; where they steer nothing, zeros."""
        if part == "suppress":
            return [0, self.similar]
        return np.zeros(tuple(asked.shape), dtype=np.int64).tolist()


class _OnCpu:
    """In the place of both models, where proposals and features are at hand."""

    device = torch.device("cpu")
    image_size = 1024


def assumed_of(dim: int, points: int, survivors: int, size_hw: tuple[int, int]) -> Assumed:
    """Do what follows the proposer on the CPU, with the product's functions.

    Args:
        dim: channels of the features.
        points: points asked.
        survivors: masks above the threshold.
        size_hw: height and width of the image.
    """
    bank = synthetic_bank(dim, CLASSES)
    on_cpu: Any = _OnCpu()
    labeler = Labeler(on_cpu, on_cpu, bank)
    labeler.strips = False
    wanted = labeler.settings.max_detections
    proposals = synthetic_proposals(survivors, labeler.proposer.image_size // 4)
    candidates = labeler.match(synthetic_features(bank.prototypes(), 37), proposals)
    merged = labeler.merge(labeler.suppress(candidates), size_hw, wanted)
    best = ranking(merged.scores, merged.candidates.proposals.index, wanted)
    runs = strip_runs(merged.candidates.proposals.logits[best], size_hw)
    pixels = len(best) * size_hw[0] * size_hw[1]
    changes = sum(map(len, runs)) / pixels
    return Assumed(points, survivors, len(merged.candidates.scores), changes)


def _labeler(models: str, precision: torch.dtype, fake: FakeTensorMode) -> Labeler:
    """The product's labeller on a device that is not there."""
    torch._C._ensureCUDADeviceGuardSet()
    encoder_name, proposer_name = MODELS[models]
    vit, sam2 = build_vit(encoder_name, 518, None), build_sam2(proposer_name, 1024)
    cuda, bank = torch.device("cuda", 0), synthetic_bank(int(vit.embed_dim), CLASSES)
    with fake, torch.inference_mode():
        encoder = Dinov2Encoder(as_fake(vit, fake), encoder_name, 518, cuda, precision)
        proposer = Sam2Proposer(
            as_fake(sam2, fake), points_per_side=32, device=cuda, dtype=precision
        )
        return Labeler(encoder, proposer, bank)


@contextmanager
def _kernels(labeler: Labeler, queue: DeviceQueue) -> Iterator[None]:
    """Log our own kernels, which tensors without content cannot run, by what they say they need."""
    decoder = labeler.proposer._decoder  # type: ignore[attr-defined]
    image_tokens = decoder._image.maps.bias.shape[-1]
    before = decoder._transform, decoder._upscale
    decoder._transform = FusedTransform(LAUNCHES_90, parts=1)

    def upscaled(
        weights: DecoderWeights, maps: ImageMaps, keys: LowRankKeys, hypernetworks: Tensor
    ) -> Tensor:
        n, c8 = hypernetworks.shape
        c4, rows = len(weights.upscaling.second), keys.p.shape[1]
        needed = upscale_cost(n, rows, image_tokens, c4, c8, keys.p.element_size())
        gelus = n * image_tokens * (4 * c4 + 16 * c8)
        cost = _own(needed.flops, keys.p.dtype, needed.bytes, gelus * GELU_FLOPS, kernels=2)
        queue.kernel("upscale kernel", "upscale", cost)
        side = 4 * int(image_tokens**0.5)
        return keys.p.new_empty(n, side, side, dtype=torch.float32)

    class Kernel:
        def __init__(self, number: int) -> None:
            self._number = number

        def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
            def launch(
                first: Tensor, *_: Any, tokens: int, heads: int, dims: int, **__: Any
            ) -> None:
                points, softmaxes = grid[0], (2 * tokens, tokens, 4)[self._number]
                size = first.element_size()
                needed = transform_cost(points, tokens, heads, dims, image_tokens, size)[
                    self._number
                ]
                vector = points * image_tokens * softmaxes * heads * SOFTMAX_FLOPS
                cost = _own(needed.flops, first.dtype, needed.memory_bytes, vector)
                queue.kernel(needed.name, "transform", cost)

            return launch

    decoder._upscale = upscaled
    names = ("layer_1", "layer_2", "last_attention")
    stand_ins = {name: Kernel(number) for number, name in enumerate(names)}
    with mock.patch.multiple(transform_kernels, **stand_ins):
        yield
    decoder._transform, decoder._upscale = before


def _own(flops: float, dtype: torch.dtype, size: float, vector: float, kernels: int = 1) -> Cost:
    return Cost(flops, dtype, size, kernels, KERNEL_SHARE, vector)


def _label(
    labeler: Labeler, images: list[RgbImage], size_hw: tuple[int, int], queue: DeviceQueue
) -> None:
    """`Labeler.begin`, and what its other thread asks of the device."""
    on_device = inputs.to_input(images, labeler.ring)
    features = labeler.encoder.encode(on_device)
    proposals = labeler.propose(on_device, features, range(len(images)))
    for own, proposed in zip(features, proposals, strict=True):
        best = labeler.best(own, proposed, size_hw)
        with queue.in_another_thread():
            best.detections(labeler.category_ids)


# the functions of each part; the innermost that runs counts
_PARTS: dict[str, Sequence[Callable[..., Any]]] = {
    "input": [inputs.to_input],
    "dinov2": [Dinov2Encoder.encode],
    "sam2 encoder": [Sam2Proposer.encode_images],
    "image maps": [image.image_maps],
    "prompt tokens": [run.prompt_tokens],
    "transform": [run.transform, FusedTransform.__call__],
    "upscale": [run.upscale],
    "survivors": [run.PointDecoder.decode],
    "match": [Labeler.match],
    "suppress": [Labeler.suppress],
    "merge": [Labeler.merge],
    "results": [Labeler.best, BestMasks.detections],
}


def _result(log: DeviceQueue, batch: int) -> dict[str, Any]:
    parts = {
        name: {
            "launches": part.launches / batch,
            "syncs": {line: count / batch for line, count in part.syncs.items()},
            "gflop": {kind: flops / batch / 1e9 for kind, flops in part.flops.items() if flops},
            "gb": part.bytes / batch / 1e9,
            "copied_mb": part.copied / batch / 1e6,
            "device_ms": {key: part.seconds(gpu) / batch * 1e3 for key, gpu in GPUS.items()},
        }
        for name, part in log.parts().items()
    }
    return {
        "per_image": {
            "launches": sum(part["launches"] for part in parts.values()),
            "syncs": sum(sum(part["syncs"].values()) for part in parts.values()),
            "gb": sum(part["gb"] for part in parts.values()),
            "ms": {key: log.seconds(gpu) / batch * 1e3 for key, gpu in GPUS.items()},
            "parts": parts,
        }
    }


def print_table(found: dict[str, Any]) -> None:
    """What `budget` gives, as text."""
    per_image = found["per_image"]
    columns = ["GFLOP", "GB", "launches", "syncs", "MB copied", *GPUS]
    print(f"{'per image':14s}" + "".join(f"{name:>10s}" for name in columns))
    for name, part in per_image["parts"].items():
        numbers = [sum(part["gflop"].values()), part["gb"], part["launches"]]
        numbers += [sum(part["syncs"].values()), part["copied_mb"], *part["device_ms"].values()]
        print(f"{name:14s}" + "".join(f"{number:10.2f}" for number in numbers))
    whole = [per_image["gb"], per_image["launches"], per_image["syncs"]]
    print(f"{'together':24s}" + "".join(f"{number:10.2f}" for number in whole), end=f"{'':10s}")
    print("".join(f"{ms:10.2f}" for ms in per_image["ms"].values()), " ms (predicted)")
    for part in per_image["parts"].values():
        for line, count in part["syncs"].items():
            print(f"  {count:6.2f} x waits at {line}")


if __name__ == "__main__":
    main()
