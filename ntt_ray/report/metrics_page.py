"""What a report shows of ``metrics.json``: tables, curves, who is taken for whom.

It chooses rows and columns for the template ``metrics.html.j2`` and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "AR300", "ARs", "ARm", "ARl",
)  # fmt: skip
_OF_CLASS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "AR300")
_ALARMS = "False alarms"
_KINDS = (("segm", "Masks"), ("bbox", "Boxes"))
MAX_CLASS_ROWS = 40

Row = tuple[str, Mapping[str, Any]]  # what it is about, and its metrics


def metrics_view(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The values of the template; None where nothing is known from the ground truth.

    Args:
        metrics: the content of ``metrics.json``, or a part of it.
    """
    if not metrics:
        return None
    # masks, or boxes where nothing else is judged
    kind, word = next((kind for kind in _KINDS if metrics.get(kind[0])), _KINDS[0])
    frequency = metrics.get("by_frequency") or {}
    per_class = metrics.get("per_class") or {}
    rows = _class_rows(per_class, kind)
    return {
        "word": word,
        "table": _table(
            "", _METRICS, [(word, metrics[kind]) for kind, word in _KINDS if metrics.get(kind)]
        ),
        "by_frequency": [(word, frequency[kind]) for kind, word in _KINDS if frequency.get(kind)],
        "alarms": metrics.get("false_alarms") or {},
        "class_count": len(rows),
        "classes": _table("Class", (*_OF_CLASS, _ALARMS), rows[:MAX_CLASS_ROWS]),
        "curves": [
            (name, _points(values), per_class.get(name, {}).get(kind, {}).get("AP50"))
            for name, values in (metrics.get("curves") or {}).items()
        ],
        "confusion": _confusion(metrics.get("confusion")),
    }


def _table(corner: str, names: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """Metrics in columns, those that some row has."""
    columns = tuple(name for name in names if any(name in found for _, found in rows))
    values = [(word, [found.get(name) for name in columns]) for word, found in rows]
    return {"corner": corner, "columns": columns, "rows": values}


def _class_rows(per_class: Mapping[str, Any], kind: str) -> list[Row]:
    """Each class with its metrics, those with the highest AP first."""
    rows = []
    for name, own in per_class.items():
        if own.get(kind):
            alarms = own.get("false_alarms") or {}
            rows.append((name, own[kind] | ({_ALARMS: alarms.get("share")} if alarms else {})))
    return sorted(
        rows, key=lambda row: -1 if (ap := row[1].get("AP")) is None else ap, reverse=True
    )


def _points(precisions: Sequence[float]) -> str:
    """A curve of precisions, at equal steps of recall, as SVG points from 0 to 100."""
    step = 100 / max(len(precisions) - 1, 1)
    return " ".join(f"{n * step:g},{100 - 100 * value:.1f}" for n, value in enumerate(precisions))


def _confusion(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Counts with their share of the row, for those classes that have an object or a detection."""
    if not found:
        return None
    matrix: Sequence[Sequence[int]] = found["matrix"]
    last = len(matrix) - 1
    shown = [n for n in range(last) if any(matrix[n]) or any(row[n] for row in matrix)] + [last]
    labels = [found["labels"][n] for n in shown]
    cells = [
        [("right" if n == own else "wrong", row[n] / max(sum(row), 1), row[n]) for n in shown]
        for own, row in ((own, matrix[own]) for own in shown)
    ]
    return {"score": found["score"], "labels": labels, "rows": list(zip(labels, cells))}
