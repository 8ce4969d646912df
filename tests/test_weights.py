import hashlib
import io
import pickle
import zipfile

import pytest
import torch
from torch import nn

from ntt_ray.errors import WeightsError
from ntt_ray.models import weights
from ntt_ray.models.weights import (
    BUNDLED,
    PUBLISHED,
    PublishedFile,
    file_digest,
    load_into,
    local_checkpoint,
    read_state_dict,
)
from ntt_ray.storage import Storage


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NTT_RAY_CACHE", str(tmp_path / "cache"))


def _saved(value) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_every_model_name_of_the_config_is_published():
    from ntt_ray.config import ENCODER_NAMES, PROPOSER_NAMES

    assert {*PUBLISHED, *BUNDLED} == {*ENCODER_NAMES, *PROPOSER_NAMES}
    assert len({p.url for p in PUBLISHED.values()}) == len(PUBLISHED)
    for published in PUBLISHED.values():
        assert published.url.startswith("https://dl.fbaipublicfiles.com/")
        assert published.sha256 is None or len(bytes.fromhex(published.sha256)) == 32


def test_bundled_weights_are_those_that_were_recorded(monkeypatch, tmp_path):
    total = 0
    for name in BUNDLED:
        path = local_checkpoint(name, None, mirror=None, store=Storage())
        total += path.stat().st_size
    assert total <= 8_000_000
    with pytest.raises(WeightsError, match="missing or damaged"):
        weights.bundled_file("SHA256SUMS")


def test_a_mirror_is_fetched_once_and_checked(monkeypatch, tmp_path):
    data = _saved({"a": torch.zeros(2)})
    good = hashlib.sha256(data).hexdigest()
    published = PublishedFile("https://example.invalid/x/model.pth", good)
    monkeypatch.setattr(weights, "PUBLISHED", {"model": published})
    mirror = tmp_path / "mirror"
    Storage().publish_bytes(str(mirror / "model.pth"), data)
    path = local_checkpoint("model", None, mirror=str(mirror), store=Storage())
    assert file_digest(path) == good
    (mirror / "model.pth").unlink()
    assert local_checkpoint("model", None, mirror=str(mirror), store=Storage()) == path


def test_a_damaged_download_is_refused_and_not_kept(monkeypatch, tmp_path):
    published = PublishedFile("https://example.invalid/x/model.pth", "0" * 64)
    monkeypatch.setattr(weights, "PUBLISHED", {"model": published})
    Storage().publish_bytes(str(tmp_path / "m" / "model.pth"), b"half a file")
    for _ in range(2):
        with pytest.raises(WeightsError, match="SHA-256"):
            local_checkpoint("model", None, mirror=str(tmp_path / "m"), store=Storage())
    assert not list((tmp_path / "cache").glob("*.pth"))


def test_missing_files(tmp_path):
    with pytest.raises(WeightsError, match="no such checkpoint"):
        local_checkpoint("x", str(tmp_path / "none.pth"), mirror=None, store=Storage())
    with pytest.raises(WeightsError, match=r"cannot be fetched.*models\.mirror"):
        local_checkpoint("x", "memory://none/none.pth", mirror=None, store=Storage())


def test_uris_are_cached(tmp_path):
    Storage().publish_bytes("memory://w/model.pth", _saved({"a": torch.ones(1)}))
    path = local_checkpoint("x", "memory://w/model.pth", mirror=None, store=Storage())
    assert read_state_dict(path)["a"].tolist() == [1.0]


def test_reading_every_layout(tmp_path):
    import safetensors.torch

    tensors = {"a": torch.arange(3.0)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.pth")
    torch.save({"model": tensors}, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pth", "x.pt"):
        assert torch.equal(read_state_dict(tmp_path / name)["a"], tensors["a"])


class _Evil:
    def __reduce__(self):
        import os

        return (os.system, ("touch /tmp/should-not-exist-ntt-ray",))


BAD_FILES = {
    "text.pth": b"not a checkpoint",
    "empty.pt": b"",
    "text.safetensors": b"not a checkpoint",
    "number.pth": _saved(3),
    "mixed.pth": _saved({"a": torch.zeros(1), "b": "text"}),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path, name):
    (tmp_path / name).write_bytes(BAD_FILES[name])
    with pytest.raises(WeightsError, match=name):
        read_state_dict(tmp_path / name)


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"a": _Evil()}))
    with zipfile.ZipFile(tmp_path / "new.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": _Evil()}))
        archive.writestr("archive/version", "3")
    for name in ("old.pth", "new.pth"):
        with pytest.raises(WeightsError, match=name):
            read_state_dict(tmp_path / name)
    from pathlib import Path

    assert not Path("/tmp/should-not-exist-ntt-ray").exists()


def test_differences_are_named(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    good = model.state_dict()
    wrong = {k: v for k, v in good.items() if k != "0.bias"}
    wrong["1.weight"] = torch.zeros(1, 4)
    wrong["extra"] = torch.zeros(7)
    with pytest.raises(WeightsError) as caught:
        load_into(model, wrong, tmp_path / "x.pth")
    text = str(caught.value)
    assert "missing: 0.bias [3]" in text
    assert "unexpected: extra [7]" in text
    assert "other shape: 1.weight is [1, 4], the model has [1, 3]" in text
    load_into(model, {k: v + 1 for k, v in good.items()}, tmp_path / "x.pth")
    assert torch.equal(model.state_dict()["0.bias"], good["0.bias"])
