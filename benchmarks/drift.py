"""How often drift is seen where there is none, and how soon where there is: `run.drift`, simulated.

Units of 256 images in random order. A unit's detections are Poisson with a rate that varies from
unit to unit (mild: by 5 %, medium: 15 %, wide: 30 %), its empty images binomial with a share that
varies, its scores have a mean that varies. Changes begin after half of the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import write_json
from ntt_ray.run.drift import LAST, Alarm, Drift, UnitFigures

IMAGES = 256
# from unit to unit: of the rate of detections (log), the share of empty images, the mean score
SPREADS = {"mild": (0.05, 0.01, 0.007), "medium": (0.15, 0.04, 0.014), "wide": (0.3, 0.06, 0.03)}
CHANGES = {
    "scores - 0.05": {"score": -0.05},
    "detections halved": {"rate": 0.5},
    "empty + 10 points": {"empty": 0.1},
}


def units(
    rng: np.random.Generator, count: int, spread: str, change: dict[str, float], begins: int
) -> list[UnitFigures]:
    """The units of one run, changed from the number `begins` on."""
    by_rate, by_empty, by_score = SPREADS[spread]
    changed = np.arange(count) >= begins
    rate = 3.0 * np.exp(rng.normal(0, by_rate, count))
    rate *= np.where(changed, change.get("rate", 1.0), 1.0)
    share = 0.2 + rng.normal(0, by_empty, count) + np.where(changed, change.get("empty", 0.0), 0.0)
    empty = rng.binomial(IMAGES, np.clip(share, 0, 1))
    detections = rng.poisson(rate * IMAGES)
    score = 0.55 + rng.normal(0, by_score, count) + np.where(changed, change.get("score", 0), 0)
    score += rng.normal(0, 0.15, count) / np.sqrt(np.maximum(1, detections))
    return [
        UnitFigures(unit, IMAGES, int(e), int(d), float(d * s))
        for unit, (e, d, s) in enumerate(zip(empty, detections, score))
    ]


def first_alarm(run: list[UnitFigures]) -> tuple[int, Alarm] | None:
    """After how many units the first alarm came, and which."""
    drift = Drift(len(run))
    for number, unit in enumerate(run):
        if found := drift.unit(unit):
            return number, found[0]
    return None


def false_alarms(seed: int, runs: int, count: int) -> float:
    """The share of runs without a change that raise an alarm."""
    rng, spreads = np.random.default_rng(seed), list(SPREADS)
    found = [
        first_alarm(units(rng, count, spreads[run % len(spreads)], {}, count))
        for run in range(runs)
    ]
    return sum(alarm is not None for alarm in found) / runs


def found_in_time(seed: int, runs: int, count: int, spread: str, change: str) -> float:
    """The share of runs whose change is named within five units, and not before it began."""
    rng, begins = np.random.default_rng(seed), count // 2
    found = [first_alarm(units(rng, count, spread, CHANGES[change], begins)) for _ in range(runs)]
    in_time = range(begins, begins + LAST)
    return sum(alarm is not None and alarm[0] in in_time for alarm in found) / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1500)
    parser.add_argument("--changed-runs", type=int, default=200)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "benchmark": "drift",
        "units": arguments.units,
        "runs": arguments.runs,
        "false_alarms": false_alarms(arguments.seed, arguments.runs, arguments.units),
    }
    print(f"false alarms: {result['false_alarms']:.4f} of {arguments.runs} runs", flush=True)
    for spread in SPREADS:
        for change in CHANGES:
            found = found_in_time(
                arguments.seed, arguments.changed_runs, arguments.units, spread, change
            )
            result[f"{spread}, {change}"] = found
            print(f"{spread}, {change}: found within {LAST} units in {found:.3f}", flush=True)
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
