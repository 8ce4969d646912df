"""Metrics of several runs as one: mean and standard deviation, of everything that is a number.

Runs that differ in their seed only say how much a sample of references matters. It knows neither
files nor what a metric means; lists (curves, confusions) have no mean and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any


def summary_of(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise runs metric by metric.

    Args:
        found: contents of ``metrics.json``; a run that lacks a metric, or has None there, does not
            take part in it.

    Returns:
        A tree like those contents, with ``mean``, ``deviation`` (of a sample, None for fewer than
        two runs) and ``runs`` in the place of each number; the mean is None where no run has the
        metric.
    """
    keys = dict.fromkeys(key for metrics in found for key in metrics)
    summary: dict[str, Any] = {}
    for key in keys:
        values = [metrics[key] for metrics in found if key in metrics]
        inner = [value for value in values if isinstance(value, Mapping)]
        if inner:
            summary[key] = summary_of(inner)
        elif all(value is None or _is_number(value) for value in values):
            numbers = [float(value) for value in values if value is not None]
            summary[key] = {
                "mean": fmean(numbers) if numbers else None,
                "deviation": stdev(numbers) if len(numbers) > 1 else None,
                "runs": len(numbers),
            }
    return summary


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
