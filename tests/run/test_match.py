"""Units whose proposals are kept, as they are written, and matched again; without Ray or models."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.config import ModelsConfig
from ntt_ray.models.spec import ModelSpec
from ntt_ray.proposals.table import to_table
from ntt_ray.records import ClassLabel, ImageEntry, ImageLabels
from ntt_ray.run.job import LABELLED, Keeping, LabelJob, RematchJob
from ntt_ray.run.layout import again_uri, proposals_uri, shard_uri
from ntt_ray.run.match import rematched
from ntt_ray.run.proposal_shard import open_proposals, to_bytes
from ntt_ray.run.shard import SCHEMA, accelerators_of, iter_labels, read_shard
from ntt_ray.run.write import write_units
from ntt_ray.settings import DecodeSettings, MethodSettings
from ntt_ray.storage import Storage
from tests.support.kept_rows import CHANNELS, proposals_of

STORE = Storage()
SAID = {"format_version": "1", "proposals_hash": "p"}
METHOD = MethodSettings(nms_iou=0.9)


def _bank() -> bytes:
    means = [[(torch.eye(CHANNELS)[k], 1.0)] for k in range(3)]
    labels = [ClassLabel(k + 1, f"class {k}") for k in range(3)]
    encoder = {"name": "x", "image_size": 14, "checkpoint": "c"}
    return MemoryBank.from_means(labels, means, encoder=encoder, reference_digest="d").to_bytes()


def _job(output: str, *, embeddings: bool = False) -> LabelJob:
    return LabelJob(
        output=output,
        store=STORE,
        manifest_digest="",
        models=ModelSpec(ModelsConfig()),
        method=METHOD,
        decode=DecodeSettings(),
        image_timeout_s=10,
        patience_s=0,
        hang_s=300,
        decoders=1,
        unit_bytes=1 << 20,
        run_token="run",
        provenance={"labels_hash": "0"},
        keeping=Keeping(0.95, SAID, embeddings),
    )


def _image(number: int, error: str | None = None):
    entry = ImageEntry(number, f"{number}.png", "")
    if error is not None:
        return proposals_of(ImageLabels.failed(entry, error, "access"))
    return proposals_of(ImageLabels.labelled(entry, (20, 30), ()), seed=number)


def _written(
    output: str,
    images,
    again: bool = False,
    accelerator: str | None = None,
    *,
    embeddings: bool = False,
    older: bool = False,
):
    table = to_table(images, CHANNELS)
    if older:
        table = table.drop_columns("view_feature")
    unit = {
        "shard_id": 0,
        "again": again,
        "accelerator": accelerator,
        "rows": [],
        "proposals": to_bytes(table, SAID),
    }
    job = _job(output, embeddings=embeddings)
    (done,) = write_units(pa.Table.from_pylist([unit], schema=LABELLED), job, _bank()).to_pylist()
    return done


def _files(output: str) -> list[bytes]:
    return [STORE.read_bytes(uri(output, 0)) for uri in (shard_uri, proposals_uri)]


def test_a_unit_and_those_of_its_images_that_are_tried_again(tmp_path):
    whole, healed = str(tmp_path / "whole"), str(tmp_path / "healed")
    done = _written(whole, [_image(1), _image(2), _image(3)])
    assert (done["images"], done["failed"], done["given_back"]) == (3, 0, None)
    assert done["detections"] > 3
    first = _written(healed, [_image(1), _image(2, "no answer"), _image(3)])
    assert (first["failed"], first["unreachable"]) == (1, 1)
    assert STORE.exists(again_uri(healed, 0))
    second = _written(healed, [_image(2)], again=True)
    assert (second["images"], second["failed"]) == (1, 0)
    assert _files(healed) == _files(whole)

    _written(healed, [_image(2)], again=True, accelerator="NVIDIA L4")
    assert accelerators_of(read_shard(healed, 0, STORE).schema) == {"NVIDIA L4"}
    _written(healed, [_image(2)], again=True)
    assert accelerators_of(read_shard(healed, 0, STORE).schema) == {"NVIDIA L4"}
    with open_proposals(healed, 0, STORE) as file:
        assert accelerators_of(file.schema_arrow) == {"NVIDIA L4"}


def test_embeddings_of_a_unit_whose_images_are_tried_again(tmp_path):
    """Those of proposals of an older version are null; labels do not depend on embeddings."""
    whole, healed, plain = (str(tmp_path / name) for name in ("whole", "healed", "plain"))
    _written(whole, [_image(1), _image(2), _image(3)], embeddings=True)
    _written(plain, [_image(1), _image(2), _image(3)])
    _written(healed, [_image(1), _image(2, "no answer"), _image(3)], embeddings=True)
    failed, *_ = _embedded_rows(healed)[1:]
    assert failed.embedding is None
    _written(healed, [_image(2)], again=True, embeddings=True)
    assert _files(healed) == _files(whole)
    rows = _embedded_rows(whole)
    assert rows == list(iter_labels(read_shard(plain, 0, STORE)))
    assert all(row.embedding.shape == (CHANNELS,) for row in rows)
    assert all(d.embedding.shape == (CHANNELS,) for row in rows for d in row.detections)
    assert read_shard(whole, 0, STORE).schema.names == SCHEMA.names

    older = str(tmp_path / "older")
    _written(older, [_image(1), _image(2, "no answer"), _image(3)], embeddings=True, older=True)
    _written(older, [_image(2)], again=True, embeddings=True)
    known = [row.embedding is not None for row in _embedded_rows(older)]
    assert known == [False, True, False]
    job = RematchJob(
        whole, "p", _bank(), METHOD, plain, STORE, "", {"labels_hash": "0"}, False, embeddings=True
    )
    rematched(job, 0)
    assert STORE.read_bytes(shard_uri(plain, 0)) == _files(whole)[0]


def _embedded_rows(output: str) -> list[ImageLabels]:
    table = read_shard(output, 0, STORE, embeddings=True)
    return list(iter_labels(table, embedded=True))


def test_proposals_that_were_lost_are_said(tmp_path):
    output = str(tmp_path)
    _written(output, [_image(1), _image(2, "no answer")])
    STORE.delete(proposals_uri(output, 0))
    done = _written(output, [_image(2)], again=True)
    assert "the proposals are missing; delete " in done["given_back"]
    assert done["images"] == 0


@pytest.mark.parametrize("accelerator", [None, "NVIDIA L4"])
def test_matching_again_writes_the_same_shard(tmp_path, accelerator):
    source, output = str(tmp_path / "source"), str(tmp_path / "output")
    _written(source, [_image(1), _image(2, "no answer"), _image(3)], accelerator=accelerator)
    job = RematchJob(source, "p", _bank(), METHOD, output, STORE, "", {"labels_hash": "0"}, False)
    done = rematched(job, 0)
    assert (done.images, done.failed, done.unreachable, done.given_back) == (3, 1, 1, None)
    assert STORE.read_bytes(shard_uri(output, 0)) == _files(source)[0]
    assert STORE.exists(again_uri(output, 0))
    assert not STORE.exists(proposals_uri(output, 0))
    statuses = [row.status for row in iter_labels(read_shard(output, 0, STORE))]
    assert statuses == ["ok", "failed", "ok"]
    other = RematchJob(source, "q", _bank(), METHOD, output, STORE, "", {"labels_hash": "0"}, False)
    assert "proposals of another run" in (rematched(other, 0).given_back or "")
    assert "missing" in (rematched(job, 1).given_back or "")

    with open_proposals(source, 0, STORE) as file:
        sink = io.BytesIO()  # written again by another tool
        pq.write_table(file.read(), sink)
    STORE.publish_bytes(proposals_uri(source, 0), sink.getvalue())
    assert "its rows are not those written" in (rematched(job, 0).given_back or "")
