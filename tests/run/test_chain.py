"""The stages of the chain on their own; the whole chain is in test_job.py."""

import re
import threading
import time
from types import SimpleNamespace

import pytest
from ray.data import DataContext
from ray.data._internal.execution import backpressure_policy as theirs

from ntt_ray.errors import LabelError, MissingPackageError, StorageError
from ntt_ray.records import FetchedImage, ImageEntry
from ntt_ray.run import chain, fetch
from ntt_ray.run.cluster.connect import our_error
from ntt_ray.run.cluster.fetch_limit import FetchLimit
from ntt_ray.run.cluster.placement import Resources
from ntt_ray.run.fetch import fetch_images


def _entries(count):
    return [ImageEntry(i, f"{i}.jpg", f"/x/{i}.jpg") for i in range(1, count + 1)]


def test_every_image_comes_back_in_order_with_data_or_a_reason():
    def read(uri):
        if uri.endswith("/2.jpg"):
            raise FileNotFoundError(uri)
        if uri.endswith("/3.jpg"):
            raise StorageError("reading it: AccessDenied")
        time.sleep(0.01 if uri.endswith("/1.jpg") else 0)
        return uri.encode()

    images = fetch_images(_entries(40), read, 10)
    assert [i.entry.image_id for i in images] == list(range(1, 41))
    assert images[0].data == b"/x/1.jpg"
    assert images[1].error == "there is no such file"
    assert images[2].error == "reading it: AccessDenied"
    assert all(i.data for i in images[3:])


def test_a_stalled_read_times_out_and_the_others_go_on():
    stalled = threading.Event()

    def read(uri):
        if int(uri.split("/")[2].split(".")[0]) <= fetch.FETCH_THREADS:
            stalled.wait(30)
        return b"data"

    started = time.monotonic()
    images = fetch_images(_entries(fetch.FETCH_THREADS + 5), read, 0.2)
    stalled.set()
    assert time.monotonic() - started < 10
    assert [i.error for i in images[: fetch.FETCH_THREADS]] == [
        "timeout: not read within 0.2 s"
    ] * fetch.FETCH_THREADS
    assert all(i.data == b"data" for i in images[fetch.FETCH_THREADS :])


def test_a_missing_package_is_no_fault_of_an_image():
    def read(uri):
        raise MissingPackageError("gs:// needs another package")

    with pytest.raises(MissingPackageError):
        fetch_images(_entries(3), read, 10)


def test_reads_run_together():
    running, most = set(), 0
    guard = threading.Lock()

    def read(uri):
        nonlocal most
        with guard:
            running.add(uri)
            most = max(most, len(running))
        time.sleep(0.02)
        with guard:
            running.discard(uri)
        return b"x"

    fetch_images(_entries(60), read, 10)
    assert 4 <= most <= fetch.FETCH_THREADS


def test_fetched_images_are_one_or_the_other():
    with pytest.raises(ValueError, match="either"):
        FetchedImage(_entries(1)[0], b"x", "y")


def test_our_error_is_found_inside_what_ray_raises():
    ours = LabelError("unit 3, image a.jpg")

    class Wrapped(Exception):
        cause = ours

    outer = RuntimeError("job failed")
    outer.__cause__ = Wrapped()
    assert our_error(outer) is ours
    plain = RuntimeError("x")
    assert our_error(plain) is plain


def test_units_go_out_together_where_more_actors_ask_than_one_driver_serves():
    together = {actors: chain.units_together(400_000, actors) for actors in (8, 64, 100, 400, 1000)}
    assert together == {8: 1, 64: 1, 100: 2, 400: 7, 1000: chain.MOST_TOGETHER}
    # few units are not divided into handouts that are too large for all to end together
    assert chain.units_together(4_000, 100) == 1
    assert chain.units_together(1, 1_000) == 1


