"""Train the demo's DINOv2 encoder so that its patch features tell families apart, also new ones.

    python demo/train_dinov2.py --data build/demo --output ntt_ray/demo/weights

Every batch imitates the method: reference crops give one prototype per class (masked mean of patch
features), scenes give mean features of regions, and cosines decide. A region belongs to its class,
or to none: regions of the background and objects of classes without a prototype must stay under a
fixed cosine. The same is asked of single patches, and of all objects against one learned vector
per training class. The pictures are smaller than in use;
position embeddings are resampled on the way.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.layers import set_fused_attn
from torch import Tensor, nn
from train_sam2 import MEAN, STD, write_digests
from training_scenes import TrainingScenes, all_classes, recoloured

ARCHITECTURE = {"image_size": 280, "patch_size": 14, "embed_dim": 192, "depth": 5, "num_heads": 3}
TRAINING_SIZE = 168  # smaller pictures than in use: many more steps in the same time
SCENES, CLASSES, SHOTS = 8, 12, 1
NO_CLASS = 0.5  # cosine that "none of the classes" stands for
TEMPERATURE = 0.07
POOLED = 40  # grid that regions are averaged on
EMA = 0.998


def build() -> nn.Module:
    """The untrained encoder."""
    set_fused_attn(False)  # on a CPU its backward pass takes longer than all the rest
    return timm.create_model(
        "vit_small_patch14_dinov2",
        pretrained=False,
        num_classes=0,
        img_size=ARCHITECTURE["image_size"],
        embed_dim=ARCHITECTURE["embed_dim"],
        depth=ARCHITECTURE["depth"],
        num_heads=ARCHITECTURE["num_heads"],
        init_values=0.3,
        dynamic_img_size=True,
    )


def patch_features(model: nn.Module, images: Tensor, size: int) -> Tensor:
    """Patch tokens (n, g, g, C) of images in [0, 1], resized to `size`."""
    images = F.interpolate(images, (size, size), mode="bicubic", align_corners=False)
    tokens = model.forward_features((images - MEAN) / STD)[:, 1:]
    side = size // ARCHITECTURE["patch_size"]
    return tokens.float().unflatten(1, (side, side))


def prototype_of(features: Tensor, masks: Tensor) -> Tensor:
    """Mean of features (n, g, g, C) under soft masks (n, s, s), read at each patch's corner."""
    weights = F.interpolate(masks[:, None], features.shape[1:3], mode="nearest")[:, 0, :, :, None]
    return (features * weights).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1e-3)


class Batch:
    """Scenes, references of some of their classes, and who is who."""

    def __init__(
        self, data: TrainingScenes, crops_of: dict[int, list[int]], rng: np.random.Generator
    ) -> None:
        chosen = rng.integers(len(data.labels), size=SCENES)
        self.scenes, self.maps = data.scenes(chosen)
        self.labels = [data.labels[i] for i in chosen]
        present = sorted({label for own in self.labels for label in own if label in crops_of})
        self.classes = list(rng.permutation(present)[:CLASSES])
        crops = [rng.choice(crops_of[label], SHOTS) for label in self.classes]
        self.crops, self.crop_masks = data.crops(np.concatenate(crops))
        for name in ("scenes", "crops"):
            if rng.random() < 0.5:
                masks = "maps" if name == "scenes" else "crop_masks"
                setattr(self, name, getattr(self, name).transpose(2, 3))
                setattr(self, masks, getattr(self, masks).transpose(1, 2))


