"""Train the demo's SAM2: Meta's classes and switches, small widths, points and boxes as prompts.

    python demo/train_sam2.py --data build/demo --output ntt_ray/demo/weights --steps 10000

Loss per prompt of an object: focal x 10 + dice on the best of the three masks, the same of the mask
for prompts without doubt, and the regression of all four predicted IoUs. For a point on the
background only the predicted IoU is taught, towards 0, so that the method's threshold drops such
masks. The decoder is run exactly as the pipeline runs it.

Processes share each step: gradients are their mean.

Two things make so small a decoder learn that a mask belongs to its point: cross-attention starts
as a soft disc around the point (query and key projections pick single frequencies of the point
encoding), and the decoder alone is first taught to draw discs around the points.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_scenes import TrainingScenes, recoloured

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
# of each process: pictures of a step, prompts of a picture, and points of these on the background
PICTURES, POINTS, BOXES, ON_BACKGROUND = 4, 8, 2, 2
POINT, UPPER_LEFT, LOWER_RIGHT = 1, 2, 3  # labels of SAM2's prompt encoder
BOX_NOISE = 0.12  # of a box's side: the largest deviation of its edges
SINGLE_WEIGHT = 0.3  # of output 0, which the method asks for references alone
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


@dataclass(frozen=True)
class Prompts:
    """Prompts of n pictures, p for each, and the masks that belong to them.

    Attributes:
        xy: (n, p, t, 2): the t points of each prompt in pixels, x and y.
        labels: What each of the t points is to SAM2; the same for all prompts.
        targets: (n * p, S/4, S/4), the share of each cell that the object covers.
        on_object: (n * p,): whether there is an object; elsewhere the target is the ground.
    """

    xy: Tensor
    labels: tuple[int, ...]
    targets: Tensor
    on_object: Tensor


def decode(
    model: nn.Module, embedding: list[Tensor], xy: Tensor, labels: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Mask logits (n * p, 4, S/4, S/4) and predicted IoUs (n * p, 4) of prompts (n, p, t, 2).

    Output 0 is for prompts without doubt, the other three for ambiguous ones.
    """
    n, p, t = xy.shape[:3]
    fine0, fine1, coarse = (level.repeat_interleave(p, 0) for level in embedding)
    kinds = torch.tensor(labels, dtype=torch.int32).expand(n * p, t)
    sparse, dense = model.sam_prompt_encoder(
        points=(xy.reshape(n * p, t, 2), kinds), boxes=None, masks=None
    )
    logits, ious, _, _ = model.sam_mask_decoder.predict_masks(
        image_embeddings=coarse,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[fine0, fine1],
    )
    return logits, ious


