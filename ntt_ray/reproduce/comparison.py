"""Our figures beside the published ones: means over seeds and parts, as rows and as a file.

A published figure is either of one sample of references or a mean over many; ours is set beside the
one of its kind where both are known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from ntt_ray.reproduce.declaration import Protocol, Published
from ntt_ray.reproduce.runner import Measured

FILE = "comparison.json"
FORMAT_VERSION = 2
MEAN = "mean"


@dataclass(frozen=True)
class Row:
    """One line of the table; fractions.

    Attributes:
        part: name of the part, or `MEAN` for the mean over the parts that were run.
        shots: references per class; None for the mean over all numbers that were run.
        figure: name of the figure.
        ours: our mean over seeds; None where no run has it.
        deviation: sample standard deviation over seeds; None for fewer than two.
        seeds: how many runs are behind our mean.
        published: the paper's figure; None where we know of none.
        note: what is to be said about the published figure, and what ours lacks to be the same.
        comparable: whether ours is a mean over the same parts and shots.
        tolerance: how near counts as the same, see `Published`.
        within: whether ours is; None where it is not comparable, or a mean over fewer samples.
    """

    part: str
    shots: int | None
    figure: str
    ours: float | None
    deviation: float | None
    seeds: int
    published: float | None = None
    note: str = ""
    comparable: bool = False
    tolerance: float | None = None
    within: bool | None = None


def compare(protocol: Protocol, measured: Sequence[Measured]) -> list[Row]:
    """Rows of the table, in the order in which things were measured.

    A mean over parts is taken seed by seed; published figures are means over all parts, and stand
    beside ours even where only some parts were run, which the note then says.
    """
    parts = list(dict.fromkeys(m.part for m in measured))
    shots = list(dict.fromkeys(m.shots for m in measured))
    single = len(protocol.parts) == 1
    rows = []
    for number in shots:
        for part in parts:
            own = _of(measured, part, number)
            rows += _rows(protocol, own, part, number, with_published=single)
        if not single:
            own = [m for m in measured if m.shots == number]
            rows += _rows(protocol, own, MEAN, number, with_published=True)
    if any(p.shots is None for p in protocol.published):
        rows += _rows(protocol, measured, MEAN, None, with_published=True)
    return rows


def comparison_json(
    protocol: Protocol,
    measured: Sequence[Measured],
    settings: Mapping[str, Any],
    summary_of: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]],
) -> bytes:
    """The content of ``comparison.json``: the table, every run behind it, and its settings.

    Args:
        protocol: the benchmark.
        measured: its runs.
        settings: what they have in common.
        summary_of: makes one of the metrics of several runs, for the ``summaries`` of each part and
            number of shots.
    """
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "protocol": protocol.name,
        "title": protocol.title,
        "settings": dict(settings),
        "rows": [asdict(row) for row in compare(protocol, measured)],
        "runs": [
            {"part": m.part, "shots": m.shots, "seed": m.seed, "figures": dict(m.figures)}
            for m in measured
        ],
        "summaries": [
            {"part": p, "shots": s, "metrics": summary_of([m.metrics for m in _of(measured, p, s)])}
            for p, s in dict.fromkeys((m.part, m.shots) for m in measured)
        ],
    }
    return (json.dumps(content, indent=1) + "\n").encode("utf-8")


def _rows(
    protocol: Protocol,
    measured: Sequence[Measured],
    part: str,
    shots: int | None,
    *,
    with_published: bool,
) -> list[Row]:
    rows = []
    for figure in protocol.figures:
        values = _by_seed(measured, figure.name)
        known = _published(protocol, figure.name, shots, len(values)) if with_published else None
        ours = fmean(values) if values else None
        deviation = stdev(values) if len(values) > 1 else None
        row = Row(part, shots, figure.name, ours, deviation, seeds=len(values))
        rows.append(row if known is None else _beside(row, known, protocol, measured))
    return rows


def _beside(row: Row, known: Published, protocol: Protocol, measured: Sequence[Measured]) -> Row:
    lacks = _lacks(protocol, measured, known)
    comparable = row.ours is not None and not lacks
    within: bool | None = None
    if comparable and row.ours is not None and row.seeds >= known.seeds:
        within = abs(row.ours - known.value) <= known.tolerance
    draws = f"mean of {known.seeds} draws" if known.seeds > 1 else ""
    fewer = f"ours: {row.seeds} of {known.seeds} draws" if row.seeds < known.seeds else ""
    return replace(
        row,
        published=known.value,
        note="; ".join(filter(None, [draws, known.note, *lacks, fewer])),
        comparable=comparable,
        tolerance=known.tolerance,
        within=within,
    )


def _of(measured: Sequence[Measured], part: str, shots: int) -> list[Measured]:
    return [m for m in measured if (m.part, m.shots) == (part, shots)]


def _by_seed(measured: Sequence[Measured], figure: str) -> list[float]:
    """Mean over parts and shots for each seed; values that are missing are left out."""
    values: dict[int, list[float]] = {}
    for item in measured:
        if (value := item.figures.get(figure)) is not None:
            values.setdefault(item.seed, []).append(value)
    return [fmean(found) for found in values.values()]


def _published(protocol: Protocol, figure: str, shots: int | None, seeds: int) -> Published | None:
    """Of one sample beside one seed of ours, a mean over many beside several."""
    found = [p for p in protocol.published if (p.figure, p.shots) == (figure, shots)]
    found.sort(key=lambda p: p.seeds, reverse=seeds > 1)
    return found[0] if found else None


def _lacks(protocol: Protocol, measured: Sequence[Measured], known: Published) -> list[str]:
    """What ours lacks to be the same mean as the published figure."""
    parts, shots = {m.part for m in measured}, {m.shots for m in measured}
    lacks = []
    if len(parts) < len(protocol.parts):
        lacks.append(f"ours: {len(parts)} of {len(protocol.parts)} parts")
    if known.shots is None and shots < set(protocol.shots):
        lacks.append(f"ours: {len(shots)} of {len(protocol.shots)} shots")
    return lacks
