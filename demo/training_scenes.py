"""Training pictures for the demo weights: the 16 training families and mixtures of them.

A mixture takes its outline, its texture and its colours from different training families, bends
the outline and turns the hues, so that a few families become many classes. Nothing of the other
families is used.

    python demo/training_scenes.py --output build/demo --scenes 6000 --processes 2

writes arrays that both trainings read: pictures and label maps at the SAM2 input size, and crops
of single objects as references. Seeded; 6,000 scenes are 4.7 GB. What divides a picture into
objects, and does not tell them apart, learns more from more mixtures (`--mixtures 4000`).
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ntt_ray.demo.families import FAMILIES, HOLE, TRAIN_FAMILIES, TRIM, Family, Outline, Part
from ntt_ray.demo.scenes import CROWD, EMPTY, FEW, SEVERAL, SIZES_WH, Scene, render_scene

SAM2_SIZE = 320
CROP_SIZE = 280
CONTEXT_RATIO = 0.2
MIXTURES = 400
KINDS_PER_SCENE = 4
OVERLAPS = (0.35, 1.0)  # as in the demo, and everywhere
LAYOUTS = ((EMPTY, 0.04), (FEW, 0.38), (SEVERAL, 0.38), (CROWD, 0.20))


def _bent(outline: Outline, rng: np.random.Generator) -> Outline:
    """The outline under a fixed smooth deformation."""
    stretch, taper, bend = rng.uniform(0.75, 1.33), rng.uniform(-0.3, 0.3), rng.uniform(-0.35, 0.35)
    ripple, waves = rng.uniform(0, 0.08), int(rng.integers(2, 7))

    def draw(own: np.random.Generator) -> list[Part]:
        parts = []
        for part in outline(own):
            x, y = part.points_xy.T
            x, y = x * (1 + taper * y) + bend * y**2, y / stretch**0.5
            factor = 1 + ripple * np.sin(waves * np.arctan2(y, x))
            parts.append(Part(np.stack([x * factor * stretch**0.5, y * factor], axis=1), part.role))
        return parts

    return draw


def _joined(upper: Outline, lower: Outline, rng: np.random.Generator) -> Outline:
    """An object of two: one outline over a second one in the trim's colour."""
    size, shift = rng.uniform(0.5, 0.7), rng.uniform(0.3, 0.45)

    def draw(own: np.random.Generator) -> list[Part]:
        below = [p for p in lower(own) if p.role != HOLE]
        above = upper(own)
        return [Part(p.points_xy * (1.2 - size) + (0, shift), TRIM) for p in below] + [
            Part(p.points_xy * size - (0, shift), p.role) for p in above
        ]

    return draw


def mixture(number: int, seed: int) -> Family:
    """One class made of training families; the same number and seed give the same class."""
    rng = np.random.default_rng([seed, 10, number])
    a, b, c, d = (FAMILIES[TRAIN_FAMILIES[i]] for i in rng.integers(len(TRAIN_FAMILIES), size=4))
    outline = _joined(a.outline, d.outline, rng) if rng.random() < 0.25 else a.outline
    if rng.random() < 0.7:
        outline = _bent(outline, rng)
    scale_x, scale_y = rng.uniform(0.7, 1.4, 2)
    turn, texture = rng.uniform(0, 1) < 0.5, b.texture
    hue = rng.uniform(0, 1)
    colours = tuple(
        (
            (h + hue) % 1.0,
            float(np.clip(s + rng.normal(0, 0.15), 0, 1)),
            float(np.clip(v + rng.normal(0, 0.12), 0.15, 1)),
        )
        for h, s, v in c.colours_hsv
    )
    if rng.random() < 0.5:
        colours = (colours[1], colours[0], colours[2])
    return Family(
        f"mixture{number}",
        outline,
        (lambda x, y: texture(y * scale_y, x * scale_x))
        if turn
        else (lambda x, y: texture(x * scale_x, y * scale_y)),
        colours,
    )


def all_classes(seed: int, mixtures: int = MIXTURES) -> list[Family]:
    """The training families, then the mixtures; a class's index is its label."""
    real = [FAMILIES[name] for name in TRAIN_FAMILIES]
    return real + [mixture(number, seed) for number in range(mixtures)]


