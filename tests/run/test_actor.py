"""What an actor does in which thread; the faults and the whole job are tested elsewhere."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pytest
import ray
import torch
from PIL import Image

from ntt_ray.config import ModelsConfig
from ntt_ray.errors import InputError
from ntt_ray.run import actor as actor_module
from ntt_ray.run.actor import LabelActor
from ntt_ray.run.job import FETCHED, LabelJob
from ntt_ray.settings import DecodeSettings, MethodSettings
from ntt_ray.storage import Storage
from tests.support.fake_models import FakeSpec
from tests.support.fakes import BANK

THREADS: list[tuple[str, int]] = []  # what was done, and in which thread


def _note(what: str) -> None:
    THREADS.append((what, threading.get_ident()))


@dataclass(frozen=True)
class NotedSpec(FakeSpec):
    """Notes in which thread the models are loaded and asked."""

    def set_up_torch(self):
        _note("set up")

    def load_encoder(self):
        _note("load")
        encoder = super().load_encoder()
        encode = encoder.encode

        def noted(images):
            _note("label")
            return encode(images)

        encoder.encode = noted
        return encoder


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (255, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def _actor(monkeypatch, models: FakeSpec, output: str, bank: bytes = b"") -> LabelActor:
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(actor_module, "ActorMetrics", lambda run: _NoMetrics())
    monkeypatch.setattr(actor_module, "see_reserved_gpus_only", lambda: None)  # of this process
    job = LabelJob(
        output=output,
        store=Storage(),
        manifest_digest="",
        models=models,
        method=MethodSettings(),
        decode=DecodeSettings(),
        image_timeout_s=10,
        patience_s=0,
        hang_s=300,
        decoders=1,
        unit_bytes=1 << 20,
        run_token="run",
        provenance={},
    )
    return LabelActor(job, [bank or BANK.to_bytes()])


class _NoMetrics:
    """The names of `ActorMetrics`; without Ray there is nobody to tell."""

    def unit(self, *_):
        pass

    def prompts(self, *_):
        pass


def _unit(number: int) -> pa.Table:
    image = {"image_id": 1, "file_name": "a.png", "uri": "a.png", "data": _png(), "error": None}
    unit = {"shard_id": number, "again": False, "given_back": None, "fetch_s": 0.0}
    return pa.Table.from_pylist([{**unit, "images": [image]}], schema=FETCHED)


def test_one_thread_loads_warms_up_and_labels(monkeypatch, tmp_path):
    """Ray makes an actor in one thread and calls it in another."""
    THREADS.clear()
    compiled = ModelsConfig.model_construct(compile=True)
    with ThreadPoolExecutor(1) as made_in, ThreadPoolExecutor(1) as called_in:
        actor = made_in.submit(_actor, monkeypatch, NotedSpec(compiled), str(tmp_path)).result()
        warmed_up = THREADS.copy()
        for number in range(2):
            rows = called_in.submit(actor, _unit(number)).result().to_pylist()
            assert [row["status"] for row in rows[0]["rows"]] == ["ok"]
    assert [what for what, _ in warmed_up] == ["set up", "load", "label"]
    assert [what for what, _ in THREADS[3:]] == ["label", "label"]
    assert len({thread for _, thread in THREADS}) == 1


@pytest.mark.parametrize(("device", "named"), [("cpu", None), ("cuda", "NVIDIA L4")])
def test_the_model_of_the_gpu_is_told(monkeypatch, tmp_path, device, named):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA L4")
    monkeypatch.setattr(actor_module, "_device_name", lambda on_cpu: "")
    monkeypatch.setattr(LabelActor, "_measure", lambda *_: None)
    actor = _actor(monkeypatch, NotedSpec(ModelsConfig(), device), str(tmp_path))
    assert actor(_unit(0))["accelerator"].to_pylist() == [named]


def test_what_fails_while_loading_is_raised_by_the_first_unit(monkeypatch, tmp_path):
    actor = _actor(monkeypatch, NotedSpec(ModelsConfig()), str(tmp_path), b"no bank")
    with pytest.raises(InputError, match="the memory bank"):
        actor(_unit(0))


def test_a_unit_without_its_images_ends_behind_the_one_before(monkeypatch, tmp_path):
    """Else units that could not be fetched would end in a row before any that could."""
    actor = _actor(monkeypatch, NotedSpec(ModelsConfig()), str(tmp_path))
    begun, go_on, ended = threading.Event(), threading.Event(), []
    label = actor._units.label

    def slow(*arguments):
        begun.set()
        assert go_on.wait(60)
        return label(*arguments)

    monkeypatch.setattr(actor._units, "label", slow)

    def call(unit: pa.Table) -> None:
        ended.append(actor(unit).to_pylist()[0]["given_back"])

    missing = _unit(1).set_column(2, "given_back", pa.array(["not there"]))
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(call, _unit(0))
        assert begun.wait(60)
        second = threads.submit(call, missing)
        while len(actor._calls) < 2:
            assert not second.done()
        go_on.set()
        first.result(), second.result()
    assert ended == [None, "not there"]
