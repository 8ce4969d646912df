"""Where the models of this process run, and in which precision."""

import pytest
import torch

from ntt_ray.config import ModelsConfig
from ntt_ray.errors import InputError
from ntt_ray.models.spec import ModelSpec
from ntt_ray.storage import Storage

# whether there is a GPU, whether it has bfloat16; settings; what is decided, None: refused
CASES = {
    "nothing there": (False, False, {}, ("cpu", "fp32")),
    "a CPU in bf16": (False, False, {"precision": "bf16"}, ("cpu", "bf16")),
    "a GPU": (True, True, {}, ("cuda", "bf16")),
    "an old GPU": (True, False, {}, ("cuda", "fp32")),
    "a GPU in fp32": (True, True, {"precision": "fp32"}, ("cuda", "fp32")),
    "a GPU left alone": (True, True, {"device": "cpu"}, ("cpu", "fp32")),
    "a GPU that is not there": (False, False, {"device": "cuda"}, None),
}


@pytest.mark.parametrize(("gpu", "bf16", "settings", "decided"), CASES.values(), ids=CASES.keys())
def test_what_auto_means_here(gpu, bf16, settings, decided, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    if decided is None:
        with pytest.raises(InputError, match="no GPU here"):
            ModelSpec.here(ModelsConfig(**settings), Storage())
    else:
        spec = ModelSpec.here(ModelsConfig(**settings), Storage())
        assert (spec.device, spec.precision) == decided
