"""Where the models of this process run, and in which precision."""

import pytest
import torch

from ntt_ray.config import ModelsConfig
from ntt_ray.errors import InputError
from ntt_ray.models.spec import ModelSpec
from ntt_ray.storage import Storage
from tests.support.golden import GOLDEN_MODELS
from tests.support.paths import ROOT

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


SHORTCUTS = (
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
)


@pytest.fixture
def shortcuts():
    """Which of a GPU's shortcuts torch may take; all of them before the test."""
    before = [getattr(*shortcut) for shortcut in SHORTCUTS]
    for shortcut in SHORTCUTS:
        setattr(*shortcut, True)
    yield lambda: [getattr(*shortcut) for shortcut in SHORTCUTS]
    for shortcut, value in zip(SHORTCUTS, before):
        setattr(*shortcut, value)


@pytest.mark.parametrize(("device", "threads"), [("cpu", 1), ("cuda", 3)])
def test_torch_is_set_up_so_that_results_are_the_same_everywhere(device, threads, shortcuts):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        ModelSpec(ModelsConfig(), device).set_up_torch()
        assert torch.get_num_threads() == threads
        assert not any(shortcuts())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "load",
    [
        lambda spec: spec.load_encoder(),
        lambda spec: spec.load_proposer(points_per_side=1),
        lambda spec: spec.load_box_prompter(),
    ],
    ids=["encoder", "proposer", "box prompter"],
)
def test_whoever_loads_a_model_gets_full_precision(load, shortcuts):
    """As a program does that labels with `load_labeler`, without a task."""
    assert all(shortcuts())
    load(ModelSpec(ModelsConfig(**GOLDEN_MODELS)))
    assert not any(shortcuts())


def test_every_task_that_computes_sets_torch_up():
    """The bank once computed otherwise than labelling did, on a GPU."""
    tasks = ("bank/job.py", "calibrate/job.py", "references/from_boxes.py", "run/actor.py")
    for name in tasks:
        assert ".set_up_torch()" in (ROOT / "ntt_ray" / name).read_text(), name