def reference_crop(scene: Scene, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Crop of one object as the method makes it: (CROP_SIZE, CROP_SIZE, 3) and its mask, uint8."""
    mask = scene.masks_nhw[index]
    h, w = mask.shape
    ys, xs = np.nonzero(mask)
    x1, x2, y1, y2 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
    half = max(x2 - x1, y2 - y1) * (1 + CONTEXT_RATIO) * 0.5
    mid_x, mid_y = (x1 + x2) * 0.5, (y1 + y2) * 0.5
    rows = slice(max(0, int(mid_y - half)), min(h, int(mid_y + half)))
    columns = slice(max(0, int(mid_x - half)), min(w, int(mid_x + half)))
    image = torch.from_numpy(scene.image_rgb[rows, columns].astype(np.float32)).permute(2, 0, 1)[
        None
    ]
    soft = torch.from_numpy(mask[rows, columns].astype(np.float32))[None, None]
    size = (CROP_SIZE, CROP_SIZE)
    image = F.interpolate(image, size, mode="bicubic", align_corners=False).clamp(0, 255)
    soft = F.interpolate(soft, size, mode="bilinear", align_corners=False) * 255
    return image[0].permute(1, 2, 0).round().byte().numpy(), soft[0, 0].round().byte().numpy()


def _make(output: Path, seed: int, mixtures: int, start: int, stop: int) -> None:
    """Write the scenes `start` to `stop` as one part."""
    torch.set_num_threads(1)
    classes = all_classes(seed, mixtures)
    names = {family.name: label for label, family in enumerate(classes)}
    pictures, maps, crops, crop_masks, crop_labels, labels = [], [], [], [], [], []
    for number in range(start, stop):
        rng = np.random.default_rng([seed, 11, number])
        real = rng.random() < 0.3
        pool = (
            np.arange(len(TRAIN_FAMILIES)) if real else np.arange(len(TRAIN_FAMILIES), len(classes))
        )
        chosen = [classes[i] for i in rng.choice(pool, KINDS_PER_SCENE, replace=False)]
        layout = LAYOUTS[int(rng.choice(len(LAYOUTS), p=[share for _, share in LAYOUTS]))][0]
        layout = replace(layout, overlaps=OVERLAPS[int(rng.integers(len(OVERLAPS)))])
        scene = render_scene(rng, chosen, SIZES_WH[int(rng.integers(len(SIZES_WH)))], layout)
        own = [names[name] for name in scene.families]
        owner = (
            (scene.masks_nhw * np.arange(1, len(own) + 1)[:, None, None])
            .sum(axis=0)
            .astype(np.uint8)
        )
        size = (SAM2_SIZE, SAM2_SIZE)
        pictures.append(
            np.asarray(Image.fromarray(scene.image_rgb).resize(size, Image.Resampling.BICUBIC))
        )
        maps.append(np.asarray(Image.fromarray(owner).resize(size, Image.Resampling.NEAREST)))
        labels.append(own)
        clear = [
            i
            for i, share in enumerate(scene.visible)
            if share > 0.9 and scene.masks_nhw[i].sum() > 2500
        ]
        for index in clear[:2]:
            crop, soft = reference_crop(scene, index)
            crops.append(crop)
            crop_masks.append(soft)
            crop_labels.append(own[index])
    part = output / f"part{start:06d}"
    part.mkdir(parents=True, exist_ok=True)
    np.save(part / "pictures.npy", np.stack(pictures))
    np.save(part / "maps.npy", np.stack(maps))
    np.save(part / "crops.npy", np.stack(crops))
    np.save(part / "crop_masks.npy", np.stack(crop_masks))
    (part / "labels.json").write_text(json.dumps({"scenes": labels, "crops": crop_labels}))


class TrainingScenes:
    """The arrays written by this script, all parts as one, left on disk until read."""

    def __init__(self, folder: Path) -> None:
        self._parts = sorted(folder.glob("part*"))
        texts = [json.loads((part / "labels.json").read_text()) for part in self._parts]
        self.labels: list[list[int]] = [own for text in texts for own in text["scenes"]]
        self.crop_labels: list[int] = [label for text in texts for label in text["crops"]]
        self._arrays = {
            name: [np.load(part / f"{name}.npy", mmap_mode="r") for part in self._parts]
            for name in ("pictures", "maps", "crops", "crop_masks")
        }

    def _read(self, name: str, indices: np.ndarray) -> torch.Tensor:
        arrays = self._arrays[name]
        ends = np.cumsum([len(array) for array in arrays])
        rows = []
        for index in indices:
            part = int(np.searchsorted(ends, index, side="right"))
            rows.append(arrays[part][index - (ends[part] - len(arrays[part]))])
        return torch.from_numpy(np.stack(rows))

    def scenes(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (n, 3, S, S) in [0, 1] and their maps (n, S, S), 0 where no object is."""
        pictures = self._read("pictures", indices).permute(0, 3, 1, 2).float() / 255
        return pictures, self._read("maps", indices).long()

    def crops(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Reference crops (n, 3, C, C) in [0, 1] and their soft masks (n, C, C)."""
        images = self._read("crops", indices).permute(0, 3, 1, 2).float() / 255
        return images, self._read("crop_masks", indices).float() / 255


def recoloured(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change brightness, contrast and tint of each image a little, and swap its channels."""
    n = len(images)
    order = torch.randperm(3, generator=generator)
    gain = 1 + 0.25 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    tint = 1 + 0.12 * (torch.rand(n, 3, 1, 1, generator=generator) - 0.5)
    lift = 0.1 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    return (images[:, order] * gain * tint + lift).clamp(0, 1)


def main() -> None:
    """Read the command line and write all parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=6000)
    parser.add_argument("--per-part", type=int, default=500)
    parser.add_argument("--mixtures", type=int, default=MIXTURES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.processes) as pool:
        starts = range(0, args.scenes, args.per_part)
        jobs = [
            pool.submit(
                _make,
                args.output,
                args.seed,
                args.mixtures,
                start,
                min(start + args.per_part, args.scenes),
            )
            for start in starts
        ]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
