"""The families of example objects: what each one looks like.

Owns the outline, surface texture and colours of every family, in an object's own coordinates:
x to the right, y down, the object inside the square [-1, 1] x [-1, 1].
Knows nothing of images, light, places or files; `scenes` paints with what is defined here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Concatenate, ParamSpec

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Field = NDArray[np.float64]
Hsv = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One polygon of an outline; parts are laid on top of each other in order.

    Attributes:
        points_xy: Corners, shape (n, 2).
        role: BODY is painted with the family's texture, TRIM with its third colour, HOLE cuts.
    """

    points_xy: Points
    role: int


BODY, TRIM, HOLE = 0, 1, -1

Outline = Callable[[np.random.Generator], list[Part]]
Texture = Callable[[Field, Field], Field]
Numbers = ParamSpec("Numbers")


@dataclass(frozen=True)
class Family:
    """What all objects of one kind share.

    Attributes:
        name: Category name.
        outline: Gives the parts of one object; small differences come from the generator.
        texture: Maps object coordinates to a mix in [0, 1] of the first two colours.
        colours_hsv: Two texture colours and the trim's, hue, saturation and value in [0, 1].
    """

    name: str
    outline: Outline
    texture: Texture
    colours_hsv: tuple[Hsv, Hsv, Hsv]


# Outlines: helpers first, then one function per family.


def _ellipse(cx: float, cy: float, rx: float, ry: float, count: int = 48) -> Points:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _polygon(*corners: tuple[float, float]) -> Points:
    return np.array(corners, dtype=np.float64)


def _box(x1: float, y1: float, x2: float, y2: float) -> Points:
    return _polygon((x1, y1), (x2, y1), (x2, y2), (x1, y2))


def _polar(radius: Field) -> Points:
    """Closed curve from radii at equal angles, starting at the top."""
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False) - np.pi / 2
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _arc(cx: float, cy: float, r: float, start: float, stop: float, width: float) -> Points:
    """Band of a circle between two angles (radians, clockwise from the right)."""
    angle = np.linspace(start, stop, 32)
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outer, inner = rim * (r + width / 2), rim * (r - width / 2)
    band: Points = np.concatenate([outer, inner[::-1]]) + np.array([cx, cy])
    return band


def _mirrored(points_xy: Points) -> Points:
    return points_xy * (-1.0, 1.0)


def _gear(rng: np.random.Generator) -> list[Part]:
    teeth = int(rng.integers(8, 11))
    step = np.tile(np.repeat([0.96, 0.74], 3), teeth)
    hole = rng.uniform(0.22, 0.3)
    return [Part(_polar(step), BODY), Part(_ellipse(0, 0, hole, hole), HOLE)]


def _star(rng: np.random.Generator) -> list[Part]:
    inner = rng.uniform(0.42, 0.5)
    return [Part(_polar(np.tile([1.0, inner], 5)), BODY)]


def _leaf(rng: np.random.Generator) -> list[Part]:
    t = np.linspace(0, 1, 32)
    width = rng.uniform(0.5, 0.6) * np.sin(np.pi * t**0.8) * (1 + 0.06 * np.cos(26 * t))
    side = np.stack([width, -0.95 + 1.6 * t], axis=1)
    blade = np.concatenate([side, _mirrored(side)[::-1]])
    return [Part(_box(-0.06, 0.5, 0.06, 0.98), TRIM), Part(blade, BODY)]


def _bottle(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.38, 0.44)
    body = _polygon(
        (-0.16, -0.7), (0.16, -0.7), (0.17, -0.4), (w, -0.1), (w, 0.9), (w - 0.08, 0.98),
        (0.08 - w, 0.98), (-w, 0.9), (-w, -0.1), (-0.17, -0.4),
    )  # fmt: skip
    return [Part(body, BODY), Part(_box(-0.2, -0.98, 0.2, -0.68), TRIM)]


def _fish(rng: np.random.Generator) -> list[Part]:
    body = _ellipse(-0.15, 0, 0.8, rng.uniform(0.46, 0.54))
    tail = _polygon((0.45, 0), (0.98, -0.5), (0.84, 0), (0.98, 0.5))
    fin = _polygon((-0.3, -0.35), (0.05, -0.8), (0.25, -0.3))
    eye = _ellipse(-0.62, -0.12, 0.09, 0.09)
    return [Part(tail, TRIM), Part(fin, TRIM), Part(body, BODY), Part(eye, TRIM)]


