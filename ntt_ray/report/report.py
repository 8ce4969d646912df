"""The report of a run: ``report.html``, one file that needs no network, and ``report.json``.

Figures and places of pictures come of all shards (`shard_figures`), in this process or in many;
then the few images that are shown are read. The numbers of both files are the same, and
``report.json`` has the digest of the page. No clock is in them: the same run gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import ImageError, NttRayError
from ntt_ray.evaluate.matching import GroundTruth
from ntt_ray.images import decode_image
from ntt_ray.merge.digests import digest_of_bytes, json_file, sealed
from ntt_ray.merge.rendering import Loss, Mapper, map_here
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.pages.pictures import blank, thumbnail
from ntt_ray.records import ImageEntry, ReferenceSet
from ntt_ray.references.crop_pictures import crop_picture
from ntt_ray.report.gallery import Candidate, Place, count_matches
from ntt_ray.report.originals import link_to, sharp_part
from ntt_ray.report.overlays import Shot, ShotSize
from ntt_ray.report.page import ClassReferences, render_page
from ntt_ray.report.shard_figures import Limits, ShardFigures, Shards, figures_of
from ntt_ray.report.statistics import counts_to_json
from ntt_ray.run.layout import REPORT_FILE, REPORT_PAGE
from ntt_ray.run.record import RunRecord
from ntt_ray.settings import DecodeSettings
from ntt_ray.storage import Storage

FORMAT_VERSION = 1
LARGE = ShotSize()
SIZES = {  # of groups with many images
    "random": ShotSize(side=320, picture_bytes=24_000, masks=30, objects=60, part_bytes=8_000),
    "class": ShotSize(side=240, picture_bytes=12_000, objects=20, part_bytes=0),
}
REFERENCE_CLASSES = 24
CROPS_PER_CLASS = 6


def write_report(
    output: str,
    store: Storage,
    *,
    record: RunRecord,
    shard_ids: Sequence[int],
    read_unit: Callable[[int], Sequence[ImageEntry]],
    thresholds: Thresholds,
    references: ReferenceSet | None = None,
    ground_truth: Any = None,
    metrics: Mapping[str, Any] | None = None,
    images_per_s: float | None = None,
    losses: Mapping[str, Loss] | None = None,
    plan: Sequence[tuple[str, str]] = (),
    review: Mapping[str, Any] | None = None,
    drift: Sequence[str] = (),
    max_images: int = 24,
    random_images: int = 24,
    max_classes: int = 100,
    mapper: Mapper = map_here,
) -> dict[str, Any]:
    """Write ``report.html`` and ``report.json`` of a run.

    Args:
        output: folder or URI prefix of the run.
        store: access to files.
        record: the run record, the content of ``run.json``.
        shard_ids: the ids of the shards there are, in order.
        read_unit: the manifest entries of a unit by its shard id; called for shown images only.
        thresholds: which detections ``annotations.json`` keeps.
        references: shown as crops; None where the bank came ready.
        ground_truth: a parsed COCO instances file; shown beside the predictions.
        metrics: the content of ``metrics.json``. Its score of best F1 is where the slider starts
            and what counts as a prediction; without it that is the lowest score of
            `thresholds` for most classes.
        images_per_s: speed of the labelling in images per second, where it was measured.
        losses: how far the masks of a merged profile are from those of the shards, by profile;
            only of profiles that cannot hold the masks as they are.
        plan: what the whole run will take, where this is a sample of it: name and text of each.
        review: the content of ``estimate.json`` where labels of this run were reviewed.
        drift: alarms of the labelling in words, the first one first.
        max_images: images that are chosen by rank; about 60 kB each.
        random_images: images that are drawn at random; about 30 kB each where they are not among
            the ones before.
        max_classes: classes whose image with the highest score is shown; about 15 kB each.
        mapper: runs what looks into the shards; with a ground truth it must be this process.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: a shard is missing or damaged, or has classes that are not in the record.
    """
    classes = record.class_labels
    best_f1 = ((metrics or {}).get("false_alarms") or {}).get("score")
    threshold = thresholds.min_score if best_f1 is None else float(best_f1)
    truth = None if ground_truth is None else GroundTruth(ground_truth, classes)
    shards = Shards(output, store, truth)
    limits = Limits(threshold, max_images, random_images, max_classes)
    figures = figures_of(shards, shard_ids, classes, thresholds, limits, mapper)
    places, samples = _chosen(figures)
    chosen = shards.candidates(places)
    report = {
        "format_version": FORMAT_VERSION,
        **counts_to_json(figures.counts, classes, references),
        "threshold": threshold,
        "shards": {"planned": record.plan.units, "read": len(shard_ids)},
        "metrics": None if metrics is None else dict(metrics),
        "images_per_s": images_per_s,
        "plan": [list(row) for row in plan],
        "review": None if review is None else dict(review),
        "drift": list(drift),
        "losses": {name: _loss(loss) for name, loss in sorted((losses or {}).items())},
        **_provenance(record),
        **samples,
        "gallery": [_shown(group, c, threshold) for group, found in chosen.items() for c in found],
    }
    # pixels must lie under their masks; the oldest records do not say how, and it was stored then
    how = {"orientation": "stored", **record.identity.decode}
    decode = DecodeSettings.model_validate_json(json.dumps(how))
    shots = {}
    for group, found in chosen.items():
        size = SIZES.get(group, LARGE)
        shots[group] = [_shot(c, size, read_unit, store, decode, output) for c in found]
    pictures = _reference_pictures(references, report, store)
    page = render_page(report, references=pictures, shots=shots)
    html = page.encode("utf-8", "replace")
    report = sealed({**report, "page_sha256": digest_of_bytes(html).sha256})
    store.publish_bytes(storage.join(output, REPORT_PAGE), html)
    store.publish_bytes(storage.join(output, REPORT_FILE), json_file(report))
    return report


def _chosen(figures: ShardFigures) -> tuple[dict[str, list[Place]], dict[str, Any]]:
    """The images to show by group, none of them twice, and how the samples were chosen.

    The draw is one from all images: what it has in common with the groups before stays drawn, and
    is not shown again. The groups of samples are there where there is something to say of them.
    """
    draw, by_class = figures.draw, figures.by_class
    groups = {group: found for group, found in figures.picker.chosen().items() if found}
    drawn = draw.drawn()
    shown = [place for found in groups.values() for place in found]
    if drawn:
        seen = {place.image_id for place in shown}
        groups["random"] = [place for place in drawn if place.image_id not in seen]
        shown += groups["random"]
    own, known = by_class.chosen(shown)
    if own or known:
        groups["class"] = own
    classes = len(by_class.found)
    left_out = max(0, classes - by_class.max_classes)
    return groups, {
        "random": {"seed": draw.seed, "image_ids": [place.image_id for place in drawn]},
        "class_images": {"classes": classes, "shown_before": known, "left_out": left_out},
    }


def _loss(loss: Loss) -> dict[str, Any]:
    mean = 1.0 - loss.lost_iou / max(1, loss.instances)
    counts = {"instances": loss.instances, "changed": loss.changed}
    return {**counts, "mean_iou": round(mean, 9), "min_iou": round(loss.min_iou, 9)}


def _provenance(record: RunRecord) -> dict[str, Any]:
    identity = record.identity
    models: dict[str, Any] = {}
    execution: dict[str, Any] = {}
    for key, value in identity.models.plain().items():
        (models if isinstance(value, Mapping) else execution)[key] = value
    return {
        "source": identity.images,
        "bank": identity.bank,
        "models": models,
        "execution": execution,
        "decode": dict(identity.decode),
        "method": dict(identity.method),
        "labels_hash": record.labels_hash,
        "versions": dict(record.versions),
        "git_revision": record.git_revision,
    }


def _shown(group: str, candidate: Candidate, threshold: float) -> dict[str, Any]:
    """An image of the gallery as data; right, wrong and missed at the threshold."""
    labels, matches = candidate.labels, candidate.matches
    kept = sum(d.score >= threshold for d in labels.detections)
    judged = None
    if matches is not None:
        judged = dict(zip(("right", "wrong", "missed"), count_matches(matches, kept)))
    return {
        "group": group,
        "image_id": labels.entry.image_id,
        "file_name": labels.entry.file_name,
        "category_ids": list(candidate.category_ids) or None,
        "detections": [
            {"category_id": d.category_id, "score": round(d.score, 9)} for d in labels.detections
        ],
        "objects": None if matches is None else len(matches.objects),
        "at_threshold": judged,
    }


def _shot(
    candidate: Candidate,
    size: ShotSize,
    read_unit: Callable[[int], Sequence[ImageEntry]],
    store: Storage,
    decode: DecodeSettings,
    output: str,
) -> Shot:
    labels = candidate.labels
    assert labels.height is not None
    assert labels.width is not None
    size_hw = (labels.height, labels.width)
    uris = {entry.image_id: entry.uri for entry in read_unit(candidate.shard_id)}
    uri = uris[labels.entry.image_id]
    try:
        image_rgb = decode_image(store.read_bytes(uri), decode)
        if image_rgb.shape[:2] != size_hw:
            raise ImageError("the image has another size than when it was labelled")
    except FileNotFoundError:
        why = "The image is not there any more."
        return Shot(candidate, blank(size_hw, size.side), why, size)
    except NttRayError as error:
        return Shot(candidate, blank(size_hw, size.side), f"No picture: {error}", size)
    picture = thumbnail(image_rgb, size.side, size.picture_bytes)
    part = sharp_part(labels, candidate.matches, image_rgb, picture, size.part_bytes)
    return Shot(candidate, picture, "", size, link_to(uri, output), part)


def _reference_pictures(
    references: ReferenceSet | None, report: Mapping[str, Any], store: Storage
) -> list[ClassReferences]:
    """Crops of the classes with the most labels, by rising id."""
    if references is None:
        return []
    kept = {row["id"]: row["kept"] for row in report["classes"]}
    known = [label for label in references.classes if label.category_id in kept]
    ranked = sorted(known, key=lambda label: (-kept[label.category_id], label.category_id))
    shown = sorted(ranked[:REFERENCE_CLASSES], key=lambda label: label.category_id)
    ratio = float(report["method"].get("context_ratio", 0))
    groups = []
    for label in shown:
        own = references.of_class(label.category_id)
        crops = tuple(crop_picture(reference, ratio, store) for reference in own[:CROPS_PER_CLASS])
        groups.append(ClassReferences(label, len(own), crops))
    return groups
