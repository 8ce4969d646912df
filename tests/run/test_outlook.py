"""What a start would use, found out without Ray."""

import socket
import threading
from dataclasses import replace

import pytest

from ntt_ray.config import build_config
from ntt_ray.errors import ClusterError, ConfigError, WeightsError
from ntt_ray.models import cache
from ntt_ray.models.published import PUBLISHED
from ntt_ray.run import outlook
from ntt_ray.run.cluster import connect
from ntt_ray.run.cluster.placement import Layout, Node
from ntt_ray.run.outlook import check_outlook, describe, find_weights, preset_lines
from ntt_ray.storage import Storage

NAME, FILE = "dinov2_vits14", "dinov2_vits14_pretrain.pth"
DEMO = {"encoder": {"name": "dinov2_demo"}, "proposer": {"name": "sam2_demo"}}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """No cluster, no cache, and nothing of the authors within reach."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("NTT_RAY_CACHE", str(tmp_path / "cache"))
    elsewhere = replace(PUBLISHED[NAME], url=f"http://127.0.0.1:9/{FILE}")
    monkeypatch.setitem(PUBLISHED, NAME, elsewhere)


def _config(**settings):
    base = {"images": "/photos", "output": "/out", "bank": "/bank", "models": DEMO}
    return build_config({**base, **settings})


def _of_published(**more):
    return _config(models={"encoder": {"name": NAME}, "proposer": DEMO["proposer"], **more})


def test_bundled_named_and_cached_weights(tmp_path):
    named = {"name": "dinov2_vitb14", "checkpoint": "s3://user:secret@bucket/w.pth"}
    config = _config(models={"encoder": named, "proposer": DEMO["proposer"]})
    encoder, proposer = find_weights(config, Storage())
    assert encoder.where == "s3://bucket/w.pth"
    assert proposer.where == "which come with this package"
    cached = cache.cached_path(PUBLISHED[NAME])
    cached.parent.mkdir()
    cached.touch()
    found, _ = find_weights(_of_published(), Storage())
    assert found.where == f"cached on this machine: {cached}"
    assert found.problem is None


def test_a_mirror_that_has_the_file(tmp_path):
    (tmp_path / FILE).touch()
    found, _ = find_weights(_of_published(mirror=str(tmp_path)), Storage())
    assert found.problem is None
    assert found.where.endswith(f"fetched from {tmp_path}/{FILE}")


def test_what_is_out_of_reach_is_refused_here_and_said_on_a_cluster(tmp_path, monkeypatch, caplog):
    config = _of_published(mirror=str(tmp_path))  # it lacks the file, and the authors are asked
    with pytest.raises(WeightsError, match=r"no connection to 127\.0\.0\.1"):
        check_outlook(config, Storage())
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_outlook(config, Storage())
    assert "seen from this machine, http://127.0.0.1:9" in caplog.text


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(outlook, "ANSWER_S", 0.05)
    monkeypatch.setattr(Storage, "exists", lambda *_: ended.wait(20))
    found, _ = find_weights(_of_published(), Storage())
    ended.set()
    assert found.problem is not None
    assert "no answer within 0.05 s" in found.problem


def test_gpus_are_counted_here(monkeypatch):
    config = _config(models={**DEMO, "device": "cuda"})
    monkeypatch.setattr(outlook, "local_layout", lambda: Layout((Node(8.0),)))
    with pytest.raises(ConfigError, match="0 GPUs"):
        check_outlook(config, Storage())
    monkeypatch.setattr(outlook, "local_layout", lambda: Layout((Node(8.0, 2.0, "L4"),)))
    check_outlook(config, Storage())
    assert "device: cuda; 2 GPUs on this machine" in describe(_config(), [])


class _Gpus:
    visible = None

    def get_current_node_num_accelerators(self):
        return 4

    def get_current_process_visible_accelerator_ids(self):
        return self.visible

    def get_current_node_accelerator_type(self):
        return "A100"


def test_only_gpus_that_ray_would_see_count(monkeypatch):
    gpus = _Gpus()
    monkeypatch.setattr(connect, "get_accelerator_manager_for_resource", lambda _: gpus)
    assert connect.local_layout().nodes[0].gpus == 4
    gpus.visible = ["0", "2"]
    assert connect.local_layout().nodes[0].gpus == 2
    gpus.visible = []
    assert connect.local_layout().nodes[0].accelerator is None


@pytest.mark.parametrize("address", ["127.0.0.1:9", "[::1]:9", "localhost:99999"])
def test_a_cluster_that_does_not_answer(monkeypatch, address):
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match="cannot be joined"):
        connect.check_address()


@pytest.mark.parametrize("address", ["", "auto", "local", "ray://127.0.0.1:9"])
def test_addresses_that_are_left_to_ray(monkeypatch, address):
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    connect.check_address()


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_an_address_where_something_else_listens(monkeypatch, answer):
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        threading.Thread(target=_answer_once, args=(server, answer), daemon=True).start()
        with pytest.raises(ClusterError, match="there is no head of a cluster"):
            connect.check_address()


def _answer_once(server, answer):
    link, _ = server.accept()
    with link:
        link.recv(100)
        link.sendall(answer)


def test_a_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connect, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ClusterError, match="there is no head of a cluster"):
            connect.check_address()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_head_of_a_cluster_is_known_as_one(monkeypatch):
    address = connect.ray.get_runtime_context().gcs_address
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    connect.check_address()


def test_an_output_among_the_images_is_said(caplog):
    check_outlook(_config(output="/photos/out"), Storage())
    assert "the output lies inside of `images`" in caplog.text
    caplog.clear()
    check_outlook(_config(output="/photos2"), Storage())
    check_outlook(_config(images="/photos/list.csv", output="/photos/list.csv/x"), Storage())
    assert caplog.text == ""


def test_the_lines_of_a_dry_run():
    config = _config(models={**DEMO, "device": "cpu"})
    assert describe(config, check_outlook(config, Storage())) == [
        "weights: dinov2_demo, which come with this package",
        "weights: sam2_demo, which come with this package",
        "device: cpu, as models.device says",
        "Ray: is started on this machine, and ends with the command",
        "output: /out/labels/, merged files (coco) and report.html in /out",
    ]


def test_a_dry_run_shows_what_a_preset_stands_for():
    config = _config(models=DEMO, method={"preset": "clean", "nms_iou": 0.6})
    (line,) = preset_lines(config)
    assert describe(config, [])[0] == line
    assert line.startswith("method.preset: clean, of which stands {")
    assert '"largest_component": {"min_share": 1.0}' in line
    assert "nms_iou" not in line  # it is not the preset's
    assert preset_lines(_config()) == []
