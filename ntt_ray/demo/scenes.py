"""Example scenes: seeded pictures of known objects, with the truth about every pixel.

Owns how scenes are composed and painted (background, light, places, overlaps, blur) and how they
are written: `images/*.jpg` and one `annotations.json` in COCO instances form. The same seed gives
the same bytes. What the objects look like comes from `families`; nothing here knows of models or
detections.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ntt_ray.demo.families import BODY, FAMILIES, HOLE, TRIM, Family, Hsv
from ntt_ray.masks import encode_mask, rle_area, rle_bbox_xywh

FloatImage = NDArray[np.float32]
Bools = NDArray[np.bool_]

SIZES_WH = ((640, 480), (480, 640), (480, 480), (400, 300), (320, 240), (560, 400), (360, 480))
JPEG_QUALITY = 90
SUPERSAMPLING = 3  # outlines are rendered this much larger, then averaged
MIN_VISIBLE = 0.6  # no object is hidden more than the rest of this
MIN_PIXELS = 120
PLACES = 20  # tried for each object


@dataclass(frozen=True)
class Layout:
    """How many objects a scene gets, and how large.

    Attributes:
        objects: Least and most objects.
        diameters: Least and largest object size, in shares of the image's shorter side.
        kinds: Most families in one scene.
        overlaps: Share of the objects that may lie on others; the rest find a free place.
    """

    objects: tuple[int, int]
    diameters: tuple[float, float]
    kinds: int
    overlaps: float = 0.35


EMPTY = Layout(objects=(0, 0), diameters=(0.0, 0.0), kinds=0)
FEW = Layout(objects=(1, 4), diameters=(0.28, 0.60), kinds=4)
SEVERAL = Layout(objects=(4, 8), diameters=(0.22, 0.44), kinds=4)
CROWD = Layout(objects=(9, 14), diameters=(0.18, 0.25), kinds=2)
LAYOUTS = ((EMPTY, 0.12), (FEW, 0.42), (SEVERAL, 0.34), (CROWD, 0.12))


@dataclass(frozen=True)
class Scene:
    """One painted picture and its objects.

    Attributes:
        image_rgb: uint8, shape (h, w, 3).
        families: Name of each object's family.
        masks_nhw: Visible pixels of each object, bool, shape (n, h, w); they never overlap.
        visible: Share of each object that is inside the picture and not hidden, in (0, 1].
    """

    image_rgb: NDArray[np.uint8]
    families: tuple[str, ...]
    masks_nhw: Bools
    visible: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.masks_nhw.shape != (len(self.families), *self.image_rgb.shape[:2]):
            raise ValueError(f"masks of shape {self.masks_nhw.shape} do not fit the scene")
        if len(self.visible) != len(self.families):
            raise ValueError("one visible share per object is needed")


# Colour and noise.


def _rgb(hsv: Hsv) -> FloatImage:
    hue, saturation, value = hsv
    shifts = np.array([5.0, 3.0, 1.0]) + hue * 6.0
    k = shifts % 6.0
    colour = value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return colour.astype(np.float32)


def _jittered(rng: np.random.Generator, hsv: Hsv, amount: float) -> Hsv:
    hue, saturation, value = np.asarray(hsv) + rng.normal(0, 1, 3) * (0.12, 0.5, 0.6) * amount
    return float(hue % 1.0), float(np.clip(saturation, 0, 1)), float(np.clip(value, 0.08, 1))


def _noise(rng: np.random.Generator, size_wh: tuple[int, int], cells: float) -> FloatImage:
    """Smooth noise of mean 0 and deviation 1, with `cells` bumps along the shorter side."""
    w, h = size_wh
    cell = min(w, h) / cells
    grid_hw = (max(2, round(h / cell) + 1), max(2, round(w / cell) + 1))
    values = rng.normal(0, 1, grid_hw).astype(np.float32)
    return np.asarray(Image.fromarray(values).resize((w, h), Image.Resampling.BICUBIC))


def _fractal(rng: np.random.Generator, size_wh: tuple[int, int], cells: float) -> FloatImage:
    octaves = [_noise(rng, size_wh, cells * 2**i) * 0.6**i for i in range(5)]
    total = np.sum(octaves, axis=0, dtype=np.float32)
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), dtype=np.float32)


# Backgrounds: each gives a mix of two colours per pixel, about in [0, 1].


def _ground(rng: np.random.Generator, size_wh: tuple[int, int]) -> FloatImage:
    return 0.5 + 0.25 * _fractal(rng, size_wh, float(rng.uniform(2, 9)))


def _weave(rng: np.random.Generator, size_wh: tuple[int, int]) -> FloatImage:
    x, y = np.meshgrid(np.arange(size_wh[0]), np.arange(size_wh[1]))
    pitch = rng.uniform(5, 12)
    thread = np.sin(2 * np.pi * x / pitch) * np.sin(2 * np.pi * y / pitch)
    return np.asarray(0.5 + 0.12 * thread + 0.1 * _fractal(rng, size_wh, 5), dtype=np.float32)


def _planks(rng: np.random.Generator, size_wh: tuple[int, int]) -> FloatImage:
    w, h = size_wh
    count = int(rng.integers(4, 8))
    row = (np.arange(h) * count / h)[:, None]
    tone = rng.normal(0, 0.16, count)[row.astype(int)]
    grain = _noise(rng, (w, h * 12), 60)[::12] + 0.5 * _noise(rng, (w, h * 30), 200)[::30]
    gap = np.minimum(row % 1.0, 1 - row % 1.0) < 0.02
    return np.asarray(0.55 + tone + 0.13 * grain - 0.5 * gap, dtype=np.float32)


def _sky(rng: np.random.Generator, size_wh: tuple[int, int]) -> FloatImage:
    fall = np.linspace(0.1, 0.8, size_wh[1], dtype=np.float32)[:, None]
    clouds = np.clip(_fractal(rng, size_wh, float(rng.uniform(1.5, 3))), 0, 2)
    return np.asarray(0.9 * fall + 0.2 * clouds, dtype=np.float32)


def _pebbles(rng: np.random.Generator, size_wh: tuple[int, int]) -> FloatImage:
    """Rounded cells: distance to the nearest of many random points, on a coarse grid."""
    w, h = size_wh[0] // 2, size_wh[1] // 2
    pitch = rng.uniform(0.05, 0.1) * min(size_wh) / 2
    rows, columns = int(h / pitch) + 3, int(w / pitch) + 3
    offset = rng.uniform(0.1, 0.9, (rows, columns, 2))
    tone = rng.normal(0.5, 0.18, (rows, columns))
    y, x = np.mgrid[0:h, 0:w] / pitch + 1
    nearest, shade = np.full((h, w), 9.0), np.zeros((h, w))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            i, j = y.astype(int) + dy, x.astype(int) + dx
            distance = np.hypot(i + offset[i, j, 0] - y, j + offset[i, j, 1] - x)
            shade = np.where(distance < nearest, tone[i, j], shade)
            nearest = np.minimum(distance, nearest)
    field = (shade + 0.15 - 0.5 * nearest**2).astype(np.float32)
    return np.asarray(Image.fromarray(field).resize(size_wh, Image.Resampling.BICUBIC))


def _tiles(rng: np.random.Generator, size_wh: tuple[int, int]) -> FloatImage:
    w, h = size_wh
    pitch = rng.uniform(0.12, 0.25) * min(w, h)
    y, x = np.mgrid[0:h, 0:w] / pitch
    tones = rng.normal(0, 0.1, (int(h / pitch) + 1, int(w / pitch) + 1))
    tone = tones[y.astype(int), x.astype(int)]
    joint = np.minimum(np.minimum(x % 1, 1 - x % 1), np.minimum(y % 1, 1 - y % 1)) < 0.025
    return np.asarray(0.6 + tone - 0.4 * joint + 0.08 * _fractal(rng, size_wh, 6), dtype=np.float32)


Background = Callable[[np.random.Generator, tuple[int, int]], FloatImage]
# Paint, hue range, and the greatest saturation: backgrounds stay calmer than objects.
_BACKGROUNDS: tuple[tuple[Background, tuple[float, float], float], ...] = (
    (_ground, (0.20, 0.36), 0.55),
    (_ground, (0.06, 0.13), 0.45),
    (_ground, (0.0, 1.0), 0.25),
    (_weave, (0.0, 1.0), 0.40),
    (_planks, (0.05, 0.10), 0.55),
    (_sky, (0.54, 0.62), 0.50),
    (_pebbles, (0.0, 1.0), 0.18),
    (_tiles, (0.0, 1.0), 0.25),
)


def _background(rng: np.random.Generator, size_wh: tuple[int, int]) -> FloatImage:
    paint, (low, high), saturation = _BACKGROUNDS[int(rng.integers(len(_BACKGROUNDS)))]
    hue = float(rng.uniform(low, high))
    dark = _rgb((hue, float(rng.uniform(0.1, saturation)), float(rng.uniform(0.18, 0.45))))
    light_hue = (hue + float(rng.normal(0, 0.03))) % 1.0
    light = _rgb((light_hue, float(rng.uniform(0.05, saturation)), float(rng.uniform(0.55, 0.9))))
    mix = np.clip(paint(rng, size_wh), 0, 1)[:, :, None]
    return np.asarray(dark * (1 - mix) + light * mix, dtype=np.float32)


# Objects.


@dataclass(frozen=True)
class _Sprite:
    """A painted object, ready to be put at (left, top).

    Attributes:
        colour: Shape (h, w, 3), in [0, 1].
        alpha: Coverage in [0, 1], shape (h, w).
    """

    colour: FloatImage
    alpha: FloatImage


def _shares(image: Image.Image) -> FloatImage:
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _blurred(alpha: FloatImage, radius: float) -> FloatImage:
    image = Image.fromarray((alpha * 255).astype(np.uint8))
    return _shares(image.filter(ImageFilter.GaussianBlur(radius)))


def _paint_object(
    rng: np.random.Generator, family: Family, diameter: float, light_xy: tuple[float, float]
) -> _Sprite:
    """Render one object with its own turn, stretch, colours and shading."""
    angle, stretch, shear = rng.uniform(0, 2 * np.pi), rng.uniform(0.88, 1.12), rng.normal(0, 0.06)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[stretch, shear], [0, 1 / stretch]]) * (diameter / 2)
    parts = [(part.points_xy @ matrix.T, part.role) for part in family.outline(rng)]

    # Outline: coverage of the whole object and of its trim.
    solid = np.concatenate([points for points, role in parts if role != HOLE])
    low = np.floor(solid.min(axis=0)) - 3
    w, h = (int(v) for v in np.ceil(solid.max(axis=0)) + 3 - low)
    layers = [Image.new("L", (w * SUPERSAMPLING, h * SUPERSAMPLING)) for _ in range(2)]
    for points, role in parts:
        corners = [(float(x), float(y)) for x, y in (points - low) * SUPERSAMPLING]
        for image, fills in zip(layers, ((BODY, TRIM), (TRIM,)), strict=True):
            ImageDraw.Draw(image).polygon(corners, fill=255 if role in fills else 0)
    alpha, trim = (_shares(image.reduce(SUPERSAMPLING)) for image in layers)

    # Surface: the family's texture in object coordinates, in this object's colours.
    ys, xs = np.mgrid[0:h, 0:w]
    inverse = np.linalg.inv(matrix)
    x, y = xs + 0.5 + low[0], ys + 0.5 + low[1]
    mix = family.texture(*(row[0] * x + row[1] * y for row in inverse))
    first, second, third = (_rgb(_jittered(rng, hsv, 0.2)) for hsv in family.colours_hsv)
    mix3, trim3 = mix[:, :, None].astype(np.float32), trim[:, :, None]
    colour = (first * (1 - mix3) + second * mix3) * (1 - trim3) + third * trim3

    # Light: a rounded rim that faces the light or turns away from it, and some unevenness.
    height = _blurred(alpha, max(1.0, diameter * 0.04))
    slope_y, slope_x = np.gradient(height)
    shade = 1.0 - (slope_x * light_xy[0] + slope_y * light_xy[1]) * diameter * 0.10
    shade = shade * (0.62 + 0.38 * np.clip(height * 1.6, 0, 1))
    shade = shade + 0.04 * _noise(rng, (w, h), 3)
    shade = shade + 0.12 * (x * light_xy[0] + y * light_xy[1]) / diameter
    colour = np.clip(colour * np.clip(shade, 0.35, 1.5)[:, :, None], 0, 1)
    return _Sprite(colour.astype(np.float32), alpha)


_Part = tuple[slice, slice]  # rows and columns


class _Canvas:
    """A picture in the making, and which object each pixel shows."""

    def __init__(self, image: FloatImage, light_xy: tuple[float, float]) -> None:
        self.image = image
        self.light_xy = light_xy
        self.owner: NDArray[np.int32] = np.zeros(image.shape[:2], dtype=np.int32)
        self.full_areas: list[int] = []

    def place(self, sprite: _Sprite, left: int, top: int, *, alone: bool) -> bool:
        """Lay the object on top, unless it or one below would be hidden too much.

        With `alone`, no other object may lie below it.
        """
        inside, cut = self._overlap(sprite.alpha, left, top)
        alpha = sprite.alpha[cut]
        if not alpha.size:
            return False
        solid = alpha >= 0.5
        full = int((sprite.alpha >= 0.5).sum())
        if solid.sum() < max(MIN_PIXELS, 0.6 * full):
            return False
        if alone and self.owner[inside][alpha > 0].any():
            return False
        owner = self.owner.copy()
        owner[inside][solid] = len(self.full_areas) + 1
        left_over = np.bincount(owner.ravel(), minlength=len(self.full_areas) + 2)[1:-1]
        if (left_over < np.maximum(MIN_PIXELS, MIN_VISIBLE * np.array(self.full_areas))).any():
            return False
        self.owner = owner
        self.full_areas.append(full)
        self._shadow(sprite, left, top)
        weight = alpha[:, :, None]
        self.image[inside] = self.image[inside] * (1 - weight) + sprite.colour[cut] * weight
        return True

    def _shadow(self, sprite: _Sprite, left: int, top: int) -> None:
        reach = max(2.0, 0.035 * max(sprite.alpha.shape))
        pad = int(4 * reach)
        soft = _blurred(np.pad(sprite.alpha, pad), reach)
        left += int(self.light_xy[0] * reach) - pad
        top += int(self.light_xy[1] * reach) - pad
        inside, cut = self._overlap(soft, left, top)
        self.image[inside] *= 1 - 0.5 * soft[cut][:, :, None]

    def _overlap(self, alpha: FloatImage, left: int, top: int) -> tuple[_Part, _Part]:
        """What an object at (left, top) covers: that part of the picture, and of the object."""
        h, w = self.owner.shape
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + alpha.shape[1], w), min(top + alpha.shape[0], h)
        x2, y2 = max(x1, x2), max(y1, y2)
        inside = slice(y1, y2), slice(x1, x2)
        return inside, (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))


def render_scene(
    rng: np.random.Generator, families: Sequence[Family], size_wh: tuple[int, int], layout: Layout
) -> Scene:
    """Paint one scene.

    Args:
        rng: Decides everything; the same state gives the same scene.
        families: Kinds of objects that the scene may show.
        size_wh: Width and height in pixels.
        layout: Number and size of objects.

    Returns:
        The scene. An object for which no place is found is left out.
    """
    w, h = size_wh
    sun = rng.uniform(0, 2 * np.pi)
    light_xy = float(np.cos(sun)), float(np.sin(sun))
    canvas = _Canvas(_background(rng, size_wh), light_xy)
    count = int(rng.integers(layout.objects[0], layout.objects[1] + 1))
    names: list[str] = []
    if count:
        kinds = min(int(rng.integers(1, layout.kinds + 1)), len(families))
        chosen = rng.choice(len(families), size=kinds, replace=False)
        largest = float(rng.uniform(*layout.diameters))
    for _ in range(count):
        family = families[int(chosen[int(rng.integers(len(chosen)))])]
        diameter = float(rng.uniform(layout.diameters[0], largest)) * min(w, h)
        sprite = _paint_object(rng, family, diameter, light_xy)
        sprite_h, sprite_w = sprite.alpha.shape
        alone = layout.overlaps < 1 and float(rng.random()) >= layout.overlaps
        for _ in range(PLACES):
            x = int(rng.integers(-sprite_w // 8, max(1, w - sprite_w * 7 // 8)))
            y = int(rng.integers(-sprite_h // 8, max(1, h - sprite_h * 7 // 8)))
            if canvas.place(sprite, x, y, alone=alone):
                names.append(family.name)
                break

    # Camera: fall of light, tint, a little blur and grain.
    ys, xs = np.mgrid[0:h, 0:w]
    across = ((xs / w - 0.5) * light_xy[0] + (ys / h - 0.5) * light_xy[1]).astype(np.float32)
    tint = (1 + rng.normal(0, 0.035, 3)).astype(np.float32)
    image = canvas.image * (float(rng.uniform(0.88, 1.08)) - 0.3 * across[:, :, None]) * tint
    image = image + rng.normal(0, 0.012, image.shape).astype(np.float32)
    picture = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.7))))

    ids = np.arange(1, len(names) + 1)[:, None, None]
    masks = canvas.owner[None] == ids
    shares = masks.sum(axis=(1, 2)) / np.array(canvas.full_areas or [1])[: len(names)]
    return Scene(np.asarray(picture), tuple(names), masks, tuple(float(s) for s in shares))


# Writing.


def write_scenes(output_dir: Path, *, families: Sequence[str], images: int, seed: int) -> Path:
    """Write scenes and their complete instance annotations.

    Args:
        output_dir: Gets `images/*.jpg` and `annotations.json`.
        families: Names out of `FAMILIES`; category ids are 1, 2, ... in this order.
        images: Number of scenes; about one in eight shows no object.
        seed: The same seed gives the same bytes.

    Returns:
        Path of the annotations.

    Raises:
        ValueError: For an unknown or repeated family, or no image.
    """
    kinds = _known(families)
    if images < 1:
        raise ValueError(f"at least one image is needed, not {images}")
    rng = np.random.default_rng([seed, 1])
    # Shares are dealt out exactly, so that few images have every layout too.
    shares = np.cumsum([share for _, share in LAYOUTS])
    middles = (np.arange(images) + 0.5) / images * shares[-1]
    picks = rng.permutation(np.searchsorted(shares, middles))
    writer = _Writer(output_dir, families)
    for number, pick in enumerate(picks):
        size_wh = SIZES_WH[int(rng.integers(len(SIZES_WH)))]
        own = np.random.default_rng([seed, 2, number])
        scene = render_scene(own, kinds, size_wh, LAYOUTS[pick][0])
        writer.add(scene, range(len(scene.families)))
    return writer.finish("scenes")


def write_references(output_dir: Path, *, families: Sequence[str], shots: int, seed: int) -> Path:
    """Write reference images: one clear object is annotated in each.

    Args:
        output_dir: Gets `images/*.jpg` and `annotations.json`.
        families: Names out of `FAMILIES`; category ids are 1, 2, ... in this order.
        shots: References per family; each has its own image.
        seed: The same seed gives the same bytes.

    Returns:
        Path of the annotations: exactly `shots` per family.

    Raises:
        ValueError: For an unknown or repeated family, or no shot.
    """
    kinds = _known(families)
    if shots < 1:
        raise ValueError(f"at least one reference per family is needed, not {shots}")
    writer = _Writer(output_dir, families)
    for index, family in enumerate(kinds):
        for shot in range(shots):
            scene, chosen = _reference_scene(np.random.default_rng([seed, 3, index, shot]), family)
            writer.add(scene, [chosen])
    return writer.finish("references")


def _reference_scene(rng: np.random.Generator, family: Family) -> tuple[Scene, int]:
    """A scene with one whole object of the family well inside the picture, and its index."""
    layout = Layout(objects=(1, 2), diameters=(0.35, 0.6), kinds=1)
    while True:
        scene = render_scene(rng, [family], SIZES_WH[int(rng.integers(len(SIZES_WH)))], layout)
        for index in np.argsort([-mask.sum() for mask in scene.masks_nhw]):
            mask = scene.masks_nhw[index]
            if scene.visible[index] > 0.98 and mask.sum() == mask[10:-10, 10:-10].sum():
                return scene, int(index)


def _known(names: Sequence[str]) -> list[Family]:
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(f"families must be known and different, not {list(names)}")
    return [FAMILIES[name] for name in names]


class _Writer:
    """Collects images and annotations; the annotations are written last."""

    def __init__(self, output_dir: Path, families: Sequence[str]) -> None:
        self._dir = output_dir
        self._ids = {name: number for number, name in enumerate(families, start=1)}
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        (output_dir / "images").mkdir(parents=True, exist_ok=True)

    def add(self, scene: Scene, annotated: Sequence[int]) -> None:
        number = len(self._images) + 1
        name = f"{number:05d}.jpg"
        Image.fromarray(scene.image_rgb).save(self._dir / "images" / name, quality=JPEG_QUALITY)
        h, w = scene.image_rgb.shape[:2]
        self._images.append({"id": number, "file_name": name, "width": w, "height": h})
        for index in annotated:
            rle = encode_mask(scene.masks_nhw[index])
            self._annotations.append({
                "id": len(self._annotations) + 1,
                "image_id": number,
                "category_id": self._ids[scene.families[index]],
                "segmentation": rle,
                "area": rle_area(rle),
                "bbox": rle_bbox_xywh(rle),
                "iscrowd": 0,
            })  # fmt: skip

    def finish(self, title: str) -> Path:
        content = {
            "info": {"description": f"ntt-ray demo {title}", "version": "1"},
            "licenses": [],
            "images": self._images,
            "annotations": self._annotations,
            "categories": [
                {"id": number, "name": name, "supercategory": "demo"}
                for name, number in self._ids.items()
            ],
        }
        path = self._dir / "annotations.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path
