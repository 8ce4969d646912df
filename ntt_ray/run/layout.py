"""The map of an output: the name of every file and folder in it, which no other module holds.

``docs/output.md`` is its page: what each file is, who writes it and when. It knows names only, not
what is in the files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from ntt_ray import storage

RECORD_FILE = "run.json"
MANIFEST_FILE = "manifest.parquet"
BANK_FILE, BANK_PAGE, BANK_REPORT = "bank.safetensors", "bank.html", "bank.json"
BOXES_FILE = "boxes.parquet"
LABELS_FOLDER, SHARD_SUFFIX, JOURNAL_SUFFIX = "labels", ".parquet", ".journal.json"
AGAIN_SUFFIX = ".again.json"
PROPOSALS_FOLDER = "proposals"  # shards of the names of those of labels
LOCK_FILE = "driver.lock"
DRIFT_FILE = "drift.json"
MERGE_LOCK_FILE = "merge.lock"  # a partial merge may go on beside labelling
CLAIM_SUFFIX = ".claim"  # behind the name of a lock that is being taken over

MERGE_FILE = "merge.json"
COCO_FILE, RESULTS_FILE, POLYGON_FILE = "annotations.json", "results.json", "polygons.json"
TASKS_FILE, INTERFACE_FILE = "labelstudio.json", "labelstudio.xml"
YOLO_LABELS, YOLO_FILE = "yolo/labels/", "yolo/data.yaml"
YOLO_TRAIN, YOLO_VAL = "yolo/train.txt", "yolo/val.txt"
CLASS_MAPS, CLASS_MAPS_FILE = "semantic/", "semantic/classes.json"
INSTANCES_FOLDER = "instances"
LABEL_TARS, DATASET_FOLDER = "webdataset/", "hf/data"

METRICS_FILE = "metrics.json"
REPORT_PAGE, REPORT_FILE = "report.html", "report.json"
CALIBRATION_PAGE, CALIBRATION_FILE = "calibration.html", "calibration.json"
CALIBRATION_FOLDER = "calibration-proposals"  # of reference pictures
PLAN_FOLDER, PLAN_FILE, SAMPLE_FILE = "plan", "plan.json", "sample.jsonl"
REVIEW_FOLDER = "review"
DRAW_FILE, REVIEW_PAGE = "review/draw.json", "review/review.html"
REVIEW_COCO, REVIEW_TASKS = "review/coco.json", "review/labelstudio.json"
REVIEW_INTERFACE, VERDICTS_PREFIX = "review/labelstudio.xml", "verdicts-"
ESTIMATE_FILE, PROMISE_FILE = "review/estimate.json", "review/thresholds.json"
LOOK_PREFIX = "by-"  # folder of labels that were chosen by an order, and not drawn

FILES = (
    *(RECORD_FILE, MANIFEST_FILE, BANK_FILE, BANK_PAGE, BANK_REPORT, BOXES_FILE),
    *(
        f"{LABELS_FOLDER}/shard-*{suffix}"
        for suffix in (SHARD_SUFFIX, JOURNAL_SUFFIX, AGAIN_SUFFIX)
    ),
    f"{PROPOSALS_FOLDER}/shard-*{SHARD_SUFFIX}",
    *(LOCK_FILE, "driver-*-of-*.lock", MERGE_LOCK_FILE, f"*.lock{CLAIM_SUFFIX}"),
    *(DRIFT_FILE, "drift-*-of-*.json"),
    *(MERGE_FILE, COCO_FILE, "annotations-*-of-*.json"),
    *(RESULTS_FILE, "results-*-of-*.json"),
    *(POLYGON_FILE, "polygons-*-of-*.json"),
    *(TASKS_FILE, "labelstudio-*-of-*.json", INTERFACE_FILE),
    *(f"{YOLO_LABELS}*.txt", YOLO_FILE, YOLO_TRAIN, YOLO_VAL),
    *(f"{CLASS_MAPS}*.png", CLASS_MAPS_FILE),
    f"{INSTANCES_FOLDER}/part-*-of-*.parquet",
    *(f"{LABEL_TARS}*.tar", f"{DATASET_FOLDER}/train-*-of-*.parquet"),
    *(METRICS_FILE, REPORT_PAGE, REPORT_FILE, CALIBRATION_PAGE, CALIBRATION_FILE),
    f"{CALIBRATION_FOLDER}/pictures-*{SHARD_SUFFIX}",
    *(f"{PLAN_FOLDER}/*/{name}" for name in (PLAN_FILE, SAMPLE_FILE)),
    *(DRAW_FILE, REVIEW_PAGE, REVIEW_COCO, REVIEW_TASKS, REVIEW_INTERFACE),
    *(f"{REVIEW_FOLDER}/{VERDICTS_PREFIX}*.json", ESTIMATE_FILE, PROMISE_FILE),
    f"{REVIEW_FOLDER}/{LOOK_PREFIX}*/*",
)  # as patterns of a shell; below PLAN_FOLDER/*/ the sample is an output of its own
_PART_LOCK = re.compile(r"driver-(\d{4})-of-(\d{4})\.lock")
_DRIFT = re.compile(r"drift(-\d{4}-of-\d{4})?\.json")
_UNIT = re.compile(r"shard-(\d{6,})(\..+)")
PART = re.compile(r"part-\d{5,}-of-\d{5,}\.parquet")


def split_pattern(name: str) -> str:
    """A regular expression for the name of a file and of the files that it may be split into."""
    stem, suffix = (re.escape(part) for part in name.rsplit(".", 1))
    return rf"{stem}(-\d{{5,}}-of-\d{{5,}})?\.{suffix}"


# every name that a merge gives to a file, but for those of images in YOLO_LABELS and CLASS_MAPS
MERGED_FILE = re.compile(
    "|".join(
        [
            *(split_pattern(name) for name in (COCO_FILE, RESULTS_FILE, POLYGON_FILE, TASKS_FILE)),
            *map(re.escape, (INTERFACE_FILE, YOLO_FILE, YOLO_TRAIN, YOLO_VAL)),
            re.escape(CLASS_MAPS_FILE),
            f"{INSTANCES_FOLDER}/{PART.pattern}",
            rf"{LABEL_TARS}(?:(?!\.{{1,2}}/)[^/]+/)*[^/]+\.tar",
            rf"{DATASET_FOLDER}/train-\d{{5,}}-of-\d{{5,}}\.parquet",
        ]
    )
)


def part_lock(number: int, count: int) -> str:
    """File name of the lock of a part of a run, e.g. ``driver-0002-of-0004.lock``."""
    return f"driver-{number:04d}-of-{count:04d}.lock"


def part_of_lock(name: str) -> tuple[int, int] | None:
    """Number and count of the part whose lock has this name; None of other files."""
    match = _PART_LOCK.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def drift_file(part: tuple[int, int] | None) -> str:
    """File name of the alarms of a driver: of all of a run, or of a part by number and count."""
    return DRIFT_FILE if part is None else "drift-{:04d}-of-{:04d}.json".format(*part)


def is_drift_file(name: str) -> bool:
    """Whether a file has the alarms of a driver."""
    return _DRIFT.fullmatch(name) is not None


def shard_name(shard_id: int) -> str:
    """File name of a shard, e.g. ``shard-000123.parquet``."""
    return f"shard-{shard_id:06d}{SHARD_SUFFIX}"


def shard_uri(output: str, shard_id: int) -> str:
    """Where a shard of a run lies."""
    return storage.join(output, LABELS_FOLDER, shard_name(shard_id))


def proposals_uri(output: str, shard_id: int) -> str:
    """Where the proposals of a unit lie, in a run that keeps them."""
    return storage.join(output, PROPOSALS_FOLDER, shard_name(shard_id))


def picture_proposals(digest: str) -> str:
    """File name of the proposals of some reference pictures, relative to the output.

    Args:
        digest: a digest of the file's content, in hex.
    """
    return f"{CALIBRATION_FOLDER}/pictures-{digest[:16]}{SHARD_SUFFIX}"


def shard_ids(names: Iterable[str], suffix: str = SHARD_SUFFIX) -> set[int]:
    """The ids of the units that have a file of a suffix, among the names in the labels' folder."""
    matches = filter(None, map(_UNIT.fullmatch, names))
    return {int(match[1]) for match in matches if match[2] == suffix}


