"""Write checkpoints with random values in the official file layouts.

    python -m benchmarks.random_checkpoints DIR --encoder dinov2_vits14 --proposer sam2.1_hiera_t

The published files cannot be had everywhere; speed and loading do not depend on their values. The
files have the published names, keys, shapes and wrapping, so they can also serve as a mirror.
Masks made with them mean nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ntt_ray.models.dinov2 import build_vit
from ntt_ray.models.published import PUBLISHED
from ntt_ray.models.sam2.proposer import build_sam2


def official_dinov2(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors under the keys of a published DINOv2 ``.pth``."""
    torch.manual_seed(seed)
    model = build_vit(name, 518, None)
    tensors = dict(model.state_dict())
    if "reg_token" in tensors:
        tensors["register_tokens"] = tensors.pop("reg_token")
        position = tensors["pos_embed"]
        tensors["pos_embed"] = torch.cat((torch.zeros_like(position[:, :1]), position), dim=1)
    tensors["mask_token"] = torch.zeros(1, model.embed_dim)
    for key, value in tensors.items():
        if key.endswith("gamma"):
            tensors[key] = torch.full_like(value, 0.1)  # as after training, not the start value
    return tensors


def official_sam2(name: str, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Random tensors under the keys of a published SAM2 ``.pt``."""
    torch.manual_seed(seed)
    return {"model": dict(build_sam2(name, 1024).state_dict())}


def write_checkpoints(folder: Path, encoder: str, proposer: str) -> tuple[Path, Path]:
    """Write both files under their published names; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / PUBLISHED[name].file_name for name in (encoder, proposer))
    torch.save(official_dinov2(encoder), paths[0])
    torch.save(official_sam2(proposer), paths[1])
    return paths[0], paths[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", default="dinov2_vits14")
    parser.add_argument("--proposer", default="sam2.1_hiera_t")
    arguments = parser.parse_args()
    for path in write_checkpoints(arguments.folder, arguments.encoder, arguments.proposer):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