PACES = {  # units, images of each, actors, device -> images_per_unit that is advised
    "a thousand GPUs, units of 1,024": (97_657, 1024, 1000, "cuda", None),
    "two thousand": (97_657, 1024, 2000, "cuda", 2048),
    "a thousand GPUs, a million images": (3_907, 256, 1000, "cuda", 1024),
    "as many CPUs": (3_907, 256, 1000, "cpu", None),
    "a minute's work": (100, 4, 1000, "cuda", None),
    "nothing is left": (0, 256, 1000, "cuda", None),
}


@pytest.mark.parametrize("case", PACES)
def test_gpus_that_would_wait_for_the_driver_are_told_of_at_the_start(case, caplog):
    units, images, actors, device, advised = PACES[case]
    chain.check_pace(units, units * images, Resources(device, actors, 1.0, 1.0))
    said = re.findall(r"job\.images_per_unit: (\d+)$", caplog.text.strip())
    assert said == ([str(advised)] if advised else [])


@pytest.mark.parametrize(("together", "blocks"), [(1, 10), (4, 3), (8, 2)])
def test_units_that_go_out_together_are_one_block_for_ray(monkeypatch, together, blocks):
    handed = {}

    def from_items(items, **options):
        handed.update(units=len(items), **options)
        raise LookupError("far enough")

    monkeypatch.setattr(DataContext, "get_current", DataContext)
    monkeypatch.setattr(chain.ray, "put", lambda data: None)
    monkeypatch.setattr(chain.ray.data, "from_items", from_items)
    monkeypatch.setattr(chain, "units_together", lambda units, actors: together)
    resources, job = Resources("cpu", 1, 1.0, 0.0), SimpleNamespace(patience_s=0.0)
    with pytest.raises(LookupError):
        list(chain.label_units(job, dict.fromkeys(range(10), False), b"", resources, 1))
    assert handed == {"units": 10, "override_num_blocks": blocks}


def test_pools_grow_though_their_actors_take_up_what_they_are_sent(monkeypatch):
    """Ray's own threshold is beyond what such actors can reach: a pool would stay as it began."""

    def no_ray(*arguments, **options):
        raise LookupError("far enough")

    context = DataContext()
    names = ("actor_pool_util_upscaling_threshold", "actor_pool_util_downscaling_threshold")
    theirs = [getattr(context.autoscaling_config, name) for name in names]
    assert theirs == [1.75, 0.5]
    monkeypatch.setattr(DataContext, "get_current", lambda: context)
    monkeypatch.setattr(chain.ray, "put", lambda data: None)
    monkeypatch.setattr(chain.ray.data, "from_items", no_ray)
    resources, job = Resources("cpu", 1, 1.0, 0.0), SimpleNamespace(patience_s=0.0)
    with pytest.raises(LookupError):
        list(chain.label_units(job, {0: False}, b"", resources, 1))
    ours = [getattr(context.autoscaling_config, name) for name in names]
    # a share of the units at work, where theirs is a multiple of them
    assert ours == [value / chain.UNITS_AT_WORK for value in theirs]


@pytest.mark.parametrize(("nodes", "memory"), [([64e9], 384 << 20), ([], None)])
def test_fetching_reserves_memory_and_is_limited(monkeypatch, nodes, memory):
    class Planned:
        def map_batches(self, function, **options):
            assert options["memory"] == memory
            assert options["num_cpus"] == chain.TASK_CPUS
            raise LookupError("far enough")

    context = DataContext()
    monkeypatch.setattr(DataContext, "get_current", lambda: context)
    monkeypatch.setattr(chain.ray, "put", lambda data: None)
    monkeypatch.setattr(chain.ray.data, "from_items", lambda *_, **__: Planned())
    monkeypatch.setattr(chain, "node_memory", lambda: nodes)
    job = SimpleNamespace(patience_s=0.0, unit_bytes=128 << 20)
    with pytest.raises(LookupError):
        list(chain.label_units(job, {0: False}, b"", Resources("cpu", 1, 1.0, 0.0), 1))
    policies = context.get_config(theirs.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY)
    assert policies == [*theirs.ENABLED_BACKPRESSURE_POLICIES, FetchLimit]
