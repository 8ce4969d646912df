"""The report of a memory bank: ``bank.html``, one file that needs no network, and ``bank.json``.

The numbers of both are the same, and no clock is in them. Where a bank came ready its references
are known by number only, and the page has no pictures.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt_ray import storage
from ntt_ray.bank.file import BankFile, Floats
from ntt_ray.bank.metrics import bank_metrics
from ntt_ray.bank.page import BankPicture, render_bank_page
from ntt_ray.records import ClassLabel, Reference, ReferenceSet
from ntt_ray.references.crop_pictures import crop_picture
from ntt_ray.run.layout import BANK_PAGE, BANK_REPORT
from ntt_ray.storage import Storage

SHOWN_CLASSES = 30
SHOWN_PER_CLASS = 10
SHOWN_NEGATIVES = 40


@dataclass(frozen=True)
class BankExamples:
    """The references behind a bank, as far as they are known, under the bank's category ids.

    Attributes:
        references: the last references of each class in the bank.
        negatives: the last negatives of each class in the bank; None where it has none.
        colours: patch features as pictures ``(h, w, 3)`` uint8, by annotation id.
        context_ratio: how much around its box belongs to a reference, see `crop_window`.
    """

    references: ReferenceSet
    negatives: ReferenceSet | None
    colours: Mapping[int, npt.NDArray[np.uint8]]
    context_ratio: float


def write_bank_report(
    output: str, store: Storage, bank: BankFile, examples: BankExamples | None = None
) -> dict[str, Any]:
    """Write ``bank.html`` and ``bank.json``.

    Args:
        output: folder or URI prefix of the two files.
        store: access to files.
        bank: the bank that is judged.
        examples: the references of the bank; None where it came ready, so no crops are shown.

    Returns:
        The content of ``bank.json``.
    """
    references = None if examples is None else examples.references
    negatives = None if examples is None else examples.negatives
    known = _known(bank.references.rows(), bank.classes, references)
    known_negatives = _known(bank.negative_features(), bank.classes, negatives)
    report = bank_metrics(bank, known, known_negatives)
    page = render_bank_page(
        report,
        {i: _picture(known[i], examples, store) for i in _shown(report)},
        {i: _picture(known_negatives[i], examples, store) for i in _first(known_negatives)},
    )
    text = json.dumps(report, indent=1, sort_keys=True) + "\n"
    store.publish_bytes(storage.join(output, BANK_REPORT), text.encode("ascii"))
    store.publish_bytes(storage.join(output, BANK_PAGE), page.encode("utf-8", "replace"))
    return report


def _known(
    features: Sequence[Floats], classes: Sequence[ClassLabel], references: ReferenceSet | None
) -> list[Reference | None]:
    """The reference behind each row of the bank; None where it is not known any more."""
    rows: list[Reference | None] = []
    for label, own in zip(classes, features, strict=True):
        last = () if references is None else references.of_class(label.category_id)
        rows += [None] * (len(own) - len(last)) + list(last)
    return rows


def _shown(report: Mapping[str, Any]) -> list[int]:
    """References on the page: those that stand out first, then by number, up to the limits."""
    named = {i for item in report["findings"] for i in item["references"]}
    order = sorted(range(len(report["references"])), key=lambda i: (i not in named, i))
    chosen: dict[str, list[int]] = {}
    for i in order:
        own = report["references"][i]["class"]
        if own not in chosen and len(chosen) == SHOWN_CLASSES:
            continue
        if len(chosen.setdefault(own, [])) < SHOWN_PER_CLASS:
            chosen[own].append(i)
    return sorted(i for own in chosen.values() for i in own)


def _first(negatives: Sequence[Reference | None]) -> list[int]:
    """Negatives on the page: those whose picture is known first, up to the limit."""
    order = sorted(range(len(negatives)), key=lambda i: negatives[i] is None)
    return sorted(order[:SHOWN_NEGATIVES])


def _picture(
    reference: Reference | None, examples: BankExamples | None, store: Storage
) -> BankPicture:
    if reference is None or examples is None:
        return BankPicture(None, "")
    crop = crop_picture(reference, examples.context_ratio, store)
    own = reference in examples.references.references
    colours = examples.colours.get(reference.annotation_id) if own else None
    return BankPicture(crop, "" if colours is None else _png_uri(colours))


def _png_uri(picture_rgb: npt.NDArray[np.uint8]) -> str:
    sink = io.BytesIO()
    Image.fromarray(picture_rgb).save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode("ascii")
