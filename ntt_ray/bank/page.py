"""The report of a memory bank as HTML, put into the template ``bank.html``.

Every text from the data is escaped. It reads no files but the template, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntt_ray.pages.overlays import (
    ReferencePicture,
    colour_class,
    crop_picture,
    escaped,
    more_line,
    shortened,
    view_box,
)
from ntt_ray.pages.pictures import UNITS_PER_PX
from ntt_ray.report.metrics_page import figure
from ntt_ray.report.page import count_text, fill_template, tile

MAX_FINDINGS = 200
MAX_MATRIX = 30
_DIGEST_SHOWN = 12
KINDS = {
    "mislabelled": "looks mislabelled",
    "weak": "weak",
    "duplicate": "duplicate",
    "confusable": "confusable classes",
    "untold": "too few",
}


@dataclass(frozen=True, slots=True)
class BankPicture:
    """A reference on the page.

    Attributes:
        crop: its picture and outline; None where it is not known any more.
        colours_uri: its patch features as a picture; empty where there are none.
    """

    crop: ReferencePicture | None
    colours_uri: str


def render_bank_page(
    report: Mapping[str, Any],
    pictures: Mapping[int, BankPicture],
    negatives: Mapping[int, BankPicture],
) -> str:
    """Fill the template.

    Args:
        report: the content of ``bank.json``.
        pictures: of the references shown, by their position in the report.
        negatives: the same of the negatives.
    """
    return fill_template(
        "bank.html",
        subtitle=_subtitle(report),
        tiles=_tiles(report),
        findings=_findings(report),
        matrix=_matrix(report),
        references=_references(report, pictures),
        negatives=_negatives(report, negatives),
        details=_details(report),
    )


def _subtitle(report: Mapping[str, Any]) -> str:
    parts = [
        count_text(len(report["references"]), "reference"),
        count_text(len(report["classes"]), "class"),
    ]
    if report["negatives"]:
        parts.append(count_text(len(report["negatives"]), "negative reference"))
    parts += [report["encoder"]["name"]] if report["encoder"].get("name") else []
    return " · ".join(escaped(part) for part in parts)


def _tiles(report: Mapping[str, Any]) -> str:
    found = report["findings"]
    texts = {
        "mislabelled": "nearer to another class than to their own",
        "weak": "far from the rest of their class",
        "duplicate": "pairs that say the same twice",
        "confusable": "pairs of classes that are hard to tell apart",
    }
    titles = ("Mislabelled?", "Weak", "Duplicates", "Confusable")
    tiles = []
    for (kind, text), title in zip(texts.items(), titles, strict=True):
        number = sum(item["kind"] == kind for item in found)
        alert = " alert" if number and kind != "confusable" else ""
        tiles.append(tile(title, f"{number:,}", text, kind=alert))
    return "".join(tiles)


def _findings(report: Mapping[str, Any]) -> str:
    found = report["findings"]
    if not found:
        return '<p class="note" data-testid="nothing">Nothing stands out.</p>'
    rows = "".join(
        f'<li><span class="kind {item["kind"]}">{KINDS[item["kind"]]}</span>'
        f"<span>{escaped(item['text'])}</span></li>"
        for item in found[:MAX_FINDINGS]
    )
    rest = more_line(len(found), MAX_FINDINGS, "in bank.json")
    return f'<ul class="findings" data-testid="findings">{rows}</ul>{rest}'


def _matrix(report: Mapping[str, Any]) -> str:
    """Classes in pairs that are hard to tell apart come first where not all can be shown."""
    names = [row["name"] for row in report["classes"]]
    close = {tuple(f["classes"]) for f in report["findings"] if f["kind"] == "confusable"}
    paired = {name for pair in close for name in pair}
    shown = sorted(range(len(names)), key=lambda k: (names[k] not in paired, k))[:MAX_MATRIX]
    shown.sort()
    values = [report["matrix"][a][b] for a in shown for b in shown]
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    head = "".join(f'<th scope="col" title="{escaped(names[k])}">{k + 1}</th>' for k in shown)
    rows = []
    for a in shown:
        cells = []
        for b in shown:
            value = report["matrix"][a][b]
            share = 0.0 if value is None else (value - low) / max(high - low, 1e-9)
            is_close = (names[a], names[b]) in close or (names[b], names[a]) in close
            kind = "own" if a == b else "close" if is_close else ""
            title = f"{names[a]} and {names[b]}"
            text = "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00")
            cells.append(
                f'<td class="{kind}" style="--v:{share:.2f}" title="{escaped(title)}">{text}</td>'
            )
        rows.append(
            f'<tr><th scope="row"><i class="dot {colour_class(a)}"></i>{a + 1} '
            f"<bdi>{escaped(shortened(names[a]))}</bdi></th>{''.join(cells)}</tr>"
        )
    return (
        '<div class="scroll" tabindex="0"><table class="matrix" data-testid="matrix"><thead><tr>'
        f"<td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        + more_line(len(names), MAX_MATRIX, "classes, in bank.json")
    )


def _references(report: Mapping[str, Any], pictures: Mapping[int, BankPicture]) -> str:
    notes = _notes(report)
    groups = []
    for number, row in enumerate(report["classes"]):
        own = [i for i, r in enumerate(report["references"]) if r["class"] == row["name"]]
        shown = [i for i in own if i in pictures]
        if not shown:
            continue
        cards = "".join(
            _card(report["references"][i], pictures[i], notes.get(i, []), number) for i in shown
        )
        groups.append(
            f'<div class="group"><h3><i class="dot {colour_class(number)}"></i>'
            f"<bdi>{escaped(shortened(row['name']))}</bdi></h3>"
            f'<div class="cards">{cards}</div>{more_line(len(own), len(shown), "references")}</div>'
        )
    rest = more_line(len(report["classes"]), len(groups), "classes, in bank.json")
    return "".join(groups) + rest


def _notes(report: Mapping[str, Any]) -> dict[int, list[str]]:
    """What is said about each reference, for its card."""
    notes: dict[int, list[str]] = {}
    for item in report["findings"]:
        for i in item["references"]:
            text = KINDS[item["kind"]]
            if item["kind"] == "mislabelled":
                text = f"looks like {report['references'][i]['nearest_class']}"
            notes.setdefault(i, []).append(text)
    return notes


def _card(
    reference: Mapping[str, Any], picture: BankPicture, notes: Sequence[str], number: int
) -> str:
    panes = ""
    if picture.crop is not None:
        panes = crop_picture(picture.crop, colour_class(number)) + _colours(picture)
    named = "".join(f"<b>{escaped(note)}</b>" for note in notes)
    nearest = reference.get("nearest_class")
    own = f"own class {figure(reference['own'])}"
    other = f" · {shortened(nearest)} {figure(reference['nearest'])}" if nearest else ""
    name = reference["file_name"] or f"number {reference['number']}"
    return (
        f'<figure class="ref-card{" named" if notes else ""}" data-testid="reference">'
        f'<div class="pair">{panes}</div><figcaption>'
        f'<bdi title="{escaped(name)}">{escaped(name)}</bdi>'
        f"{own}{escaped(other)}{named}</figcaption></figure>"
    )


def _colours(picture: BankPicture) -> str:
    crop = picture.crop
    if crop is None or not picture.colours_uri:
        return ""
    shown = crop.picture
    size = f'width="{shown.width * UNITS_PER_PX}" height="{shown.height * UNITS_PER_PX}"'
    return (
        f'<svg class="crop colours" viewBox="0 0 {view_box(shown)}" role="img" '
        f'aria-label="patch features as colours"><image {size} preserveAspectRatio="none" '
        f'href="{picture.colours_uri}"/><path d="{crop.path}"/></svg>'
    )


def _negatives(report: Mapping[str, Any], pictures: Mapping[int, BankPicture]) -> str:
    if not report["negatives"]:
        return ""
    numbers = {row["name"]: number for number, row in enumerate(report["classes"])}
    cards = "".join(
        _card(report["negatives"][i], picture, (), numbers[report["negatives"][i]["class"]])
        for i, picture in pictures.items()
    )
    rest = more_line(len(report["negatives"]), len(pictures), "in bank.json")
    return (
        '<section class="card"><h2>Negative references</h2><p class="note">What looks like a class '
        "and is not: masks nearer to one of these than to the class lose similarity to it. Those "
        "without a picture are what lies around references, or came with another bank. Below: "
        f'similarity to the class.</p><div class="cards">{cards}</div>{rest}</section>'
    )


def _details(report: Mapping[str, Any]) -> str:
    rows = [("memory bank", report["bank"][:_DIGEST_SHOWN])]
    rows += [(name, str(value)[:60]) for name, value in report["encoder"].items()]
    for source in report["sources"]:
        shots = sum(source["shots"].values())
        text = f"{source['references'][:_DIGEST_SHOWN]}, {shots:,} of {len(source['shots']):,}"
        rows.append(("references", f"{text} {'class' if len(source['shots']) == 1 else 'classes'}"))
    rows += [(name.replace("_", " "), f"{value:g}") for name, value in report["limits"].items()]
    return "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in rows
    )
