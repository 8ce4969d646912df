"""What the report of a run shows: the values of the template ``report.html.j2``.

It counts nothing: the numbers are those of ``report.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntt_ray.pages.environment import render
from ntt_ray.pages.pictures import OutlinedPicture
from ntt_ray.records import ClassLabel, note_lines
from ntt_ray.report.metrics_page import metrics_view
from ntt_ray.report.overlays import Shot, gallery_view

MAX_CLASS_ROWS = 40


@dataclass(frozen=True, slots=True)
class ClassReferences:
    """The crops that are shown of a class, which has `total` references."""

    label: ClassLabel
    total: int
    crops: tuple[OutlinedPicture, ...]


def render_page(
    report: Mapping[str, Any],
    *,
    references: Sequence[ClassReferences],
    shots: Mapping[str, Sequence[Shot]],
) -> str:
    """The page of a run.

    Args:
        report: the content of ``report.json``.
        references: crops by class, in the order shown.
        shots: the gallery by group.
    """
    numbers = {row["id"]: number for number, row in enumerate(report["classes"])}
    names = [row["name"] for row in report["classes"]]
    return render(
        "report.html.j2",
        report=report,
        note_lines=note_lines(report["notes"], report["images"]["total"]),
        rows=_class_rows(report["classes"]),
        histogram=_histogram(report),
        metrics=metrics_view(report["metrics"]),
        references=references,
        numbers=numbers,
        gallery=gallery_view(shots, numbers, names, float(report["threshold"])),
    )


def _class_rows(classes: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """The classes by number; of many those with the most labels come first."""
    rows = list(enumerate(classes))
    if len(rows) > MAX_CLASS_ROWS:
        rows.sort(key=lambda item: (-item[1]["kept"], -item[1]["detections"], item[0]))
    return rows[:MAX_CLASS_ROWS]


def _histogram(report: Mapping[str, Any]) -> dict[str, Any]:
    """Bars of the scores, each from the bottom up, in per cent of the highest one."""
    data = report["score_histogram"]
    top = max([*data["all"], 1])
    judged = any(data["right"]) or any(data["wrong"])
    marks = [(report["min_score"], "labels from")]
    if report["threshold"] != report["min_score"]:
        marks.append((report["threshold"], "best F1 at"))
    return {
        "bins": len(data["all"]),
        "top": top,
        "judged": judged,
        "marks": marks,
        "bars": [_bar(data, n, top, judged) for n, count in enumerate(data["all"]) if count],
    }


def _bar(data: Mapping[str, Any], number: int, top: int, judged: bool) -> dict[str, Any]:
    count, right, wrong = (data[kind][number] for kind in ("all", "right", "wrong"))
    low = number * data["bin_width"]
    title = f"{low:.2f} to {low + data['bin_width']:.2f}: {count:,}"
    title += f" ({right:,} right, {wrong:,} wrong)" if judged else ""
    parts, y = [], 100.0
    for kind, part in (("right", right), ("wrong", wrong), ("all", count - right - wrong)):
        height = 100 * part / top
        y -= height
        if part:
            parts.append((kind, y, height))
    return {"number": number, "title": title, "parts": parts}