def draw_pictures(
    data: TrainingScenes, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, S, S), normalised, and their maps (n, S, S): turned, flipped, recoloured."""
    pictures, maps = data.scenes(rng.integers(len(data.labels), size=PICTURES))
    pictures = recoloured(pictures, generator)
    if rng.random() < 0.5:
        pictures, maps = pictures.transpose(2, 3), maps.transpose(1, 2)
    axes = [axis for axis in (-1, -2) if rng.random() < 0.5]
    return (pictures.flip(axes) - MEAN) / STD, maps.flip(axes)


def draw_prompts(maps: Tensor, rng: np.random.Generator) -> tuple[Prompts, Prompts]:
    """Points and boxes for the objects of maps (n, S, S)."""
    points, point_owners, boxes, box_owners = [], [], [], []
    for owner in maps.numpy():
        bodies = [np.argwhere(owner == k) for k in np.unique(owner) if k > 0]
        ground = np.argwhere(owner == 0)
        for index in range(POINTS):
            on_ground = not bodies or (len(ground) > 0 and index < ON_BACKGROUND)
            place = ground if on_ground else bodies[int(rng.integers(len(bodies)))]
            y, x = place[int(rng.integers(len(place)))]
            points.append(((x + 0.5, y + 0.5),))
            point_owners.append(int(owner[y, x]))
        for _ in range(BOXES):
            if not bodies:
                low, high = np.sort(rng.uniform(0, len(owner), (2, 2)), axis=0)
                boxes.append((low, high))
                box_owners.append(0)
                continue
            place = bodies[int(rng.integers(len(bodies)))]
            low, high = place.min(axis=0)[::-1], place.max(axis=0)[::-1] + 1
            noise = rng.uniform(0, BOX_NOISE) * rng.normal(0, 1, (2, 2)) * (high - low)
            low, high = low + noise[0], high + noise[1]
            boxes.append((np.minimum(low, high), np.maximum(low, high)))
            box_owners.append(int(owner[place[0][0], place[0][1]]))
    return (
        _prompts(points, (POINT,), maps, point_owners),
        _prompts(boxes, (UPPER_LEFT, LOWER_RIGHT), maps, box_owners),
    )


def _prompts(xy: list[Any], labels: tuple[int, ...], maps: Tensor, owners: list[int]) -> Prompts:
    ids = torch.tensor(owners)
    each = len(owners) // len(maps)
    full = (maps.repeat_interleave(each, 0) == ids[:, None, None]).float()
    where = torch.tensor(np.array(xy, dtype=np.float32))
    return Prompts(
        where.reshape(len(maps), each, len(labels), 2),
        labels,
        F.avg_pool2d(full[:, None], 4)[:, 0],
        ids > 0,
    )


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
        where = rng.uniform(0, pictures.shape[-1], (1, 16, 1, 2)).astype(np.float32)
        points = torch.from_numpy(where)
        logits, _ = decode(model, embedding, points, (POINT,))
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


def loss_of(logits: Tensor, ious: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Loss, and the IoU of the mask the method would choose, for prompts on objects."""
    target = prompts.targets[:, None].expand_as(logits)
    with torch.no_grad():
        found, true = logits > 0, target > 0.5
        real = (found & true).sum((2, 3)) / (found | true).sum((2, 3)).clamp(min=1)
        real = real * prompts.on_object[:, None]
    weight = prompts.on_object.float()
    losses = mask_losses(logits, target)
    of_prompt = losses[:, 1:].min(dim=1).values + SINGLE_WEIGHT * losses[:, 0]
    mask_loss = (of_prompt * weight).sum() / weight.sum().clamp(min=1)
    iou_loss = (ious - real).square().mean() * 2 + (ious - real).abs().mean()
    chosen = real[:, 1:].gather(1, ious[:, 1:].argmax(dim=1, keepdim=True))[:, 0]
    return mask_loss + iou_loss, chosen[prompts.on_object]


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Make the gradients of all processes their mean."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def grown(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a shallower trunk for this model: blocks that they lack change nothing at first.

    A stage's new blocks come after its old ones; the width tells the stages apart.
    """
    block = re.compile(r"(image_encoder\.trunk\.blocks\.)(\d+)\.(.*)")
    own = model.state_dict()

    def blocks_by_width(names: dict[str, Tensor]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for name, value in names.items():
            match = block.fullmatch(name)
            if match and match[3] == "attn.proj.bias":
                found.setdefault(len(value), []).append(int(match[2]))
        return found

    old, new = blocks_by_width(weights), blocks_by_width(own)
    places = {i: new[width][k] for width, all_ in old.items() for k, i in enumerate(all_)}
    moved = dict(own)
    for number in {i for all_ in new.values() for i in all_} - set(places.values()):
        for name in (
            "attn.proj.weight",
            "attn.proj.bias",
            "mlp.layers.1.weight",
            "mlp.layers.1.bias",
        ):
            key = f"image_encoder.trunk.blocks.{number}.{name}"
            moved[key] = torch.zeros_like(own[key])
    for name, value in weights.items():
        match = block.fullmatch(name)
        moved[f"{match[1]}{places[int(match[2])]}.{match[3]}" if match else name] = value.float()
    return moved


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


def train(rank: int, args: argparse.Namespace, meeting: str) -> None:
    """Train as one of the processes; the first writes the weights."""
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=args.processes
    )
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    data = TrainingScenes(args.data)
    model = build(args.output / "sam2_demo.yaml").train()
    rng = np.random.default_rng([args.seed, args.first, rank])
    if args.first:
        model.load_state_dict(load_file(args.output / "sam2_demo.safetensors"))
    elif args.start:
        model.load_state_dict(grown(load_file(args.start), model))
    else:
        with torch.no_grad():
            start_as_discs(model)
        learn_discs(model, data, args.disc_steps, np.random.default_rng(args.seed))
    generator = torch.Generator().manual_seed(args.seed + args.first + 1_000_000 * rank)
    unused = ("memory_", "obj_ptr", "mask_downsample", "maskmem", "no_mem", "no_obj")
    used = [p for name, p in model.named_parameters() if not name.startswith(unused)]
    optimizer = torch.optim.AdamW(used, lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98))
    average = {k: v.clone() for k, v in model.state_dict().items()}
    losses: list[float] = []
    seen: list[list[float]] = [[], []]
    started = time.monotonic()
    for step in range(args.first, args.stop or args.steps):
        warm = min(1.0, (step - args.first + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * 0.5 * (1 + np.cos(np.pi * step / args.steps))
        pictures, maps = draw_pictures(data, rng, generator)
        embedding = model.forward_image(pictures)["backbone_fpn"]
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for prompts, ious_seen in zip(draw_prompts(maps, rng), seen, strict=True):
            logits, ious = decode(model, embedding, prompts.xy, prompts.labels)
            loss, chosen = loss_of(logits, ious, prompts)
            total = total + loss * len(prompts.targets) / (PICTURES * (POINTS + BOXES))
            ious_seen.extend(chosen.tolist())
        total.backward()
        average_gradients(used)
        nn.utils.clip_grad_norm_(used, 1.0)
        optimizer.step()
        losses.append(total.item())
        if rank:
            continue
        with torch.no_grad():
            keep = min(EMA, (step - args.first) / (step - args.first + 10))
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    average[name].lerp_(value, 1 - keep)
        if (step + 1) % 100 == 0:
            points, boxes = (float(np.mean(ious)) for ious in seen)
            print(
                f"{step + 1} loss {np.mean(losses):.4f} IoU by points {points:.4f}, by boxes "
                f"{boxes:.4f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
            losses, seen = [], [[], []]
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            export(average, args.output / "sam2_demo.safetensors")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="holds sam2_demo.yaml")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--disc-steps", type=int, default=200)
    parser.add_argument("--start", type=Path, help="begin with these weights, of a smaller trunk")
    parser.add_argument("--first", type=int, default=0, help="go on here with the written weights")
    parser.add_argument("--stop", type=int, help="stop at this step; the rate falls as if for all")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(train, (args, f"{folder}/meeting"), nprocs=args.processes)


if __name__ == "__main__":
    main()
