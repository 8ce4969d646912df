"""The part of a report that compares with ground truth: figures, curves, who is taken for whom.

It turns ``metrics.json`` into HTML and computes nothing; every name is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ntt_ray.quality.overlays import escaped, shortened

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
_KINDS = (("segm", "Masks"), ("bbox", "Boxes"))


def metrics_section(metrics: Mapping[str, Any] | None) -> str:
    """Everything that is known from the ground truth; empty without it.

    Args:
        metrics: the content of ``metrics.json``, or a part of it.
    """
    if not metrics:
        return ""
    kinds = [(word, metrics[kind]) for kind, word in _KINDS if metrics.get(kind)]
    shown = [name for name in _METRICS if any(name in found for _, found in kinds)]
    rows = "".join(
        f'<tr><th scope="row">{word}</th>'
        + "".join(f"<td>{figure(found.get(name))}</td>" for name in shown)
        + "</tr>"
        for word, found in kinds
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in shown)
    return (
        '<section class="card"><h2>Against the ground truth</h2><div class="scroll" tabindex="0">'
        f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"{_best_score(metrics)}{_curves(metrics)}{_confusion(metrics)}</section>"
    )


def figure(value: float | None) -> str:
    """A fraction with three digits; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def _best_score(metrics: Mapping[str, Any]) -> str:
    alarms = metrics.get("false_alarms") or {}
    if alarms.get("score") is None:
        return ""
    return (
        f'<p class="note">Best F1 {figure(alarms.get("best_f1"))} at score '
        f"{alarms['score']:.2f}: precision {figure(alarms.get('precision'))}, recall "
        f"{figure(alarms.get('recall'))}.</p>"
    )


def _curves(metrics: Mapping[str, Any]) -> str:
    curves: Mapping[str, Sequence[float]] = metrics.get("curves") or {}
    if not curves:
        return ""
    drawn = "".join(_curve(name, values) for name, values in curves.items())
    return (
        '<details><summary>Precision by recall</summary><p class="note">At an IoU of 0.5; recall '
        f'to the right, precision upwards, both 0 to 1.</p><div class="curves" '
        f'data-testid="curves">{drawn}</div></details>'
    )


def _curve(name: str, values: Sequence[float]) -> str:
    step = 100 / max(len(values) - 1, 1)
    points = " ".join(f"{n * step:g},{100 - 100 * value:.1f}" for n, value in enumerate(values))
    mean = sum(values) / len(values) if values else 0.0
    return (
        f'<figure><svg viewBox="-2 -2 104 104" role="img" aria-label="Precision by recall">'
        f'<polyline points="{points}"/></svg><figcaption><bdi>{escaped(shortened(name))}</bdi>'
        f"<span>{mean:.2f}</span></figcaption></figure>"
    )


def _confusion(metrics: Mapping[str, Any]) -> str:
    found = metrics.get("confusion")
    if not found:
        return ""
    labels = [escaped(shortened(label)) for label in found["labels"]]
    head = "".join(f'<th scope="col"><bdi>{label}</bdi></th>' for label in labels)
    rows = "".join(
        f'<tr><th scope="row"><bdi>{label}</bdi></th>{_cells(row)}</tr>'
        for label, row in zip(labels, found["matrix"], strict=True)
    )
    return (
        '<details><summary>What is taken for what</summary><p class="note">Rows are the objects '
        "of the ground truth, columns what they were taken for at a score of "
        f"{found['score']:.2f}; the last row counts detections where there is nothing, the last "
        'column missed objects.</p><div class="scroll" tabindex="0"><table class="confusion" '
        f'data-testid="confusion"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div></details>"
    )


def _cells(row: Sequence[int]) -> str:
    """Counts, the darker the larger their share of the row."""
    total = max(sum(row), 1)
    return "".join(
        f'<td style="--share:{100 * count / total:.0f}%">{count:,}</td>' if count else "<td></td>"
        for count in row
    )