def journal_name(shard_id: int) -> str:
    """File name of the notes on a unit, e.g. ``shard-000123.journal.json``."""
    return shard_name(shard_id).removesuffix(SHARD_SUFFIX) + JOURNAL_SUFFIX


def journal_uri(output: str, shard_id: int) -> str:
    """Where the notes on a unit lie; deleted once its shard is there."""
    return storage.join(output, LABELS_FOLDER, journal_name(shard_id))


def again_uri(output: str, shard_id: int) -> str:
    """Where it lies that images of a shard are to be tried again; deleted when none is left."""
    name = shard_name(shard_id).removesuffix(SHARD_SUFFIX) + AGAIN_SUFFIX
    return storage.join(output, LABELS_FOLDER, name)


def part_name(number: int, count: int) -> str:
    """File name of a part of the instance table, relative to the output; the first is 1."""
    return f"{INSTANCES_FOLDER}/part-{number:05d}-of-{count:05d}.parquet"


def dataset_name(number: int, count: int) -> str:
    """File name of a part of the Hugging Face data set, relative to the output; the first is 0."""
    return f"{DATASET_FOLDER}/train-{number:05d}-of-{count:05d}.parquet"


def split_names(name: str, count: int) -> list[str]:
    """Names of the files that one is split into, e.g. ``annotations-00001-of-00012.json``."""
    stem, suffix = name.rsplit(".", 1)
    return [f"{stem}-{number:05d}-of-{count:05d}.{suffix}" for number in range(1, count + 1)]


def review_name(name: str, order: str | None) -> str:
    """The name of a file of a review, where its labels were chosen by an order, e.g. outliers.

    What was drawn by probability lies in `REVIEW_FOLDER` itself.
    """
    if order is None:
        return name
    return f"{REVIEW_FOLDER}/{LOOK_PREFIX}{order}/{name.removeprefix(REVIEW_FOLDER + '/')}"


def verdicts_name(reviewer: str) -> str:
    """File name of somebody's verdicts, relative to the output; no name leads elsewhere."""
    plain = re.sub(r"[^a-z0-9]+", "-", reviewer.lower()).strip("-")[:40]
    if plain != reviewer:  # others may look like it
        digest = hashlib.sha256(reviewer.encode("utf-8", "surrogatepass")).hexdigest()
        plain = f"{plain}-{digest[:8]}".strip("-")
    return f"{REVIEW_FOLDER}/{VERDICTS_PREFIX}{plain}.json"
