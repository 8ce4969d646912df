"""Bad weather is not a bad image: what could not be read is read by the same command later.

Whole jobs on the golden images with fake models, as in `test_store_faults`. Each ends, at once or
after the store is mended, with the bytes of a run that nothing disturbed.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest

from ntt_ray.config import build_config
from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.merge import job as merge_job
from ntt_ray.run import chain, early_stop, fetch, models
from ntt_ray.run.label import label
from ntt_ray.run.layout import again_uri, journal_uri, shard_uri
from ntt_ray.run.shard import existing_shards, noted_units, table_to_bytes
from ntt_ray.storage import Storage
from tests.support.fake_models import use_fakes
from tests.support.golden import GOLDEN, GOLDEN_MODELS
from tests.support.hostile_proxy import Hostility, hostile_proxy

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_cluster"),
]
MERGED = ("annotations.json", "results.json")
IMAGES, PER_UNIT = 12, 4
STORE = Storage()


@pytest.fixture(scope="module", autouse=True)
def fakes():
    with mock.patch.object(models, "_decided"):  # puts back what was there
        use_fakes()
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    sources = sorted((GOLDEN / "targets").glob("*.png"))
    for number in range(IMAGES):
        shutil.copy(sources[number % len(sources)], folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def settings(golden_references):
    """A config but for where the images and the output lie."""
    return {
        "references": {"annotations": str(golden_references), "image_root": str(GOLDEN / "refs")},
        "models": GOLDEN_MODELS,
        "job": {"images_per_unit": PER_UNIT, "actors": 1, "patience_s": 3.0},
        "merge": {"min_score": 0.0, "profiles": ["coco", "coco-results"]},
    }


@pytest.fixture(scope="module")
def bucket(s3, settings, photos):
    """The same images in a bucket, read and written without faults."""
    prefix, store = s3.prefix(), s3.storage()
    for path in sorted(photos.iterdir()):
        store.publish_bytes(f"{prefix}/photos/{path.name}", path.read_bytes())
    return {**settings, "images": f"{prefix}/photos", "storage_options": s3.options()}


@pytest.fixture(scope="module")
def undisturbed(s3, bucket, ray_cluster):
    data = {**bucket, "output": f"{s3.prefix()}/undisturbed"}
    run(data)
    return files(data)


def run(data) -> list[int]:
    """Label, merge and ask for the exit status, as ``ntt-ray run`` does; gives the units done."""
    config, units = build_config(data), []
    label(config, lambda unit, *_: units.append(unit.shard_id))
    _, counts = merge_job.merge(config)
    merge_job.check_complete(config, counts)
    return units


def files(data) -> dict[str, bytes]:
    """What a run that healed has left: shards without any note beside them, and merged files."""
    store, output = Storage(data.get("storage_options", {})), data["output"]
    names = [name for name in store.list_files(output) if name.startswith("labels/")]
    assert names == [f"labels/shard-{unit:06d}.parquet" for unit in range(IMAGES // PER_UNIT)]
    return {name: store.read_bytes(f"{output}/{name}") for name in (*names, *MERGED)}


LATER = {  # what happens to images, and what the first run says
    "a token that expires": (
        Hostility(("denied",), rate=1.0, only=r"^GET .*photos/(0[4-9]|1)"),
        "8 of 12 images are to be tried again, .* 8 could not be read, 8 of .*Access Denied",
    ),
    "a file that is gone for a while": (
        Hostility(("gone",), rate=1.0, only=r"^GET .*photos/05"),
        "1 of 12 images are to be tried again, .*: there is no such file",
    ),
    "an image that stalls": (
        Hostility(("stall",), rate=1.0, only=r"^GET .*photos/07"),
        "1 of 12 images are to be tried again, .*: timeout: not read within N s",
    ),
    "connections that are reset": (
        Hostility(("reset",), rate=1.0, only=r"^GET .*photos/(02|03)"),
        "2 of 12 images are to be tried again",
    ),
    "redirects on every image": (
        Hostility(("moved",), rate=1.0, only=r"^GET .*photos/."),
        "none of 3 images of the list could be read",
    ),
}


@pytest.mark.parametrize("case", LATER)
def test_the_same_command_heals_it(s3, bucket, undisturbed, case):
    hostility, said = LATER[case]
    data = {**bucket, "output": f"{s3.prefix()}/run"}
    data["job"] = {**data["job"], "image_timeout_s": 2.0}
    with hostile_proxy(s3.endpoint, hostility) as proxy:
        hostile = {**data, "storage_options": s3.options(endpoint=proxy.endpoint)}
        with pytest.raises(RunIncompleteError, match=said):
            run(hostile)
    run(data)
    assert files(data) == undisturbed


AT_ONCE = {
    "one 404": Hostility(("gone",), rate=1.0, only=r"^GET .*photos/05", times=1),
    "one 403 of each": Hostility(("denied",), rate=1.0, only=r"^GET .*photos/(0[4-9]|1)", times=1),
    "resets, longer than requests are tried": Hostility(
        ("reset",), rate=1.0, only=r"^GET .*photos/(02|03)", times=10
    ),
    "a store that fails over journals and shards": Hostility(
        ("error", "busy"), rate=1.0, only=r"^PUT .*labels/", times=9
    ),
    "a store that fails over the manifest": Hostility(
        ("error",), rate=1.0, only=r"^GET .*manifest", times=9
    ),
}


@pytest.mark.parametrize("case", AT_ONCE)
def test_the_run_waits_and_heals_it_itself(s3, bucket, undisturbed, case):
    data = {**bucket, "output": f"{s3.prefix()}/run"}
    data["job"] = {**data["job"], "patience_s": 30.0}
    with hostile_proxy(s3.endpoint, AT_ONCE[case]) as proxy:
        run({**data, "storage_options": s3.options(endpoint=proxy.endpoint)})
        assert sum(proxy.happened().values()) > proxy.happened()["requests"]
    assert files(data) == undisturbed


@pytest.fixture(scope="module")
def finished(tmp_path_factory, settings, photos, ray_cluster):
    """A finished run on this disk."""
    output = tmp_path_factory.mktemp("finished") / "run"
    run({**settings, "images": str(photos), "output": str(output)})
    return output


@pytest.fixture
def local(tmp_path, settings, photos, finished):
    """A finished run on this disk, and its files."""
    data = {**settings, "images": str(photos), "output": str(tmp_path / "run")}
    shutil.copytree(finished, data["output"])
    return data, files(data)


def _changed(table, shard_id: int, output: str, labels_hash: bytes | None = None) -> None:
    """A table in the place of a shard, with the metadata that it came with."""
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    metadata |= {} if labels_hash is None else {"labels_hash": labels_hash.decode()}
    STORE.publish_bytes(shard_uri(output, shard_id), table_to_bytes(table, metadata))


def _of_another_run(output: str) -> None:
    _changed(pq.read_table(shard_uri(output, 1)), 1, output, b"0" * 64)


def _of_another_unit(output: str) -> None:
    shutil.copy(shard_uri(output, 0), shard_uri(output, 1))


def _fewer_rows(output: str) -> None:
    _changed(pq.read_table(shard_uri(output, 1)).slice(0, PER_UNIT - 1), 1, output)


def _more_rows(output: str) -> None:
    table = pq.read_table(shard_uri(output, 1))
    _changed(table.take([0, 1, 2, 3, 3, 3]), 1, output)


def _rows_in_another_order(output: str) -> None:
    _changed(pq.read_table(shard_uri(output, 1)).take([1, 0, 2, 3]), 1, output)


def _garbage(output: str) -> None:
    Path(shard_uri(output, 1)).write_bytes(b"PAR1 not a shard PAR1")


def _nothing(output: str) -> None:
    Path(shard_uri(output, 1)).write_bytes(b"")


WRONG = (
    _of_another_run,
    _of_another_unit,
    _fewer_rows,
    _more_rows,
    _rows_in_another_order,
    _garbage,
    _nothing,
)


@pytest.mark.parametrize("damage", WRONG)
def test_a_shard_that_is_not_its_units(local, damage, caplog):
    """Neither believed by a merge nor in the way of the next start."""
    data, before = local
    damage(data["output"])
    with pytest.raises(InputError, match=r"shard-000001\.parquet"):
        merge_job.merge(build_config(data))
    assert run(data) == [1]
    assert "shard-000001.parquet: " in caplog.text
    assert files(data) == before


def test_notes_that_are_damaged_or_stale(local):
    data, before = local
    output = data["output"]
    Path(shard_uri(output, 2)).unlink()
    Path(journal_uri(output, 2)).write_bytes(b"[]")
    Path(again_uri(output, 0)).write_bytes(b"")
    assert sorted(run(data)) == [0, 2]
    assert files(data) == before


def test_a_listing_that_lags(local, monkeypatch):
    """It names a shard that is gone, and does not name one that is there: both are done again."""
    data, before = local
    Path(shard_uri(data["output"], 1)).unlink()
    listed = Storage.list_files

    def lagging(store, prefix, *arguments, **options):
        names = listed(store, prefix, *arguments, **options)
        if not prefix.endswith("labels") or ".parquet" not in str(arguments):
            return names
        return sorted({*names, "shard-000001.parquet"} - {"shard-000002.parquet"})

    done = []
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "list_files", lagging)
        with contextlib.suppress(RunIncompleteError):
            label(build_config(data), lambda unit, *_: done.append(unit.shard_id))
    assert sorted(done) == [1, 2]
    assert run(data) == []
    assert files(data) == before


TROUBLES = {
    "a GPU that breaks once": ["sick-0"],
    "a GPU that breaks twice": ["sick-0", "sick-1"],
    "a worker that hangs": ["hang-0"],
    "workers that are taken away": [f"die-{number}" for number in range(4)],
    "all of it": ["die-0", "hang-1", "sick-2"],
}


@pytest.mark.parametrize(
    ("case", "together"), [*((case, 1) for case in TROUBLES), ("all of it", IMAGES // PER_UNIT)]
)
def test_workers_with_troubles(local, tmp_path, monkeypatch, case, together):
    """Nobody is blamed and nothing is lost, though each time the process ended.

    Nor where units are handed out together, whose worker dies in the midst of them.
    """
    monkeypatch.setattr(chain, "units_together", lambda *_: together)
    data, before = local
    troubles = tmp_path / "troubles"
    troubles.mkdir()
    for name in TROUBLES[case]:
        (troubles / name).touch()
    data = {**data, "output": str(tmp_path / "other"), "job": {**data["job"], "hang_s": 3.0}}
    with mock.patch.object(models, "_decided"):
        use_fakes(troubles=troubles)
        run(data)
    assert not list(troubles.iterdir())
    assert files(data) == before


def test_gpus_that_break_again_and_again(settings, photos, tmp_path):
    """A unit is given back after three of them, and the run says so; the next start does it."""
    folder, troubles = tmp_path / "photos", tmp_path / "troubles"
    for made in (folder, troubles):
        made.mkdir()
    for path in sorted(photos.iterdir())[:PER_UNIT]:
        shutil.copy(path, folder / path.name)
    for number in range(3):
        (troubles / f"sick-{number}").touch()
    calm = {**settings, "images": str(folder), "output": str(tmp_path / "calm")}
    data = {**calm, "output": str(tmp_path / "run")}
    run(calm)
    with mock.patch.object(models, "_decided"):
        use_fakes(troubles=troubles)
        with pytest.raises(RunIncompleteError, match="GPUs failed over it 3 times: cpu of"):
            run(data)
    assert not existing_shards(data["output"], STORE)
    run(data)
    for name in ("labels/shard-000000.parquet", *MERGED):
        found, wanted = (Path(item["output"], name).read_bytes() for item in (data, calm))
        assert found == wanted


def test_the_first_images_are_all_none(settings, tmp_path, monkeypatch):
    """It stops, and takes back the rows: once the images are mended, all of them are labelled."""
    monkeypatch.setattr(early_stop, "FIRST_IMAGES", 6)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(IMAGES):
        (photos / f"{number:02}.png").write_bytes(b"<html>please log in</html>")
    data = {**settings, "images": str(photos), "output": str(tmp_path / "run")}
    with pytest.raises(RunIncompleteError, match="the first 8 images are all none: not an image b"):
        run(data)
    assert not existing_shards(data["output"], STORE)
    for number in range(IMAGES):
        shutil.copy(next((GOLDEN / "targets").glob("*.png")), photos / f"{number:02}.png")
    run(data)


def test_most_of_what_is_read_lately_fails(settings, photos, tmp_path, monkeypatch):
    """Nothing is marked: the run stops with the reason, and the next start does the rest."""
    monkeypatch.setattr("ntt_ray.run.label.unit_order", lambda units, seed: list(units))
    folder, units, per_unit = tmp_path / "photos", 5, fetch.MOST
    folder.mkdir()
    names = [f"{number:02}.png" for number in range(units * per_unit)]
    for name in names:
        shutil.copy(photos / "00.png", folder / name)
    listing = tmp_path / "images.csv"
    listing.write_text("uri\n" + "".join(f"{folder}/{name}\n" for name in names))
    data = {**settings, "images": str(listing), "output": str(tmp_path / "run")}
    data["job"] = {**data["job"], "images_per_unit": per_unit, "patience_s": 1.0}
    folder.rename(tmp_path / "away")
    folder.mkdir()
    for name in names[:per_unit]:
        shutil.copy(tmp_path / "away" / name, folder / name)
    with pytest.raises(RunIncompleteError, match="3 units one after the other could not be done"):
        run(data)
    assert existing_shards(data["output"], STORE) == {0}
    assert not noted_units(data["output"], STORE)
    shutil.rmtree(folder)
    (tmp_path / "away").rename(folder)
    assert sorted(run(data)) == [1, 2, 3, 4]
