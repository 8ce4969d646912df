"""The figures of a report as HTML, put into the template together with the pictures.

Every text from the data is escaped. It reads no files but `report.html`, and counts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from ntt_ray.pages.overlays import (
    ClassReferences,
    Gallery,
    Shot,
    colour_class,
    escaped,
    more_line,
    reference_section,
    shortened,
)
from ntt_ray.report.metrics_page import figure, metrics_section

MAX_CLASS_ROWS = 40
_DIGEST_SHOWN = 12


def render_page(
    report: Mapping[str, Any],
    *,
    references: Sequence[ClassReferences],
    shots: Mapping[str, Sequence[Shot]],
) -> str:
    """Fill the template.

    Args:
        report: the content of ``report.json``.
        references: crops by class, in the order shown.
        shots: the gallery by group.
    """
    numbers = {row["id"]: number for number, row in enumerate(report["classes"])}
    names = [row["name"] for row in report["classes"]]
    gallery = Gallery(numbers, names, float(report["threshold"]))
    gallery_html = gallery.section(shots)  # first: it finds the classes that appear
    return fill_template(
        "report.html",
        subtitle=_subtitle(report),
        tiles=_tiles(report),
        metrics=metrics_section(report["metrics"]),
        histogram=_histogram(report),
        classes=_class_table(report),
        failures=_failures(report),
        references=reference_section(references, numbers),
        gallery=gallery_html,
        details=_details(report),
        data=_script_json({"classes": {n: names[n] for n in sorted(gallery.used)}}),
    )


def fill_template(name: str, **parts: str) -> str:
    """Put parts, escaped already, into a template; all pages share one style."""
    folder = resources.files("ntt_ray.pages").joinpath("templates")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    template = Template(folder.joinpath(name).read_text(encoding="utf-8"))
    return template.substitute(parts, style=style)


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e")


def count_text(value: int, noun: str) -> str:
    """``1,234 images``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{value:,} {noun if value == 1 else plural}"


# Summary.


def _subtitle(report: Mapping[str, Any]) -> str:
    parts = [
        count_text(report["images"]["total"], "image"),
        count_text(len(report["classes"]), "class"),
    ]
    parts += [model["name"] for model in report["models"].values() if model.get("name")]
    return " · ".join(escaped(part) for part in parts)


def _tiles(report: Mapping[str, Any]) -> str:
    images, found = report["images"], report["detections"]
    split = f"{images['ok']:,} with objects · {images['empty']:,} without"
    split += f" · {images['failed']:,} failed" if images["failed"] else ""
    tiles = [
        tile("Images", f"{images['total']:,}", split, _status_bar(images)),
        tile(
            "Labels",
            f"{found['kept']:,}",
            f"with a score of {report['min_score']:g} or more; {found['total']:,} in all",
        ),
    ]
    metrics = report["metrics"]
    if metrics:
        mask, box = metrics.get("segm", {}), metrics.get("bbox", {})
        for name, figures in (("Mask AP", mask), ("Box AP", box)):
            if not figures:
                continue  # ground truth with boxes only
            rest = f"AP50 {figure(figures.get('AP50'))} · AP75 {figure(figures.get('AP75'))}"
            tiles.append(tile(name, figure(figures.get("AP")), rest))
        tiles += _false_alarm_tile(metrics.get("false_alarms") or {})
    if report["images_per_s"] is not None:
        tiles.append(tile("Speed", f"{report['images_per_s']:.2f}", "images per second"))
    missing = report["shards"]["planned"] - report["shards"]["read"]
    if missing > 0:
        rest = f"of {report['shards']['planned']:,} shards; this report is partial"
        tiles.append(tile("Missing", f"{missing:,}", rest, kind=" alert"))
    return "".join(tiles)


def tile(title: str, value: str, rest: str, below: str = "", kind: str = "") -> str:
    """A figure of the summary; `below` is HTML, the other texts are escaped here."""
    return (
        f'<div class="tile{kind}"><h3>{escaped(title)}</h3><p class="figure">{escaped(value)}</p>'
        f"<p>{escaped(rest)}</p>{below}</div>"
    )


def _status_bar(images: Mapping[str, int]) -> str:
    parts = "".join(
        f'<i class="{status}" style="flex-grow:{images[status]}"></i>'
        for status in ("ok", "empty", "failed")
        if images[status]
    )
    return f'<div class="bar" aria-hidden="true">{parts}</div>'


def _false_alarm_tile(alarms: Mapping[str, Any]) -> list[str]:
    if alarms.get("share") is None:
        return []
    rest = (
        f"of {count_text(alarms['images_without_objects'], 'image')} without objects, "
        f"at a score of {alarms['score']:.2f}"
    )
    return [tile("False alarms", f"{alarms['share']:.0%}", rest)]