def _mushroom(rng: np.random.Generator) -> list[Part]:
    angle = np.linspace(np.pi, 2 * np.pi, 32)
    cap = np.stack([0.95 * np.cos(angle), 0.1 + 1.0 * np.sin(angle)], axis=1)
    w = rng.uniform(0.24, 0.32)
    stem = _polygon((-w, 0), (w, 0), (w + 0.08, 0.95), (-w - 0.08, 0.95))
    return [Part(stem, TRIM), Part(cap, BODY)]


def _ring(rng: np.random.Generator) -> list[Part]:
    hole = rng.uniform(0.36, 0.46)
    return [Part(_ellipse(0, 0, 0.95, 0.95), BODY), Part(_ellipse(0, 0, hole, hole), HOLE)]


def _crescent(rng: np.random.Generator) -> list[Part]:
    shift = rng.uniform(0.42, 0.5)
    return [Part(_ellipse(0, 0, 0.95, 0.95), BODY), Part(_ellipse(shift, 0, 0.7, 0.7), HOLE)]


def _heart(rng: np.random.Generator) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    curve = np.stack([16 * np.sin(t), -y - 2.5], axis=1) / 16.5
    return [Part(curve * (1.0, rng.uniform(0.92, 1.04)), BODY)]


def _hammer(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.14, 0.18)
    head = _polygon(
        (-0.75, -0.92), (0.35, -0.92), (0.85, -0.55), (0.7, -0.45), (0.35, -0.42), (-0.75, -0.42)
    )
    return [Part(_box(-w - 0.1, -0.45, w - 0.1, 0.98), TRIM), Part(head, BODY)]


def _butterfly(rng: np.random.Generator) -> list[Part]:
    tip = rng.uniform(0.8, 0.92)
    upper = _polygon(
        (0.04, 0.05), (0.3, -0.6), (0.75, -tip), (0.97, -0.6), (0.85, -0.1), (0.4, 0.12)
    )
    lower = _polygon((0.04, 0.0), (0.5, 0.05), (0.8, 0.35), (0.65, 0.8), (0.35, 0.7), (0.08, 0.2))
    wings = [Part(p, BODY) for p in (upper, lower, _mirrored(upper), _mirrored(lower))]
    return [*wings, Part(_ellipse(0, 0.05, 0.11, 0.62), TRIM)]


def _cross(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.3, 0.36)
    return [Part(_box(-w, -0.95, w, 0.95), BODY), Part(_box(-0.95, -w, 0.95, w), BODY)]


def _arrow(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.2, 0.26)
    head = _polygon((0, -0.98), (0.72, -0.12), (-0.72, -0.12))
    return [Part(_box(-w, -0.2, w, 0.95), BODY), Part(head, BODY)]


def _beetle(rng: np.random.Generator) -> list[Part]:
    body = _ellipse(0, 0.15, rng.uniform(0.66, 0.74), 0.8)
    return [
        Part(_ellipse(0, -0.62, 0.4, 0.34), TRIM),
        Part(body, BODY),
        Part(_box(-0.04, -0.6, 0.04, 0.95), TRIM),
    ]


def _carrot(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.36, 0.44)
    root = _polygon(
        (-w, -0.35), (-0.2, -0.5), (0.2, -0.5), (w, -0.35), (0.22, 0.45), (0, 0.98), (-0.22, 0.45)
    )
    tuft = _polygon((0, -0.4), (-0.45, -0.85), (-0.2, -0.8), (0, -1.0), (0.2, -0.8), (0.45, -0.85))
    return [Part(tuft, TRIM), Part(root, BODY)]


