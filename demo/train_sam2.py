"""Train the demo's SAM2: Meta's classes and switches, small widths, one point as prompt.

    python demo/train_sam2.py --data build/demo --output ntt_ray/demo/weights --steps 8000

Loss per point on an object: focal x 10 + dice on the best of the three masks, and the regression
of all three predicted IoUs. For a point on the background only the predicted IoU is taught,
towards 0, so that the method's threshold drops such masks. The decoder is run exactly as the
pipeline runs it.

Two things make so small a decoder learn that a mask belongs to its point: cross-attention starts
as a soft disc around the point (query and key projections pick single frequencies of the point
encoding), and the decoder alone is first taught to draw discs around the points.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_scenes import TrainingScenes, recoloured

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
PICTURES, POINTS, ON_BACKGROUND = 4, 8, 2
DISC_RADIUS = 0.12  # of the picture's side
EMA = 0.998


def build(config: Path) -> nn.Module:
    """The untrained model of the shipped configuration."""
    return instantiate(OmegaConf.load(config).model, _recursive_=True)


def start_as_discs(model: nn.Module) -> None:
    """Let cross-attention begin with what lies near the point."""
    layer = model.sam_prompt_encoder.pe_layer
    matrix = layer.positional_encoding_gaussian_matrix
    frequencies = [
        (0.25, 0.0),
        (0.0, 0.25),
        (0.5, 0.0),
        (0.0, 0.5),
        (1.0, 0.0),
        (0.0, 1.0),
        (0.35, 0.35),
        (0.35, -0.35),
    ]
    matrix *= 0.7
    matrix[:, : len(frequencies)] = torch.tensor(frequencies).T
    half = matrix.shape[1]
    heads = [
        ((0, 1), 4.0),
        ((2, 3), 2.0),
        ((2, 3), 3.0),
        ((2, 3), 4.0),
        ((6, 7), 3.0),
        ((4, 5), 2.0),
    ]
    decoder = model.sam_mask_decoder
    transformer = decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for block in transformer.layers:
        attentions += [block.cross_attn_token_to_image, block.cross_attn_image_to_token]
    for attention in attentions:
        width = attention.internal_dim // attention.num_heads
        for head, (pair, strength) in enumerate(heads):
            picks = [pair[0], pair[0] + half, pair[1], pair[1] + half][:width]
            for projection in (attention.q_proj, attention.k_proj):
                rows = slice(head * width, head * width + width)
                projection.weight[rows] *= 0.1
                projection.bias[rows] = 0
                for row, column in enumerate(picks):
                    projection.weight[head * width + row, column] = strength
    # Their channels hold little else at first, so that nothing drowns the position.
    columns = [*range(len(frequencies)), *range(half, half + len(frequencies))]
    for block in transformer.layers:
        for norm in (block.norm1, block.norm2, block.norm3, block.norm4):
            norm.weight[columns] *= 0.1
    for level in model.image_encoder.neck.convs[:2]:
        level.conv.weight[columns] *= 0.1
        level.conv.bias[columns] = 0
    model.sam_prompt_encoder.no_mask_embed.weight[:, columns] = 0
    encoder = model.sam_prompt_encoder
    for table in (*encoder.point_embeddings, encoder.not_a_point_embed, encoder.no_mask_embed):
        table.weight *= 0.2
    for table in (decoder.iou_token, decoder.mask_tokens, decoder.obj_score_token):
        table.weight *= 0.2


def decode(model: nn.Module, pictures: Tensor, points_xy: Tensor) -> tuple[Tensor, Tensor]:
    """Mask logits (n * p, 3, S/4, S/4) and predicted IoUs (n * p, 3) of points (n, p, 2)."""
    return decode_points(model, model.forward_image(pictures)["backbone_fpn"], points_xy)


def decode_points(
    model: nn.Module, embedding: list[Tensor], points_xy: Tensor
) -> tuple[Tensor, Tensor]:
    """The second half of `decode`, from the levels of the image embedding."""
    n, p = points_xy.shape[:2]
    fine0, fine1, coarse = (level.repeat_interleave(p, 0) for level in embedding)
    prompts = points_xy.reshape(n * p, 1, 2), torch.ones(n * p, 1)
    sparse, dense = model.sam_prompt_encoder(points=prompts, boxes=None, masks=None)
    logits, ious, _, _ = model.sam_mask_decoder.predict_masks(
        image_embeddings=coarse,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[fine0, fine1],
    )
    return logits[:, 1:], ious[:, 1:]


def draw_batch(
    data: TrainingScenes, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures, points (n, p, 2), targets (n * p, S/4, S/4) in [0, 1], which are on objects."""
    pictures, maps = data.scenes(rng.integers(len(data.labels), size=PICTURES))
    pictures = recoloured(pictures, generator)
    if rng.random() < 0.5:
        pictures, maps = pictures.transpose(2, 3), maps.transpose(1, 2)
    axes = [axis for axis in (-1, -2) if rng.random() < 0.5]
    pictures, maps = pictures.flip(axes), maps.flip(axes)
    points, owners = [], []
    for owner in maps.numpy():
        places = [np.argwhere(owner == k) for k in np.unique(owner)]
        ground = places[0] if owner.min() == 0 else None
        bodies = places[1:] if ground is not None else places
        for index in range(POINTS):
            on_ground = not bodies or (ground is not None and index < ON_BACKGROUND)
            place = ground if on_ground else bodies[int(rng.integers(len(bodies)))]
            y, x = place[int(rng.integers(len(place)))]
            points.append((x + 0.5, y + 0.5))
            owners.append(int(owner[y, x]))
    owner_ids = torch.tensor(owners)
    full = (maps.repeat_interleave(POINTS, 0) == owner_ids[:, None, None]).float()
    targets = F.avg_pool2d(full[:, None], 4)[:, 0]
    where = torch.tensor(np.array(points, dtype=np.float32)).reshape(PICTURES, POINTS, 2)
    return (pictures - MEAN) / STD, where, targets, owner_ids > 0


