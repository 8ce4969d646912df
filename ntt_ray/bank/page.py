"""What the page of a memory bank shows: the values of the template ``bank.html.j2``.

It reads no files and judges nothing: the numbers are those of ``bank.json``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntt_ray.pages.environment import render
from ntt_ray.pages.pictures import OutlinedPicture

MAX_FINDINGS = 200
MAX_MATRIX = 30
KINDS = {
    "mislabelled": "looks mislabelled",
    "weak": "weak",
    "duplicate": "duplicate",
    "confusable": "confusable classes",
    "untold": "too few",
}


@dataclass(frozen=True, slots=True)
class BankPicture:
    """The pictures of a reference.

    Attributes:
        crop: its picture and outline; None where it is not known any more.
        colours_uri: its patch features as a picture; empty where there are none.
    """

    crop: OutlinedPicture | None
    colours_uri: str


@dataclass(frozen=True, slots=True)
class Card:
    """A reference on the page: its row in ``bank.json``, its pictures, and what is said of it."""

    reference: Mapping[str, Any]
    picture: BankPicture
    notes: Sequence[str]


def render_bank_page(
    report: Mapping[str, Any],
    pictures: Mapping[int, BankPicture],
    negatives: Mapping[int, BankPicture],
) -> str:
    """The page of a memory bank.

    Args:
        report: the content of ``bank.json``.
        pictures: the references shown, by their position in the report.
        negatives: the negative references shown, by their position in the report.
    """
    numbers = {row["name"]: number for number, row in enumerate(report["classes"])}
    rows = [(report["negatives"][i], picture) for i, picture in negatives.items()]
    return render(
        "bank.html.j2",
        report=report,
        kinds=KINDS,
        max_findings=MAX_FINDINGS,
        counts=_counts(report),
        matrix=_matrix(report),
        groups=_groups(report, pictures),
        negatives=[(numbers[row["class"]], Card(row, picture, ())) for row, picture in rows],
    )


def _counts(report: Mapping[str, Any]) -> dict[str, int]:
    """How many findings there are of each kind, and what the captions of the tiles add.

    ``nearer`` counts the references that are nearer to another class than to their own, be it
    unusual for their class or not; ``two_classes`` the duplicates that are two classes.
    """
    counts = Counter(item["kind"] for item in report["findings"])
    rows = report["references"]
    doubles = [f["references"] for f in report["findings"] if f["kind"] == "duplicate"]
    return {
        **{kind: counts[kind] for kind in KINDS},
        "nearer": sum(
            None not in (r["own"], r["nearest"]) and r["own"] < r["nearest"] for r in rows
        ),
        "two_classes": sum(rows[a]["class"] != rows[b]["class"] for a, b in doubles),
    }


def _matrix(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Classes in pairs that are hard to tell apart come first where not all can be shown."""
    names = [row["name"] for row in report["classes"]]
    close = {frozenset(f["classes"]) for f in report["findings"] if f["kind"] == "confusable"}
    paired = frozenset().union(*close)
    shown = sorted(range(len(names)), key=lambda k: (names[k] not in paired, k))[:MAX_MATRIX]
    shown.sort()
    known = [v for a in shown for b in shown if (v := report["matrix"][a][b]) is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)

    def cell(a: int, b: int) -> dict[str, Any]:
        value = report["matrix"][a][b]
        is_close = {names[a], names[b]} in close
        return {
            "kind": "own" if a == b else "close" if is_close else "",
            "share": 0.0 if value is None else (value - low) / max(high - low, 1e-9),
            "title": f"{names[a]} and {names[b]}",
            "text": "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00"),
        }

    return [{"number": a, "name": names[a], "cells": [cell(a, b) for b in shown]} for a in shown]


def _groups(report: Mapping[str, Any], pictures: Mapping[int, BankPicture]) -> list[dict[str, Any]]:
    """The references shown, by class; classes without one are left out."""
    notes = _notes(report)
    groups = []
    for number, row in enumerate(report["classes"]):
        own = [i for i, r in enumerate(report["references"]) if r["class"] == row["name"]]
        shown = [i for i in own if i in pictures]
        cards = [Card(report["references"][i], pictures[i], notes.get(i, ())) for i in shown]
        groups.append({"number": number, "name": row["name"], "total": len(own), "cards": cards})
    return [group for group in groups if group["cards"]]


def _notes(report: Mapping[str, Any]) -> dict[int, list[str]]:
    """What is said about each reference, by its position, for its card."""
    notes: dict[int, list[str]] = {}
    for item in report["findings"]:
        for i in item["references"]:
            text = KINDS[item["kind"]]
            if item["kind"] == "mislabelled":
                text = f"looks like {report['references'][i]['nearest_class']}"
            notes.setdefault(i, []).append(text)
    return notes
