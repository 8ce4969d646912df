"""Whether the intervals of a review hold: seeded draws from made-up runs, beside the truth.

``python -m benchmarks.review`` takes about five minutes of one core with 4,000 repeats a cell. It
counts; how long it takes means nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ntt_ray.review.estimates import precision_range, promised_depth, recall_range

REPEATS, SEED = 4000, 20261128
POPULATION, BANDS, DEPTHS = 20_000, 5, 20
SIZES = (20, 50, 100, 400, 1000)
# precision of each score band, and the width of the interval by size
CURVES: dict[str, tuple[float, ...]] = {
    "steep curve": (0.3, 0.7, 0.9, 0.95, 1.0),
    "flat .9": (0.9,) * BANDS,
    ".99": (0.99,) * BANDS,
    ".5": (0.5,) * BANDS,
    "all right": (1.0,) * BANDS,
}
WIDTHS = {
    "steep curve": (0.348, 0.208, 0.141, 0.066, 0.041),
    "flat .9": (0.284, 0.177, 0.124, 0.060, 0.037),
    ".99": (0.184, 0.087, 0.052, 0.022, 0.013),
    ".5": (0.425, 0.278, 0.198, 0.099, 0.061),
    "all right": (0.168, 0.071, 0.036, 0.009, 0.003),
}
Curve = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
# precision by rank of the score, from 0 (lowest) to 1: mistakes grow with the square of the depth,
# as where most labels are good; the others are hard on a promise
PROMISE_CURVES: dict[str, Curve] = {
    "mean .985": lambda u: 1 - 0.045 * (1 - u) ** 2,
    "mean .93": lambda u: 1 - 0.21 * (1 - u) ** 2,
    "mean .80": lambda u: 1 - 0.60 * (1 - u) ** 2,
    "mean .93, even slope": lambda u: 0.86 + 0.14 * u,
    "flat .949": lambda u: np.full_like(u, 0.949),
    "just below at the top": lambda u: 0.93 + 0.015 * u,
    "reversed": lambda u: 0.99 - 0.10 * u,
}
PROMISE_SIZES = (400, 1000)
RECALLS, SPREADS, IMAGES, EMPTY = (0.5, 0.8, 0.95), (0.0, 0.3), (50, 100, 300), (0.0, 0.5)


@dataclass(frozen=True)
class Cell:
    """What one kind of review came to.

    Attributes:
        name: what was reviewed.
        size: verdicts or images.
        coverage: share of the repeats whose interval holds the truth; of promises the kept ones.
        width: mean width of the intervals; of promises the recall against the best depth there is.
    """

    name: str
    size: int
    coverage: float
    width: float


def precision_cells(repeats: int, seed: int = SEED, names: tuple[str, ...] = ()) -> list[Cell]:
    """Intervals of the precision, drawn in proportion from five bands."""
    rng, sizes = np.random.default_rng(seed), np.full(BANDS, POPULATION // BANDS)
    cells = []
    for name in names or tuple(CURVES):
        good = np.round(np.array(CURVES[name]) * sizes).astype(np.int64)
        truth = good.sum() / POPULATION
        for size in SIZES:
            judged = np.full(BANDS, size // BANDS)
            right = rng.hypergeometric(good, sizes - good, judged, (repeats, BANDS))
            found = precision_range(sizes, judged, right)
            inside = (found.low <= truth + 1e-12) & (truth - 1e-12 <= found.high)
            width = float((found.high - found.low).mean())
            cells.append(Cell(name, size, float(inside.mean()), width))
    return cells


def promise_cells(repeats: int, seed: int = SEED, names: tuple[str, ...] = ()) -> list[Cell]:
    """Promised scores: how many are kept, and how much of what the best depth would keep."""
    cells = []
    step = POPULATION // DEPTHS
    for name in names or tuple(PROMISE_CURVES):
        rng = np.random.default_rng([seed, len(name)])
        rank = 1 - (np.arange(POPULATION) + 0.5) / POPULATION
        right = rng.random(POPULATION) < PROMISE_CURVES[name](rank)
        above = np.cumsum(right)[step - 1 :: step]
        exact = above / (step * np.arange(1, DEPTHS + 1))
        best = max((int(a) for a, p in zip(above, exact) if p >= 0.95), default=0)
        for size in PROMISE_SIZES:
            judged, good = _plain_samples(rng, right, size, repeats)
            depth = promised_depth(judged, good)
            kept = (depth < 0) | (exact[depth] >= 0.95)
            reached = np.where((depth >= 0) & kept, above[depth], 0) / max(best, 1)
            cells.append(Cell(name, size, float(kept.mean()), float(reached.mean())))
    return cells


def _plain_samples(
    rng: np.random.Generator, right: npt.NDArray[np.bool_], size: int, repeats: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Verdicts at each depth and above, and the right ones, of plain random samples."""
    step = POPULATION // DEPTHS
    good = right.reshape(DEPTHS, step).sum(axis=1)
    kinds = np.concatenate([good, step - good])
    drawn = rng.multivariate_hypergeometric(kinds, size, repeats, method="marginals")
    hits = drawn[:, :DEPTHS]
    return np.cumsum(hits + drawn[:, DEPTHS:], axis=1), np.cumsum(hits, axis=1)


