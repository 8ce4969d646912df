"""33 corruptions of a finished output: `verify` finds each, and what the same command then does.

The commands are those of `ntt-ray run`; labelling is left to a stand-in that writes the shards that
are not there, because the models are not what this is about.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ntt_ray.errors import NttRayError
from ntt_ray.evaluate.job import evaluate_run
from ntt_ray.merge.passes import WRITERS
from ntt_ray.report.job import report_run
from ntt_ray.run.manifest_writer import manifest_bytes
from ntt_ray.run.prepare import check_images
from tests.support.commands import run_command
from tests.support.verify_run import STORE, Run

PER_UNIT = 12
SHARD, OTHER_SHARD = "labels/shard-000001.parquet", "labels/shard-000000.parquet"
SHARD_NAME = "shard-000001.parquet"
OTHER_RUN = "other"  # the folder of another finished run beside this one
Rows = list[dict[str, Any]]


def _finished(folder: Path, **options: Any) -> Run:
    """A run of 24 images in 2 units: merged to every profile, evaluated, with its report."""
    folder.mkdir(exist_ok=True)
    run = Run(folder, images=24, per_unit=PER_UNIT, profiles=list(WRITERS), **options)
    rows = [row for unit in range(2) for row in run.rows(unit) if row["height"] is not None]
    images = [
        {"id": r["image_id"], "file_name": r["file_name"], "height": 6, "width": 8} for r in rows
    ]
    found = [(row["image_id"], item) for row in rows for item in row["annotations"]]
    annotations = [
        {"id": number, "image_id": image_id, "iscrowd": 0}
        | {key: item[key] for key in ("category_id", "bbox", "area")}
        | {"segmentation": {"size": [6, 8], "counts": item["counts"]}}
        for number, (image_id, item) in enumerate(found, start=1)
    ]
    categories = [{"id": 1, "name": "nut"}, {"id": 2, "name": "bölt"}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    run.config = run.config.model_copy(update={"ground_truth": str(path)})
    _again(run)
    return run


def _again(run: Run) -> None:
    """What ``ntt-ray run`` does with an output."""
    images = check_images(run.config, STORE)
    for unit in set(range(len(images.sizes))) - images.done:
        run.write_shard(unit)
    run.merge()
    evaluate_run(run.config)
    report_run(run.config)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("untouched")
    _finished(folder / OTHER_RUN, bank=b"another bank")
    return _finished(folder)


@pytest.fixture
def run(untouched: Run, tmp_path: Path) -> Run:
    return untouched.copied(tmp_path)


def _other(run: Run) -> Path:
    """The output of the other run, which lies beside the ground truth of this one."""
    return Path(str(run.config.ground_truth)).parent / OTHER_RUN / "run"


# how files are damaged


def _rows(change: Callable[[Rows], Any]) -> Callable[[Run], None]:
    """Other rows in the shard, written with all its metadata by another tool."""

    def damage(run: Run) -> None:
        table = pq.read_table(run.output / SHARD)
        rows = table.to_pylist()
        changed = change(rows)
        kept = rows if changed is None else changed
        pq.write_table(pa.Table.from_pylist(kept, schema=table.schema), run.output / SHARD)

    return damage


def _item(**changes: Any) -> Callable[[Rows], None]:
    """Another value in the first detection of the shard."""

    def change(rows: Rows) -> None:
        next(row for row in rows if row["annotations"])["annotations"][0].update(changes)

    return change


def _failed(rows: Rows) -> None:
    for row in rows:
        row.update(status="failed", error="not an image", height=None, width=None, annotations=[])


def _and_merged(damage: Callable[[Run], None]) -> Callable[[Run], None]:
    """The damage, and then a merge, which may refuse it."""

    def damage_and_merge(run: Run) -> None:
        damage(run)
        with contextlib.suppress(NttRayError):
            run.merge()

    return damage_and_merge


def _behind(name: str, data: bytes = b"\n\0") -> Callable[[Run], None]:
    def damage(run: Run) -> None:
        with (run.output / name).open("ab") as stream:
            stream.write(data)

    return damage


def _byte(name: str) -> Callable[[Run], None]:
    """Another byte in the middle of a file."""

    def damage(run: Run) -> None:
        data = bytearray((run.output / name).read_bytes())
        data[len(data) // 2] ^= 1
        (run.output / name).write_bytes(data)

    return damage


def _from(name: str, *, other_run: bool = False, to: str | None = None) -> Callable[[Run], None]:
    """A file of this run or of the other one in a file's place."""

    def damage(run: Run) -> None:
        folder = _other(run) if other_run else run.output
        run.publish(to or name, (folder / name).read_bytes())

    return damage