def _clover(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform(0.4, 0.46)
    lobes = [(-0.45, -0.1), (0.45, -0.1), (0.0, -0.55)]
    stem = _polygon((-0.06, 0), (0.06, 0), (0.22, 0.95), (0.02, 0.95))
    return [Part(stem, TRIM), *(Part(_ellipse(x, y, r, r), BODY) for x, y in lobes)]


def _key(rng: np.random.Generator) -> list[Part]:
    hole = rng.uniform(0.15, 0.2)
    return [
        Part(_box(-0.2, -0.3, 0.2, 0.98), BODY),
        Part(_box(0.1, 0.36, 0.5, 0.6), BODY),
        Part(_box(0.1, 0.74, 0.58, 0.98), BODY),
        Part(_ellipse(0, -0.46, 0.56, 0.53), BODY),
        Part(_ellipse(0, -0.55, hole, hole), HOLE),
    ]


def _mug(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.5, 0.58)
    cup = _polygon((-0.85, -0.75), (w - 0.2, -0.75), (w - 0.26, 0.8), (-0.78, 0.8))
    handle = _arc(w - 0.26, 0.0, 0.42, -np.pi / 2, np.pi / 2, 0.2)
    return [Part(handle, TRIM), Part(cup, BODY), Part(_box(-0.87, -0.8, w - 0.18, -0.62), TRIM)]


def _flower(rng: np.random.Generator) -> list[Part]:
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    petals = 0.72 + rng.uniform(0.2, 0.26) * np.cos(6 * angle)
    return [Part(_polar(petals), BODY), Part(_ellipse(0, 0, 0.28, 0.28), TRIM)]


def _flash(rng: np.random.Generator) -> list[Part]:
    x = rng.uniform(-0.16, -0.08)
    zigzag = _polygon(
        (-0.1, -0.98), (0.8, -0.98), (0.42, -0.34), (0.84, -0.34),
        (-0.45, 0.98), (x, 0.22), (-0.7, 0.22),
    )  # fmt: skip
    return [Part(zigzag, BODY)]


def _pine(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.68, 0.78)
    crown = _polygon(
        (0, -0.98), (0.42, -0.42), (0.22, -0.42), (0.58, 0.12), (0.32, 0.12), (w, 0.68),
        (-w, 0.68), (-0.32, 0.12), (-0.58, 0.12), (-0.22, -0.42), (-0.42, -0.42),
    )  # fmt: skip
    return [Part(_box(-0.16, 0.6, 0.16, 0.98), TRIM), Part(crown, BODY)]


def _umbrella(rng: np.random.Generator) -> list[Part]:
    rim = np.linspace(1, -1, 49)
    scallop = np.stack([0.97 * rim, 0.08 - 0.14 * np.abs(np.sin(2 * np.pi * rim))], axis=1)
    angle = np.linspace(np.pi, 2 * np.pi, 32)
    dome = np.stack([0.97 * np.cos(angle), 0.08 + 0.95 * np.sin(angle)], axis=1)
    reach = rng.uniform(0.16, 0.22)
    hook = _arc(reach, 0.72, reach, 0, np.pi, 0.22)
    canopy = Part(np.concatenate([dome, scallop]), BODY)
    return [Part(_box(-0.11, 0, 0.11, 0.74), TRIM), Part(hook, TRIM), canopy]


def _padlock(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.66, 0.74)
    shackle = _arc(0, -0.3, 0.42, np.pi, 2 * np.pi, 0.22)
    legs = [Part(_box(x - 0.11, -0.32, x + 0.11, 0), TRIM) for x in (-0.42, 0.42)]
    body = _box(-w, -0.1, w, 0.95)
    return [Part(shackle, TRIM), *legs, Part(body, BODY), Part(_ellipse(0, 0.4, 0.13, 0.16), TRIM)]


def _rocket(rng: np.random.Generator) -> list[Part]:
    t = np.linspace(0, 1, 24)
    side = np.stack(
        [rng.uniform(0.34, 0.4) * np.sin(np.pi * (0.05 + 0.8 * t)), -1 + 1.7 * t], axis=1
    )
    hull = np.concatenate([side, _mirrored(side)[::-1]])
    fin = _polygon((0.2, 0.2), (0.66, 0.75), (0.62, 0.98), (0.15, 0.68))
    flame = _polygon((-0.16, 0.65), (0.16, 0.65), (0, 0.98))
    return [
        *(Part(p, TRIM) for p in (flame, fin, _mirrored(fin))),
        Part(hull, BODY),
        Part(_ellipse(0, -0.25, 0.15, 0.15), TRIM),
    ]


# Textures: functions of object coordinates and a few numbers, which `_maker` takes beforehand.


def _maker(
    texture: Callable[Concatenate[Field, Field, Numbers], Field],
) -> Callable[Numbers, Texture]:
    """Give the texture of object coordinates alone, for the numbers that it is called with."""
    return lambda *numbers, **named: lambda x, y: texture(x, y, *numbers, **named)


def _soft(wave: Field, edge: float = 3.0) -> Field:
    """Turn a wave in [-1, 1] into a two-tone pattern with soft borders, in [0, 1]."""
    pattern: Field = np.clip(0.5 + 0.5 * edge * wave, 0.0, 1.0)
    return pattern


@_maker
def stripes(x: Field, y: Field, frequency: float, angle: float, bend: float = 0.0) -> Field:
    """Parallel stripes, wavy when `bend` is above 0."""
    c, s = np.cos(angle), np.sin(angle)
    along, across = c * x + s * y, c * y - s * x
    return _soft(np.sin(np.pi * frequency * (across + bend * np.sin(np.pi * 2.5 * along))))


@_maker
def zigzag(x: Field, y: Field, frequency: float, height: float) -> Field:
    """Stripes that run in sharp zigzags."""
    tooth = np.abs((x * 2.2) % 1.0 - 0.5)
    return _soft(np.sin(np.pi * frequency * (y + height * tooth)))


@_maker
def checks(x: Field, y: Field, frequency: float, angle: float = 0.0) -> Field:
    """A chess board."""
    c, s = np.cos(angle), np.sin(angle)
    u, v = c * x + s * y, c * y - s * x
    return _soft(np.sin(np.pi * frequency * u) * np.sin(np.pi * frequency * v), 6.0)


def _bricklaid(x: Field, y: Field) -> tuple[Field, Field]:
    """Place in its cell, from 0 to 1, in a grid of cells whose every other row is shifted."""
    return (x + 0.5 * (np.floor(y) % 2)) % 1.0, y % 1.0


@_maker
def dots(x: Field, y: Field, frequency: float, size: float) -> Field:
    """Round spots in offset rows; `size` in units of the spacing."""
    u, v = _bricklaid(x * frequency, y * frequency)
    return _soft((size - np.hypot(u - 0.5, v - 0.5)) * 6.0, 1.0)


@_maker
def circles(x: Field, y: Field, frequency: float) -> Field:
    """Concentric rings."""
    return _soft(np.sin(np.pi * frequency * np.hypot(x, y)))


@_maker
def rays(x: Field, y: Field, count: int, twist: float = 0.0) -> Field:
    """Rays from the middle; a spiral when `twist` is not 0."""
    return _soft(np.sin(count * np.arctan2(y, x) + twist * np.hypot(x, y)))


@_maker
def scales(x: Field, y: Field, frequency: float) -> Field:
    """Overlapping round scales."""
    u, v = _bricklaid(x * frequency, y * frequency)
    return _soft(np.abs(np.hypot(u - 0.5, v) - 0.55) * 6.0 - 0.6, 1.0)


@_maker
def bricks(x: Field, y: Field, frequency: float) -> Field:
    """Brickwork: thin joints of the second colour."""
    u, v = _bricklaid(x * frequency * 0.55, y * frequency)
    joint = np.minimum(np.minimum(u, 1 - u) / 0.55, np.minimum(v, 1 - v))
    return _soft(1.0 - joint * 9.0, 1.0)


@_maker
def grid(x: Field, y: Field, frequency: float, width: float) -> Field:
    """Crossing thin lines, as on quilts and cages."""
    lines = np.maximum(np.cos(np.pi * frequency * (x + y)), np.cos(np.pi * frequency * (x - y)))
    return _soft((lines - 1.0 + width) * 5.0, 1.0)


@_maker
def veins(x: Field, y: Field, frequency: float) -> Field:
    """A midrib with side veins, as on a leaf."""
    side = np.cos(np.pi * frequency * (y + 0.9 * np.abs(x)))
    return np.maximum(_soft(side * 4 - 3.0, 1.0), _soft(1 - np.abs(x) * 16, 1.0))


@_maker
def marble(x: Field, y: Field, frequency: float, seed: int) -> Field:
    """Irregular patches from a few fixed waves."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(0, frequency, (7, 2))
    phases = rng.uniform(0, 2 * np.pi, 7)
    total = sum(np.sin(a * x + b * y + p) for (a, b), p in zip(waves, phases, strict=True))
    return _soft(np.asarray(total) / 2.0)


@_maker
def bands(_: Field, y: Field, edges: Sequence[float]) -> Field:
    """A few broad bands across the object, changing colour at each of `edges` (values of y)."""
    wave = np.ones_like(y)
    for edge in edges:
        wave = wave * np.clip((y - edge) * 14.0, -1.0, 1.0)
    return _soft(wave, 1.0)


_TABLE: tuple[tuple[str, Outline, Texture, tuple[Hsv, Hsv, Hsv]], ...] = (
    ("gear", _gear, circles(7.0), ((0.60, 0.12, 0.72), (0.60, 0.20, 0.42), (0, 0, 0.3))),
    ("star", _star, rays(10), ((0.14, 0.85, 0.97), (0.08, 0.85, 0.85), (0, 0, 0.9))),
    ("leaf", _leaf, veins(5.0), ((0.30, 0.75, 0.60), (0.22, 0.60, 0.85), (0.09, 0.6, 0.4))),
    ("bottle", _bottle, bands((-0.05, 0.55)),
     ((0.40, 0.75, 0.45), (0.12, 0.15, 0.95), (0.02, 0.7, 0.6))),
    ("fish", _fish, scales(5.0), ((0.06, 0.85, 0.98), (0.02, 0.75, 0.65), (0.12, 0.7, 0.95))),
    ("mushroom", _mushroom, dots(2.6, 0.3),
     ((0.99, 0.85, 0.75), (0.0, 0.03, 0.97), (0.11, 0.22, 0.92))),
    ("ring", _ring, rays(9, 4.0), ((0.92, 0.45, 0.95), (0.85, 0.7, 0.6), (0, 0, 0.9))),
    ("crescent", _crescent, marble(5.0, 1), ((0.15, 0.35, 0.95), (0.12, 0.45, 0.7), (0, 0, 0.8))),
    ("heart", _heart, checks(4.5, 0.78), ((0.96, 0.75, 0.85), (0.94, 0.3, 0.98), (0, 0, 0.9))),
    ("hammer", _hammer, stripes(7.0, 1.57),
     ((0.58, 0.15, 0.55), (0.58, 0.08, 0.85), (0.08, 0.65, 0.65))),
    ("butterfly", _butterfly, circles(4.5),
     ((0.75, 0.6, 0.85), (0.62, 0.8, 0.75), (0.7, 0.3, 0.2))),
    ("cross", _cross, bricks(3.5), ((0.03, 0.65, 0.72), (0.08, 0.15, 0.92), (0, 0, 0.9))),
    ("arrow", _arrow, stripes(6.0, 0.78), ((0.16, 0.9, 0.95), (0.1, 0.3, 0.18), (0, 0, 0.2))),
    ("beetle", _beetle, dots(2.2, 0.33), ((0.36, 0.8, 0.55), (0.16, 0.75, 0.95), (0.4, 0.5, 0.18))),
    ("carrot", _carrot, stripes(5.0, 0.0, 0.08),
     ((0.07, 0.92, 0.95), (0.05, 0.95, 0.72), (0.3, 0.8, 0.5))),
    ("clover", _clover, grid(5.0, 0.3), ((0.46, 0.7, 0.62), (0.40, 0.25, 0.95), (0.35, 0.7, 0.4))),
    ("key", _key, stripes(8.0, 0.5), ((0.13, 0.75, 0.92), (0.10, 0.80, 0.70), (0, 0, 0.9))),
    ("mug", _mug, zigzag(4.5, 0.7), ((0.58, 0.80, 0.80), (0.56, 0.30, 0.97), (0.6, 0.8, 0.55))),
    ("flower", _flower, rays(6, 0.0), ((0.83, 0.6, 0.92), (0.90, 0.25, 0.98), (0.13, 0.85, 0.95))),
    ("flash", _flash, marble(7.0, 2), ((0.73, 0.50, 0.95), (0.75, 0.70, 0.72), (0, 0, 0.9))),
    ("pine", _pine, scales(4.0), ((0.42, 0.45, 0.80), (0.36, 0.80, 0.38), (0.07, 0.65, 0.4))),
    ("umbrella", _umbrella, rays(8, 1.5),
     ((0.0, 0.88, 0.78), (0.99, 0.45, 0.98), (0.99, 0.7, 0.4))),
    ("padlock", _padlock, checks(5.0), ((0.60, 0.22, 0.38), (0.58, 0.10, 0.72), (0.6, 0.10, 0.62))),
    ("rocket", _rocket, bands((-0.55, 0.1, 0.4)),
     ((0.0, 0.02, 0.93), (0.26, 0.75, 0.72), (0.01, 0.9, 0.92))),
)  # fmt: skip

FAMILIES: Mapping[str, Family] = MappingProxyType({row[0]: Family(*row) for row in _TABLE})
TRAIN_FAMILIES: tuple[str, ...] = tuple(FAMILIES)[:16]
NOVEL_FAMILIES: tuple[str, ...] = tuple(FAMILIES)[16:]