def recall_cells(repeats: int, seed: int = SEED, images: tuple[int, ...] = IMAGES) -> list[Cell]:
    """Intervals of the recall from whole images, whose objects are found or missed together."""
    rng = np.random.default_rng(seed)
    cells = []
    for recall in RECALLS:
        for spread in SPREADS:
            for empty in EMPTY:
                there = rng.geometric(0.3, POPULATION) * (rng.random(POPULATION) >= empty)
                if spread:
                    both = 1 / spread - 1
                    chance = rng.beta(recall * both, (1 - recall) * both, POPULATION)
                else:
                    chance = np.full(POPULATION, recall)
                found = rng.binomial(there, chance)
                truth = found.sum() / there.sum()
                for size in images:
                    taken = rng.integers(0, POPULATION, (repeats, size))
                    seen = recall_range(found[taken], there[taken])
                    inside = (seen.low <= truth) & (truth <= seen.high)
                    width = float((seen.high - seen.low).mean())
                    name = f"recall {recall}, spread {spread}, empty {empty}"
                    cells.append(Cell(name, size, float(inside.mean()), width))
    return cells


def precision_problems(cells: list[Cell]) -> list[str]:
    """What does not hold of the acceptance, of the cells of `precision_cells`."""
    problems = []
    for cell in cells:
        wanted = WIDTHS[cell.name][SIZES.index(cell.size)]
        text = f"{cell.name}, {cell.size}: {cell.coverage:.3f}, {cell.width:.3f}"
        if cell.coverage < 0.94:
            problems.append(f"{text}: covers too little")
        if cell.name in ("flat .9", ".5") and cell.size >= 100 and cell.coverage > 0.98:
            problems.append(f"{text}: covers too much")
        if cell.width > 1.05 * wanted + 0.0005:  # the table has three digits
            problems.append(f"{text}: wider than {wanted}")
    return problems


def promise_problems(cells: list[Cell]) -> list[str]:
    """What does not hold of the acceptance, of the cells of `promise_cells`."""
    least = {("mean .985", 400): 0.90, ("mean .93", 400): 0.50}
    broken = [
        f"{c.name}, {c.size}: breaks {1 - c.coverage:.3f}" for c in cells if c.coverage < 0.95
    ]
    poor = [
        f"{c.name}, {c.size}: keeps {c.width:.3f}"
        for c in cells
        if c.width < least.get((c.name, c.size), 0.0)
    ]
    return broken + poor


def recall_problems(cells: list[Cell]) -> list[str]:
    """What does not hold of the acceptance, of the cells of `recall_cells`."""
    problems = [f"{c.name}, {c.size}: {c.coverage:.3f}" for c in cells if c.coverage < 0.91]
    mean = float(np.mean([c.coverage for c in cells]))
    return problems + ([f"mean coverage {mean:.3f}"] if mean < 0.95 else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    problems, written = [], {}
    for title, cells_of, problems_of in (
        ("precision: coverage, width", precision_cells, precision_problems),
        ("promise: kept, recall against the best depth", promise_cells, promise_problems),
        ("recall: coverage, width", recall_cells, recall_problems),
    ):
        cells = cells_of(options.repeats, options.seed)
        written[title] = [asdict(cell) for cell in cells]
        problems += problems_of(cells)
        print(title)
        for cell in cells:
            print(f"  {cell.name:42} {cell.size:5}  {cell.coverage:.3f}  {cell.width:.3f}")
    print("\n".join(problems) or "everything holds")
    if options.json:
        options.json.write_text(json.dumps(written, indent=1))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