def _manifest(change: Callable[[Rows], Any]) -> Callable[[Run], None]:
    def damage(run: Run) -> None:
        table = pq.read_table(run.output / "manifest.parquet")
        rows = table.to_pylist()
        change(rows)
        data = manifest_bytes(pa.Table.from_pylist(rows, schema=table.schema), PER_UNIT)
        run.publish("manifest.parquet", data)

    return damage


def _missing(*names: str) -> Callable[[Run], None]:
    def damage(run: Run) -> None:
        for name in names:
            (run.output / name).unlink()

    return damage


@dataclass(frozen=True)
class Corruption:
    """What is done to a finished output, what `verify` says, and what the same command does.

    Attributes:
        damage: what is done.
        where: the files that `verify` names.
        texts: parts of what it says.
        refusal: what the same command says (a pattern); None: it mends the output by itself.
            Empty: it may refuse or go on, which the checks of a done shard decide.
        restored: the file that is to be put back then; else the shard is deleted.
    """

    damage: Callable[[Run], Any]
    where: tuple[str, ...]
    texts: tuple[str, ...]
    refusal: str | None = None
    restored: str | None = None


def _shard(damage: Callable[[Run], Any], text: str) -> Corruption:
    """No shard of its unit, so that a resume does the unit again."""
    return Corruption(damage, (SHARD_NAME,), (text,))


def _edited(
    change: Callable[[Rows], Any],
    problem: str = "",
    *,
    merged: bool = False,
    other_images: bool = False,
) -> Corruption:
    """A shard with other rows: found by the digest of what was written, and refused.

    `problem` is what is said of the rows beside that. With rows of other images than its unit's a
    resume sees it by itself, and does the unit again.
    """
    edited = "its rows are not those that were written; delete it, and start the same command again"
    damage = _and_merged(_rows(change)) if merged else _rows(change)
    texts = (edited, problem) if problem else (edited,)
    refusal = None if other_images else rf"shard-000001\.parquet: {edited}"
    return Corruption(damage, (SHARD_NAME,), texts, refusal)


def _merged(name: str, where: str | None = None) -> Corruption:
    return Corruption(_byte(name), (where or name,), ("merge again",))