def regions_of(batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Region weights (r, POOLED, POOLED), the scene of each, and its label (-1 for background)."""
    weights, scenes, labels = [], [], []
    size = batch.maps.shape[-1] // POOLED
    grid = torch.arange(POOLED) + 0.5
    for scene, own in enumerate(batch.labels):
        owner = batch.maps[scene]
        masks = torch.stack([owner == k for k in range(len(own) + 1)]).float()
        shares = F.avg_pool2d(masks[None], size)[0]
        for index, label in enumerate(own, start=1):
            if shares[index].sum() > 1:
                weights.append(shares[index])
                labels.append(label)
                scenes.append(scene)
        for _ in range(4):
            x, y, radius = (float(v) for v in rng.uniform((0, 0, 2), (POOLED, POOLED, 9)))
            disc = (torch.hypot(grid[None] - x, grid[:, None] - y) < radius) * shares[0]
            if disc.sum() > 4:
                weights.append(disc)
                labels.append(-1)
                scenes.append(scene)
    return torch.stack(weights), torch.tensor(scenes), torch.tensor(labels)


def class_loss(features: Tensor, prototypes: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy over cosines to prototypes and one constant for "none", the last index."""
    cosines = F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T
    none = torch.full((len(cosines), 1), NO_CLASS)
    return F.cross_entropy(torch.cat([cosines, none], dim=1) / TEMPERATURE, targets)


def loss_of(
    model: nn.Module,
    batch: Batch,
    proxies: Tensor,
    size: int,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> tuple[Tensor, float, float]:
    """Loss, share of regions with the right class or none, mean highest cosine of background."""
    side = batch.crops.shape[-1]
    scenes = F.interpolate(batch.scenes, (side, side), mode="bicubic", align_corners=False)
    images = recoloured(torch.cat([scenes, batch.crops]), generator)
    with torch.autocast("cpu", torch.bfloat16):
        features = patch_features(model, images, size)
    scene_features, crop_features = features[: len(scenes)], features[len(scenes) :]
    of_crops = prototype_of(crop_features, batch.crop_masks)
    prototypes = of_crops.unflatten(0, (-1, SHOTS)).mean(1)

    weights, where, labels = regions_of(batch, rng)
    fine = F.interpolate(scene_features.permute(0, 3, 1, 2), (POOLED, POOLED), mode="bilinear")
    pooled = torch.cat(
        [weights[where == k].flatten(1) @ fine[k].flatten(1).T for k in range(len(fine))]
    )
    pooled = pooled / weights.sum((1, 2))[:, None]
    ranks = {label: rank for rank, label in enumerate(batch.classes)}
    targets = torch.tensor([ranks.get(int(label), len(ranks)) for label in labels])
    loss = class_loss(pooled, prototypes, targets)
    all_targets = torch.where(labels < 0, len(proxies), labels)
    crop_targets = torch.tensor(np.repeat(batch.classes, SHOTS))
    loss = loss + 0.5 * class_loss(
        torch.cat([pooled, of_crops]), proxies, torch.cat([all_targets, crop_targets])
    )

    # Single patches: those almost wholly in one object, and those wholly in the background.
    patch = scene_features.shape[1]
    tokens, token_targets = [], []
    for scene, own in enumerate(batch.labels):
        codes = torch.tensor([len(ranks), *(ranks.get(label, len(ranks)) for label in own)])
        sampled = F.interpolate(batch.maps[scene, None, None].float(), (patch * 4, patch * 4))[
            0, 0
        ].long()
        cells = codes[sampled].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2)
        clean = cells.amin(2) == cells.amax(2)
        tokens.append(scene_features[scene][clean])
        token_targets.append(cells[..., 0][clean])
    loss = loss + 0.5 * class_loss(torch.cat(tokens), prototypes, torch.cat(token_targets))

    with torch.no_grad():
        cosines = F.normalize(pooled, dim=1) @ F.normalize(prototypes, dim=1).T
        best = cosines.max(1)
        guess = torch.where(best.values > NO_CLASS, best.indices, len(ranks))
        right = (guess == targets).float().mean().item()
        ground = best.values[labels < 0].mean().item()
    return loss, right, ground


@torch.no_grad()
def start_proxies(
    model: nn.Module, data: TrainingScenes, crops_of: dict[int, list[int]], proxies: Tensor
) -> None:
    """Set the learned vector of each class to its mean over a few crops."""
    for label, crops in crops_of.items():
        images, masks = data.crops(np.array(crops[:4]))
        features = prototype_of(patch_features(model, images, TRAINING_SIZE), masks)
        proxies[label] = F.normalize(features, dim=1).mean(0)


def export(weights: dict[str, Tensor], folder: Path) -> None:
    """Write weights in the official key layout in half precision, architecture and digests."""
    half = {name: value.half().contiguous() for name, value in weights.items()}
    half["mask_token"] = torch.zeros(1, ARCHITECTURE["embed_dim"], dtype=torch.float16)
    save_file(half, folder / "dinov2_demo.safetensors")
    (folder / "dinov2_demo.json").write_text(json.dumps(ARCHITECTURE, indent=1) + "\n")
    write_digests(folder)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="go on here with the written weights")
    parser.add_argument(
        "--stop", type=int, default=2750, help="stop at this step; the rate falls as if for all"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng, generator = (
        np.random.default_rng([args.seed, args.first]),
        torch.Generator().manual_seed(args.seed + args.first),
    )
    data = TrainingScenes(args.data)
    crops_of: dict[int, list[int]] = {}
    for index, label in enumerate(data.crop_labels):
        crops_of.setdefault(label, []).append(index)
    model = build().train()
    if args.first:
        written = load_file(args.output / "dinov2_demo.safetensors")
        del written["mask_token"]
        model.load_state_dict(written)
    proxies = nn.Parameter(torch.randn(len(all_classes(0)), ARCHITECTURE["embed_dim"]))
    if args.first:
        start_proxies(model, data, crops_of, proxies)
    parameters = [*model.parameters(), proxies]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.05, betas=(0.9, 0.98))
    average = {k: v.clone() for k, v in model.state_dict().items()}
    seen: list[tuple[float, float, float]] = []
    started = time.monotonic()
    for step in range(args.first, args.stop or args.steps):
        done = step / args.steps
        rate = min((step - args.first + 1) / 150, 1 - done)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        loss, right, ground = loss_of(
            model, Batch(data, crops_of, rng), proxies, TRAINING_SIZE, rng, generator
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            keep = min(EMA, (step - args.first) / (step - args.first + 10))
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - keep)
        seen.append((loss.item(), right, ground))
        if (step + 1) % 50 == 0:
            mean = np.mean(seen, axis=0)
            print(
                f"{step + 1} loss {mean[0]:.3f} right {mean[1]:.3f} "
                f"ground {mean[2]:.3f} "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
            seen = []
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            export(average, args.output)


if __name__ == "__main__":
    main()