def _histogram(report: Mapping[str, Any]) -> str:
    data = report["score_histogram"]
    bars, top = data["all"], max([*data["all"], 1])
    judged = any(data["right"]) or any(data["wrong"])
    drawn = []
    for number, count in enumerate(bars):
        if not count:
            continue
        low = number * data["bin_width"]
        right, wrong = data["right"][number], data["wrong"][number]
        title = f"{low:.2f} to {low + data['bin_width']:.2f}: {count:,}"
        title += f" ({right:,} right, {wrong:,} wrong)" if judged else ""
        parts, y = [], 100.0
        for kind, part in (("right", right), ("wrong", wrong), ("all", count - right - wrong)):
            height = 100 * part / top
            y -= height
            if part:
                parts.append(
                    f'<rect class="{kind}" x="{number}.08" y="{y:.2f}" width=".84" '
                    f'height="{height:.2f}"/>'
                )
        drawn.append(f"<g>{''.join(parts)}<title>{title}</title></g>")
    marks = [(report["min_score"], "labels from")]
    if report["threshold"] != report["min_score"]:
        marks.append((report["threshold"], "best F1 at"))
    lines = "".join(
        f'<div class="mark{" flip" if score > 0.6 else ""}" style="left:{100 * score:.2f}%">'
        f'<span style="top:{18 * row}px">{text} {score:.2f}</span></div>'
        for row, (score, text) in enumerate(marks)
        if 0 <= score <= 1
    )
    legend = (
        '<p class="legend"><i class="right"></i>right (IoU of 0.5 or more) '
        '<i class="wrong"></i>wrong</p>'
        if judged
        else ""
    )
    return (
        f'{legend}<div class="chart"><svg viewBox="0 0 {len(bars)} 100" role="img" '
        'preserveAspectRatio="none" aria-label="Number of detections by score" '
        f'data-testid="histogram">{"".join(drawn)}</svg>{lines}'
        f'<span class="top">{top:,}</span></div>'
        '<div class="axis"><span>0</span><span>0.25</span><span>0.5</span><span>0.75</span>'
        "<span>1</span></div>"
    )


# Tables.


def _class_table(report: Mapping[str, Any]) -> str:
    rows = list(enumerate(report["classes"]))
    if len(rows) > MAX_CLASS_ROWS:
        rows.sort(key=lambda item: (-item[1]["kept"], -item[1]["detections"], item[0]))
    per_class = (report["metrics"] or {}).get("per_class", {})
    with_references = any(row["references"] is not None for _, row in rows)
    head = ["Class"]
    head += ["References"] if with_references else []
    head += ["Images", "Labels", "All"] + (["Mask AP", "Box AP"] if per_class else []) + ["Scores"]
    body = []
    for number, row in rows[:MAX_CLASS_ROWS]:
        cells = [f"{row['references']:,}"] if with_references else []
        cells += [f"{row['images']:,}", f"{row['kept']:,}", f"{row['detections']:,}"]
        if per_class:
            own = per_class.get(row["name"], {})
            cells += [figure(own.get(kind, {}).get("AP")) for kind in ("segm", "bbox")]
        body.append(
            f'<tr><th scope="row"><i class="dot {colour_class(number)}"></i>'
            f"<bdi>{escaped(shortened(row['name']))}</bdi></th>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + f'<td class="spark">{_spark(row["histogram"])}</td></tr>'
        )
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    kind = ' class="refs"' if with_references else ""
    return (
        f'<div class="scroll" tabindex="0"><table{kind} data-testid="classes"><thead>'
        f"<tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        + more_line(len(rows), MAX_CLASS_ROWS, "classes, in report.json")
    )


def _spark(histogram: Sequence[int]) -> str:
    top = max([*histogram, 1])
    bars = "".join(
        f'<rect x="{i}.1" y="{16 - 16 * n / top:.2f}" width=".8" height="{16 * n / top:.2f}"/>'
        for i, n in enumerate(histogram)
        if n
    )
    return (
        f'<svg viewBox="0 0 {len(histogram)} 16" preserveAspectRatio="none" aria-hidden="true">'
        f"{bars}</svg>"
    )


def _failures(report: Mapping[str, Any]) -> str:
    if not report["failures"]:
        return ""
    rows = []
    for failure in report["failures"]:
        names = "".join(f"<li><bdi>{escaped(name)}</bdi></li>" for name in failure["examples"])
        more = failure["images"] - len(failure["examples"])
        names += f"<li>and {more:,} more</li>" if more > 0 else ""
        rows.append(
            f"<tr><td>{failure['images']:,}</td><td><bdi>{escaped(failure['reason'])}</bdi></td>"
            f'<td><ul class="names">{names}</ul></td></tr>'
        )
    return (
        '<section class="card"><h2>Failed images</h2><div class="scroll" tabindex="0">'
        '<table class="text" data-testid="failures"><thead><tr><th scope="col">Images</th>'
        '<th scope="col">Reason</th><th scope="col">For example</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _details(report: Mapping[str, Any]) -> str:
    rows: list[tuple[str, str]] = [("images", report["source"])]
    for role, model in report["models"].items():
        digest = str(model.get("checkpoint") or "")[:_DIGEST_SHOWN]
        size = f", {model['image_size']} px" if model.get("image_size") else ""
        rows.append((role, f"{model.get('name')}{size}, weights {digest or 'unknown'}"))
    settings = {**report["decode"], **report["method"]}
    rows += [(name.replace("_", " "), str(v)) for name, v in sorted(settings.items())]
    rows += [(name, str(value)) for name, value in sorted(report["execution"].items())]
    rows.append(("memory bank", str(report["bank"])[:_DIGEST_SHOWN]))
    rows.append(("labels hash", str(report["labels_hash"])[:_DIGEST_SHOWN]))
    if report["git_revision"]:
        rows.append(("git revision", str(report["git_revision"])[:_DIGEST_SHOWN]))
    rows += [(f"{name} masks", _loss(loss)) for name, loss in report["losses"].items()]
    rows += sorted(report["versions"].items())
    return "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in rows
    )


def _loss(loss: Mapping[str, Any]) -> str:
    """How far the masks of a profile are from those of the shards."""
    compared = f"{loss['instances']:,} compared"
    if not loss["changed"]:
        return f"{compared}, all the same"
    figures = f"IoU {loss['mean_iou']:.4f} on average, {loss['min_iou']:.3f} at worst"
    return f"{compared}, {loss['changed']:,} not the same: {figures}"