PROFILE_FILES = (  # one of each profile
    *("annotations.json", "results.json", "polygons.json", "labelstudio.json"),
    *("instances/part-00001-of-00001.parquet", "yolo/labels/img/2.txt", "semantic/img/2.jpg.png"),
)
NAMED = (*PROFILE_FILES[:-2], "yolo/labels/", "semantic/")
MANIFEST, RECORD = "manifest.parquet", "run.json"
CORRUPTIONS = {
    # shards
    "predicted_iou changed": _edited(_item(predicted_iou=0.25)),
    "bytes behind a shard": _shard(_behind(SHARD), "damaged"),
    "garbage in a shard's place": _shard(
        lambda run: run.publish(SHARD, b"garbage" * 99), "damaged"
    ),
    "a shard emptied and merged again": _edited(
        lambda rows: [], "('img/13.jpg') has no row", merged=True, other_images=True
    ),
    "a shard set to failed and merged again": _edited(_failed, merged=True),
    "another unit's shard": _shard(_from(OTHER_SHARD, to=SHARD), "belongs to unit 0"),
    "another run's shard": _shard(_from(SHARD, other_run=True), "its labels_hash is"),
    "10 rows of 12": _edited(
        lambda rows: rows[:10], "('img/24.jpg') has no row", other_images=True
    ),
    "11 rows of 12": _edited(lambda rows: rows[1:], "('img/13.jpg') has no row", other_images=True),
    "14 rows of 12": _edited(
        lambda rows: rows + rows[:2], "image 14 has 2 rows", other_images=True
    ),
    "a box that does not fit its mask": _edited(
        _item(bbox=[0.0, 0.0, 8.0, 6.0]), "says [0.0, 0.0, 8.0, 6.0], its mask"
    ),
    "an area that does not fit its mask": _edited(_item(area=7), "says 7, its mask has"),
    "an RLE of another size": _edited(_item(counts="11"), "of 2 pixels, not 6 x 8"),
    "rows out of order": _edited(
        lambda rows: rows.reverse(), "is not where the manifest has it", other_images=True
    ),
    "an image id twice": _edited(
        lambda rows: rows[1].update(image_id=rows[0]["image_id"]),
        "image 13 has 2 rows",
        other_images=True,
    ),
    "a category id that is not in the bank": _edited(
        _item(category_id=5), "category 5 is no class of the run"
    ),
    # merged files
    "bytes behind annotations.json": Corruption(
        _behind("annotations.json", b"\n"), ("annotations.json",), ("merge again",)
    ),
    "a YOLO text": _merged("yolo/labels/img/2.txt", "yolo/labels/"),
    "polygons.json": _merged("polygons.json"),
    "the instances' Parquet": _merged("instances/part-00001-of-00001.parquet"),
    "a class map": _merged("semantic/img/2.jpg.png", "semantic/"),
    "labelstudio.json": _merged("labelstudio.json"),
    "a missing file of each profile": Corruption(_missing(*PROFILE_FILES), NAMED, ("merge again",)),
    "merge.json damaged": Corruption(_byte("merge.json"), ("merge.json",), ("merge again",)),
    "merge.json missing": Corruption(_missing("merge.json"), ("merge.json",), ("merge again",)),
    "merge.json of another run": Corruption(
        _from("merge.json", other_run=True), ("merge.json",), ("merge of another run",)
    ),
    # metrics and report
    "metrics.json": Corruption(
        lambda run: run.edit_json("metrics.json", lambda m: m["segm"].update(AP=0.5)),
        ("metrics.json",),
        ("is not as it was written, by its SHA-256; evaluate again",),
    ),
    "report.html": Corruption(_byte("report.html"), ("report.html",), ("report again",)),
    "report.json": Corruption(
        lambda run: run.edit_json("report.json", lambda report: report.update(images=5)),
        ("report.json",),
        ("is not as it was written, by its SHA-256; report again",),
    ),
    # the run's own files
    "a manifest with a row fewer": Corruption(
        _manifest(lambda rows: rows.pop()), (MANIFEST,), ("SHA-256",), "Restore it", MANIFEST
    ),
    "a manifest with an image renamed": Corruption(
        _manifest(lambda rows: rows[3].update(file_name="x.jpg")),
        (MANIFEST,),
        ("SHA-256",),
        "Restore it",
        MANIFEST,
    ),
    "a bank of another run": Corruption(  # labelling writes it again: tests/run/test_job.py
        _from("bank.safetensors", other_run=True),
        ("bank.safetensors",),
        ("SHA-256",),
        "",
        "bank.safetensors",
    ),
    "run.json damaged": Corruption(
        lambda run: run.publish(RECORD, b'{"format_version": 1'),
        (RECORD,),
        ("not a run record",),
        r"run\.json: not a run record .*\. Restore it, or choose another output",
        RECORD,
    ),
}


def _verify(run: Run, folder: Path) -> tuple[int, str]:
    """Exit status of ``ntt-ray verify``, and what it said."""
    config = folder / "config.yaml"
    data = {"images": "/data", "output": str(run.output), "bank": "/data/bank"}
    config.write_text(yaml.safe_dump(data))
    done = run_command("verify", str(config))
    return done.returncode, done.stderr


def _refusal(run: Run) -> str | None:
    """What the same command says where it does not go on."""
    try:
        _again(run)
    except NttRayError as error:
        return str(error)
    return None


def test_there_are_33():
    assert len(CORRUPTIONS) == 33


def test_nothing_is_found_in_the_untouched_output(run, tmp_path, untouched):
    before = run.files()
    status, said = _verify(run, tmp_path)
    assert status == 0, said
    _again(run)
    assert run.files() == before == untouched.files()


@pytest.mark.slow
@pytest.mark.parametrize("case", CORRUPTIONS)
def test_a_corruption_is_found_and_the_same_command_mends_it_or_says_how(
    run, untouched, tmp_path, case
):
    corruption = CORRUPTIONS[case]
    corruption.damage(run)
    status, said = _verify(run, tmp_path)
    assert status == 1, said
    assert all(f"  {name}: " in said or f"  {name}, " in said for name in corruption.where), said
    assert all(text in said for text in corruption.texts), said
    refused = _refusal(run)
    if corruption.refusal is None:
        assert refused is None
    else:
        assert re.search(corruption.refusal, refused or ""), refused
        assert _verify(run, tmp_path)[0] == 1
        if corruption.restored is None:
            (run.output / SHARD).unlink()
        else:
            before = (untouched.output / corruption.restored).read_bytes()
            run.publish(corruption.restored, before)
        _again(run)
    assert run.files() == untouched.files()
