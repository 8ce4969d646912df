"""The numbers of a memory bank's report: the content of ``bank.json``, findings in words included.

It knows what the findings mean and how references are called; it renders and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntt_ray.bank import problems
from ntt_ray.bank.file import BankFile, bank_digest
from ntt_ray.bank.problems import BankFindings
from ntt_ray.masks import mask_ious
from ntt_ray.records import Reference

FORMAT_VERSION = 1
SAME_REGION_IOU = 0.5  # of two references in one image: the same object annotated twice


def bank_metrics(
    bank: BankFile, known: Sequence[Reference | None], known_negatives: Sequence[Reference | None]
) -> dict[str, Any]:
    """The content of ``bank.json``.

    Args:
        bank: the bank that is judged.
        known: the reference behind each row of the bank, class by class; None where it came from
            a bank that this one extends, or all came ready.
        known_negatives: the negative behind each row of the bank's negatives, or None likewise.
    """
    features, negatives = bank.references.rows(), bank.negative_features()
    found = problems.find(features)
    names = [label.name for label in bank.classes]
    references = _reference_rows(bank, found, known)
    return {
        "format_version": FORMAT_VERSION,
        "bank": bank_digest(bank.data),
        "encoder": dict(bank.encoder),
        "sources": [
            {"bank": source.bank, "references": source.references, "shots": dict(source.shots)}
            for source in bank.history()
        ],
        "classes": [
            {"id": c.category_id, "name": c.name, "references": len(own), "negatives": len(wrong)}
            for c, own, wrong in zip(bank.classes, features, negatives)
        ],
        "references": references,
        "negatives": _negative_rows(bank, known_negatives),
        "matrix": [[_rounded(value) for value in row] for row in found.matrix.tolist()],
        "findings": _findings(found, references, names, _same_regions(known)),
        "limits": {
            "min_shots": problems.MIN_SHOTS,
            "unusual": problems.UNUSUAL,
            "confusable": problems.CONFUSABLE,
            "duplicate_share": problems.DUPLICATE_SHARE,
        },
    }


def _reference_rows(
    bank: BankFile, found: BankFindings, known: Sequence[Reference | None]
) -> list[dict[str, Any]]:
    names = [label.name for label in bank.classes]
    numbers = [n + 1 for shots in bank.references.shots.tolist() for n in range(shots)]
    rows = []
    for i, k in enumerate(found.class_of.tolist()):
        nearest = int(found.nearest_class[i])
        rows.append(
            {
                **_identity(names[k], numbers[i], known[i]),
                "own": _rounded(float(found.own[i])),
                "nearest": _rounded(float(found.nearest[i])),
                "nearest_class": names[nearest] if nearest >= 0 else None,
            }
        )
    return rows


def _negative_rows(bank: BankFile, known: Sequence[Reference | None]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    features = zip(bank.classes, bank.references.rows(), bank.negative_features())
    for label, own, negatives in features:
        mean = own.mean(axis=0, dtype=np.float64)
        for n, row in enumerate(negatives.astype(np.float64)):
            cosine = float(row @ mean / max(np.linalg.norm(row) * np.linalg.norm(mean), 1e-12))
            identity = _identity(label.name, n + 1, known[len(rows)])
            rows.append({**identity, "own": _rounded(cosine)})
    return rows


def _identity(name: str, number: int, reference: Reference | None) -> dict[str, Any]:
    return {
        "class": name,
        "number": number,
        "annotation_id": None if reference is None else reference.annotation_id,
        "file_name": None if reference is None else reference.image.file_name,
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _same_regions(known: Sequence[Reference | None]) -> set[tuple[int, int]]:
    """Pairs of references that lie on the same pixels of the same image."""
    by_image: dict[str, list[int]] = {}
    for i, reference in enumerate(known):
        if reference is not None:
            by_image.setdefault(reference.image.uri, []).append(i)
    pairs: set[tuple[int, int]] = set()
    for members in by_image.values():
        rles = [r.rle for i in members if (r := known[i]) is not None]
        ious = mask_ious(rles, rles) if len(members) > 1 else np.zeros((1, 1))
        pairs |= {
            (members[a], members[b]) for a, b in np.argwhere(np.triu(ious, 1) >= SAME_REGION_IOU)
        }
    return pairs


def _findings(
    found: BankFindings,
    references: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    same_regions: set[tuple[int, int]],
) -> list[dict[str, Any]]:
    """Findings in words, the gravest first."""
    items = [_finding("mislabelled", _mislabelled(references[i]), [i]) for i in found.mislabelled]
    for a, b in sorted(same_regions | set(found.duplicates)):
        where = "the same object" if (a, b) in same_regions else "nearly the same features"
        text = f"{_name(references[a])} and {_name(references[b])}: {where}"
        if references[a]["class"] != references[b]["class"]:
            text += ", but two classes"
        items.append(_finding("duplicate", text, [a, b]))
    for i in found.weak:
        usual = found.matrix[found.class_of[i], found.class_of[i]]
        text = f"{_name(references[i])}: {references[i]['own']:.2f} to the others of its class"
        items.append(_finding("weak", f"{text}, where {usual:.2f} is usual", [i]))
    for a, b in found.confusable:
        text = f"{names[a]} and {names[b]}: their references are hardly nearer to their own class"
        items.append(_finding("confusable", text, [], [names[a], names[b]]))
    if found.untold:
        items.append(_untold([names[k] for k in found.untold]))
    return items


def _untold(names: Sequence[str]) -> dict[str, Any]:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    text = (
        f"{shown}: fewer than {problems.MIN_SHOTS} references, so nothing can be told about "
        "weak or mislabelled ones"
    )
    return _finding("untold", text, [], list(names))


def _finding(
    kind: str, text: str, references: list[int], classes: list[str] | None = None
) -> dict[str, Any]:
    return {"kind": kind, "text": text, "references": references, "classes": classes or []}


def _name(row: Mapping[str, Any]) -> str:
    if row["file_name"] is None:
        return f"{row['class']}, reference {row['number']}"
    return f"{row['class']}, annotation {row['annotation_id']} in {row['file_name']}"


def _mislabelled(row: Mapping[str, Any]) -> str:
    return (
        f"{_name(row)}: looks like {row['nearest_class']} ({row['nearest']:.2f}), not like the "
        f"others of its class ({row['own']:.2f})"
    )