def discs(points_xy: Tensor, size: int) -> Tensor:
    """Soft discs around the points as targets, shape (n * p, size, size)."""
    centre = points_xy.reshape(-1, 2) / 4
    grid = torch.arange(size) + 0.5
    distance = torch.hypot(grid - centre[:, :1, None], grid[:, None] - centre[:, 1:, None])
    return (DISC_RADIUS * size - distance + 0.5).clamp(0, 1)


def learn_discs(
    model: nn.Module, data: TrainingScenes, steps: int, rng: np.random.Generator
) -> None:
    """Teach the decoder alone to draw a disc around its point, whatever the picture."""
    used = [p for name, p in model.named_parameters() if name.startswith("sam_")]
    optimizer = torch.optim.AdamW(used, lr=1.5e-3, betas=(0.9, 0.98))
    for _ in range(steps):
        pictures, _ = data.scenes(rng.integers(len(data.labels), size=1))
        with torch.no_grad():
            embedding = model.forward_image((pictures - MEAN) / STD)["backbone_fpn"]
        points = torch.from_numpy(rng.uniform(0, pictures.shape[-1], (1, 16, 2)).astype(np.float32))
        logits, _ = decode_points(model, embedding, points)
        targets = discs(points, logits.shape[-1])[:, None].expand_as(logits)
        loss = mask_losses(logits, targets).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(used, 1.0)
        optimizer.step()
    print(f"discs: loss {loss.item():.3f}", flush=True)


def mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal x 10 + dice of each mask, for logits and soft targets (n, m, h, w)."""
    chance = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    focal = ((chance - targets).square() * cross).mean((2, 3))
    both = (chance * targets).sum((2, 3))
    dice = 1 - (2 * both + 1) / (chance.square().sum((2, 3)) + targets.square().sum((2, 3)) + 1)
    return 10 * focal + dice


def loss_of(
    logits: Tensor, ious: Tensor, targets: Tensor, on_object: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss, and the IoU of the mask the method would choose, for points on objects."""
    target = targets[:, None].expand_as(logits)
    with torch.no_grad():
        found, true = logits > 0, target > 0.5
        real = (found & true).sum((2, 3)) / (found | true).sum((2, 3)).clamp(min=1)
        real = real * on_object[:, None]
    weight = on_object.float()
    best = mask_losses(logits, target).min(dim=1).values
    mask_loss = (best * weight).sum() / weight.sum().clamp(min=1)
    chosen = real.gather(1, ious.argmax(dim=1, keepdim=True))[:, 0]
    return mask_loss + (ious - real).square().mean() * 2 + (ious - real).abs().mean(), chosen[
        on_object
    ]


def export(weights: dict[str, Tensor], path: Path) -> None:
    """Write the weights in half precision, and the digests of the folder."""
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in weights.items()}
    save_file(half, path)
    write_digests(path.parent)


def write_digests(folder: Path) -> None:
    """Write SHA256SUMS of all shipped files."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".yaml"))
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="holds sam2_demo.yaml")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--disc-steps", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="go on here with the written weights")
    parser.add_argument("--stop", type=int, help="stop at this step; the rate falls as if for all")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng, generator = (
        np.random.default_rng([args.seed, args.first]),
        torch.Generator().manual_seed(args.seed + args.first),
    )
    data = TrainingScenes(args.data)
    model = build(args.output / "sam2_demo.yaml").train()
    if args.first:
        model.load_state_dict(load_file(args.output / "sam2_demo.safetensors"))
    else:
        with torch.no_grad():
            start_as_discs(model)
        learn_discs(model, data, args.disc_steps, rng)
    used = [
        p for name, p in model.named_parameters() if not name.startswith(("memory_", "obj_ptr"))
    ]
    optimizer = torch.optim.AdamW(used, lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98))
    average = {k: v.clone() for k, v in model.state_dict().items()}
    ious_seen: list[float] = []
    losses: list[float] = []
    started = time.monotonic()
    for step in range(args.first, args.stop or args.steps):
        rate = (
            min(1.0, (step - args.first + 1) / 100) * 0.5 * (1 + np.cos(np.pi * step / args.steps))
        )
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        pictures, points, targets, on_object = draw_batch(data, rng, generator)
        logits, ious = decode(model, pictures, points)
        loss, chosen = loss_of(logits, ious, targets, on_object)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(used, 1.0)
        optimizer.step()
        with torch.no_grad():
            keep = min(EMA, (step - args.first) / (step - args.first + 10))
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    average[name].lerp_(value, 1 - keep)
        losses.append(loss.item())
        ious_seen.extend(chosen.tolist())
        if (step + 1) % 50 == 0:
            spent = time.monotonic() - started
            print(
                f"{step + 1} loss {np.mean(losses):.4f} IoU {np.mean(ious_seen):.4f} {spent:.0f} s",
                flush=True,
            )
            losses, ious_seen = [], []
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            export(average, args.output / "sam2_demo.safetensors")


if __name__ == "__main__":
    main()
