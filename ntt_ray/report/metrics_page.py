"""The part of a report that compares with ground truth: figures, curves, who is taken for whom.

It turns ``metrics.json`` into HTML and computes nothing; every name is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ntt_ray.pages.overlays import escaped, more_line, shortened

_METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "AR300", "ARs", "ARm", "ARl",
)  # fmt: skip
_OF_CLASS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "AR300")
_KINDS = (("segm", "Masks"), ("bbox", "Boxes"))
MAX_CLASS_ROWS = 40


def metrics_section(metrics: Mapping[str, Any] | None) -> str:
    """Everything that is known from the ground truth; empty without it.

    Args:
        metrics: the content of ``metrics.json``, or a part of it.
    """
    if not metrics:
        return ""
    kinds = [(word, metrics[kind]) for kind, word in _KINDS if metrics.get(kind)]
    table = _table("", _METRICS, kinds)
    return (
        f'<section class="card"><h2>Against the ground truth</h2>{table}{_by_frequency(metrics)}'
        f"{_best_score(metrics)}{_classes(metrics)}{_curves(metrics)}{_confusion(metrics)}"
        "</section>"
    )


def figure(value: float | None) -> str:
    """A fraction with three digits; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def _table(corner: str, names: Sequence[str], rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Figures in columns, those that some row has; the names of rows are escaped already."""
    shown = [name for name in names if any(name in found for _, found in rows)]
    head = "".join(f'<th scope="col">{name}</th>' for name in shown)
    body = "".join(
        f'<tr><th scope="row">{word}</th>'
        + "".join(f"<td>{figure(found.get(name))}</td>" for name in shown)
        + "</tr>"
        for word, found in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">{corner}</th>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _by_frequency(metrics: Mapping[str, Any]) -> str:
    groups: Mapping[str, Mapping[str, Any]] = metrics.get("by_frequency") or {}
    parts = [
        f"{word}: " + ", ".join(f"{group} {figure(ap)}" for group, ap in groups[kind].items())
        for kind, word in _KINDS
        if groups.get(kind)
    ]
    return f'<p class="note">AP by frequency. {"; ".join(parts)}.</p>' if parts else ""


def _main_kind(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Masks, or boxes where nothing else is judged."""
    return next((kind for kind in _KINDS if metrics.get(kind[0])), _KINDS[0])


def _best_score(metrics: Mapping[str, Any]) -> str:
    alarms = metrics.get("false_alarms") or {}
    if alarms.get("score") is None:
        return ""
    text = (
        f"Best F1 {figure(alarms.get('best_f1'))} at score {alarms['score']:.2f}: precision "
        f"{figure(alarms.get('precision'))}, recall {figure(alarms.get('recall'))}."
    )
    if alarms.get("class_share") is not None:
        text += (
            f" There a class is found in {alarms['class_share']:.1%} of the images without it, "
            "mean of the classes."
        )
    return f'<p class="note">{text}</p>'


def _classes(metrics: Mapping[str, Any]) -> str:
    """Each class with its figures, those with the highest AP first."""
    kind, word = _main_kind(metrics)
    found = [
        (name, own[kind], own.get("false_alarms") or {})
        for name, own in (metrics.get("per_class") or {}).items()
        if own.get(kind)
    ]
    if not found:
        return ""
    found.sort(key=lambda item: -1 if (ap := item[1].get("AP")) is None else ap, reverse=True)
    alarms = "False alarms"
    rows = [
        (
            f"<bdi>{escaped(shortened(name))}</bdi>",
            {**figures, **({alarms: wrong.get("share")} if wrong else {})},
        )
        for name, figures, wrong in found[:MAX_CLASS_ROWS]
    ]
    table = _table("Class", (*_OF_CLASS, alarms), rows)
    return (
        f'<details data-testid="by-class"><summary>{word} by class</summary><p class="note">False '
        "alarms: the share of images without the class in which it is found, at the score of the "
        f"best F1.</p>{table}{more_line(len(found), MAX_CLASS_ROWS, 'classes, in metrics.json')}"
        "</details>"
    )


def _curves(metrics: Mapping[str, Any]) -> str:
    curves: Mapping[str, Sequence[float]] = metrics.get("curves") or {}
    if not curves:
        return ""
    kind, _ = _main_kind(metrics)
    per_class: Mapping[str, Mapping[str, Any]] = metrics.get("per_class") or {}
    drawn = "".join(
        _curve(name, values, per_class.get(name, {}).get(kind, {}).get("AP50"))
        for name, values in curves.items()
    )
    return (
        '<details><summary>Precision by recall</summary><p class="note">At an IoU of 0.5; recall '
        "to the right, precision upwards, both 0 to 1. The number is the AP at that IoU, the area "
        f'below the curve.</p><div class="curves" data-testid="curves">{drawn}</div></details>'
    )


def _curve(name: str, values: Sequence[float], ap50: float | None) -> str:
    step = 100 / max(len(values) - 1, 1)
    points = " ".join(f"{n * step:g},{100 - 100 * value:.1f}" for n, value in enumerate(values))
    return (
        '<figure><svg viewBox="-2 -2 104 104" role="img" aria-label="Precision by recall">'
        f'<polygon points="0,100 {points} 100,100"/><polyline points="{points}"/></svg>'
        f"<figcaption><bdi>{escaped(shortened(name))}</bdi><span>{figure(ap50)}</span>"
        "</figcaption></figure>"
    )


def _confusion(metrics: Mapping[str, Any]) -> str:
    found = metrics.get("confusion")
    if not found:
        return ""
    matrix: Sequence[Sequence[int]] = found["matrix"]
    last = len(matrix) - 1
    # a class that has neither an object nor a detection says nothing
    shown = [n for n in range(last) if any(matrix[n]) or any(row[n] for row in matrix)] + [last]
    labels = [f"<bdi>{escaped(shortened(found['labels'][n]))}</bdi>" for n in shown]
    head = "".join(f'<th scope="col">{label}</th>' for label in labels)
    rows = "".join(
        f'<tr><th scope="row">{label}</th>{_cells(matrix[n], n, shown)}</tr>'
        for label, n in zip(labels, shown, strict=True)
    )
    return (
        '<details><summary>What is taken for what</summary><p class="note">Rows are the objects '
        "of the ground truth, columns what they were taken for at a score of "
        f"{found['score']:.2f}; the last row counts detections where there is nothing, the last "
        'column missed objects.</p><p class="legend"><i class="right"></i>right '
        '<i class="wrong"></i>wrong, the darker the larger the share of its row</p><div '
        'class="scroll" tabindex="0"><table class="confusion" data-testid="confusion"><thead><tr>'
        f"<td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _cells(row: Sequence[int], own: int, shown: Sequence[int]) -> str:
    """Counts, the darker the larger their share of the row; what is right has its own colour."""
    total = max(sum(row), 1)
    return "".join(
        f'<td class="{"right" if n == own else "wrong"}" '
        f'style="--share:{15 + 55 * row[n] / total:.0f}%">{row[n]:,}</td>'
        if row[n]
        else "<td></td>"
        for n in shown
    )
