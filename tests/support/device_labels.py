"""Small labellers that run on a given device, and how alike labels of two devices have to be."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
import yaml

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.bank.patches import ReferencePatches
from ntt_ray.config import Architecture
from ntt_ray.images import RgbImage
from ntt_ray.masks import decode_rle
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.tiling import TiledLabeler, make_labeler
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.sam2.proposer import Sam2Proposer, build_sam2
from ntt_ray.proposals.keeping import Keeper, KeptLabeler
from ntt_ray.proposals.matching import Matcher
from ntt_ray.records import ClassLabel, Detection
from ntt_ray.settings import MethodSettings
from tests.support.golden import GOLDEN

WEIGHTS = GOLDEN / "weights"
SETTINGS = MethodSettings(min_predicted_iou=0.3)


@cache
def wide_sam2() -> tuple[Path, Path]:
    """Checkpoint and YAML of the golden SAM2 with a decoder of the published 256 channels.

    It has more channels than attention weights, as all published models, so that image tokens take
    the low-rank form. Its weights are random, and large enough for the points' masks to differ.
    """
    folder = Path(mkdtemp(prefix="wide-sam2-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tree = yaml.safe_load((WEIGHTS / "sam2_nano.yaml").read_text())
    model = tree["model"]
    model["image_encoder"]["neck"]["d_model"] = 256
    model["image_encoder"]["neck"]["position_encoding"]["num_pos_feats"] = 256
    model["memory_attention"]["d_model"] = model["memory_attention"]["layer"]["d_model"] = 256
    for name in ("self_attention", "cross_attention"):
        model["memory_attention"]["layer"][name]["embedding_dim"] = 256
    model["memory_encoder"]["in_dim"] = 256
    model["memory_encoder"]["mask_downsampler"]["embed_dim"] = 256
    model["memory_encoder"]["fuser"]["layer"]["dim"] = 256
    config, checkpoint = folder / "sam2_wide.yaml", folder / "sam2_wide.pt"
    config.write_text(yaml.safe_dump(tree))
    torch.manual_seed(0)
    tensors = build_sam2("wide", 256, config).state_dict()
    for name, tensor in tensors.items():
        if name.startswith("sam_") and ("norm" in name or name.endswith("bias")):
            tensor += 0.3 * torch.randn_like(tensor)
        elif name.startswith("sam_") and tensor.dim() > 1:
            tensor *= 2
    torch.save({"model": tensors}, checkpoint)
    return checkpoint, config


def small_labeler(
    device: str,
    dtype: torch.dtype = torch.float32,
    settings: MethodSettings = SETTINGS,
    *,
    wide: bool = False,
    negatives: bool = False,
    points_per_side: int = 16,
    options: CompileOptions | None = None,
) -> Labeler | TiledLabeler:
    """A labeller with a bank of three random classes of four references.

    Args:
        device: where it runs.
        dtype: precision of the models.
        settings: settings of the method.
        wide: take `wide_sam2` in the place of the golden one.
        negatives: the classes have negative references too.
        points_per_side: the proposer's grid.
        options: compile the models.
    """
    encoder = Dinov2Encoder.load(
        WEIGHTS / "dino_nano.pth",
        name="dino_nano",
        image_size=112,
        architecture=Architecture(embed_dim=64, depth=2, num_heads=4),
        device=device,
        dtype=dtype,
    )
    nano = WEIGHTS / "sam2_nano.pt", WEIGHTS / "sam2_nano.yaml"
    checkpoint, config = wide_sam2() if wide else nano
    image_size = 128 if wide else 256
    proposer = Sam2Proposer.load(
        checkpoint,
        name="small",
        image_size=image_size,
        points_per_side=points_per_side,
        config=config,
        device=device,
        dtype=dtype,
        all_outputs=settings.all_outputs,
        refinement=settings.refinement,
    )
    if options is not None:
        encoder.compile(options)
        proposer.compile(options)
    bank = small_bank(negatives, patches=settings.correspondence is not None)
    return make_labeler(encoder, proposer, bank, settings)


def small_bank(negatives: bool = False, *, patches: bool = False) -> MemoryBank:
    """Three random classes of four references, with 64 patches each, and of two negatives."""
    random = torch.Generator().manual_seed(0)
    means = [[(torch.randn(64, generator=random), 1.0) for _ in range(4)] for _ in range(3)]
    against = [[(torch.randn(64, generator=random), 1.0) for _ in range(2)] for _ in range(3)]
    rows = [
        [
            ReferencePatches(
                torch.nn.functional.normalize(torch.randn(64, 64, generator=random), dim=1).half(),
                torch.rand(64, generator=random) > 0.4,
            )
            for _ in range(4)
        ]
        for _ in range(3)
    ]
    return MemoryBank.from_means(
        [ClassLabel(i + 1, f"class {i}") for i in range(3)],
        means,
        encoder={},
        reference_digest="",
        negatives=against if negatives else (),
        patches=rows if patches else (),
    )


def small_kept_labeler(
    device: str, dtype: torch.dtype = torch.float32, settings: MethodSettings = SETTINGS
) -> KeptLabeler:
    """The same labeller, where labels are made of kept proposals."""
    labeler = small_labeler(device, dtype, settings)
    plain = labeler if isinstance(labeler, Labeler) else labeler.labeler
    keeper = Keeper(plain.encoder, plain.proposer, settings, 0.95)
    return KeptLabeler(keeper, Matcher(small_bank(), settings))


def coarse_images(count: int = 3, size_hw: tuple[int, int] = (120, 160)) -> list[RgbImage]:
    """Images of 6 x 8 random colours."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    block = np.ones((size_hw[0] // 6, size_hw[1] // 8, 1), dtype=np.uint8)
    return [np.kron(image, block) for image in coarse]


Labels = Sequence[Sequence[Detection]]


def share_found(
    found: Labels, expected: Labels, score_error: float = 0.02, mask_iou: float = 0.95
) -> float:
    """How many of the expected detections are there, of 1: rounding may flip a few.

    Args:
        found: detections of each image.
        expected: those that should be there.
        score_error: by how much a score may differ; the class must be the same.
        mask_iou: IoU that the two masks must have.
    """
    matched = 0
    for mine, theirs in zip(found, expected, strict=True):
        masks = [(d.category_id, d.score, decode_rle(d.rle)) for d in mine]
        for detection in theirs:
            mask = decode_rle(detection.rle)
            matched += any(
                category == detection.category_id
                and abs(score - detection.score) < score_error
                and (mask & other).sum() >= mask_iou * (mask | other).sum()
                for category, score, other in masks
            )
    total = sum(map(len, expected))
    return matched / total if total else 1.0
