import io
import pickle
import zipfile

import pytest
import torch
from torch import nn

from ntt_ray.errors import WeightsError
from ntt_ray.models.weights import load_into, read_state_dict


def _saved(value) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


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
