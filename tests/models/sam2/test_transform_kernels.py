"""The kernels of the transformer on a GPU: interpreted, and compiled for GPUs."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, baddbmm_flop

from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.sam2.decoder import run as sam2_run
from ntt_ray.models.sam2.decoder.checked import CheckedKernel
from ntt_ray.models.sam2.decoder.kernels import COMPARED_POINTS, has_transform_kernels
from ntt_ray.models.sam2.decoder.run import PointDecoder, transform
from ntt_ray.models.sam2.decoder.transform_cost import transform_cost
from ntt_ray.models.sam2.proposer import point_grid
from tests.support.interpreted_transform import CASES, TYPES, inputs
from tests.support.kernels import SHARED_BYTES, interpreted_by
from tests.support.launches import Launches
from tests.support.random_decoder import SIDE, random_features, random_model

triton = pytest.importorskip("triton", reason="torch for CPUs comes without Triton")
fused = pytest.importorskip("ntt_ray.models.sam2.decoder.fused_transform")
kernels = pytest.importorskip("ntt_ray.models.sam2.decoder.transform_kernels")

TOOLS = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin"
SPILLED_BYTES = {"layer_1": 256, "layer_2": 64, "last_attention": 0}  # of a thread
KERNELS = tuple(SPILLED_BYTES)


@pytest.fixture(scope="module")
def interpreted():
    return interpreted_by("tests.support.interpreted_transform")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_what_the_plain_function_does(interpreted, case, dtype):
    found, eps = interpreted[f"{case}, {dtype}"], torch.finfo(TYPES[dtype]).eps
    assert found["same_types"]
    assert found["disagreement"] is None
    assert found["logits"] < 8 * eps
    for name, error in found["errors"].items():
        assert error < 1.5 * found["plain_errors"][name] + eps / 2, name


class Launched(list):
    """Stands for a kernel, and keeps the tensors that each launch was given."""

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.append([x for x in args if isinstance(x, Tensor)])


@pytest.fixture
def launched(monkeypatch):
    """What each of the kernels is launched with, instead of being launched."""
    for name in KERNELS:
        monkeypatch.setattr(kernels, name, Launched())
    return [getattr(kernels, name) for name in KERNELS]


def without_content(arguments):
    return tree_map(lambda x: x.to("meta") if isinstance(x, Tensor) else x, arguments)


@pytest.mark.slow
def test_a_step_is_few_launches_without_host_synchronisation(launched):
    arguments = without_content(inputs(torch.bfloat16, points=2))
    with Launches() as launches, torch.inference_mode():
        fused.FusedTransform(fused.LAUNCHES_90, 1)(*arguments)
    assert [len(launches) for launches in launched] == [1, 1, 1]
    assert sum(launches.operations.values()) < 70


def flops(function, arguments):
    """Operations of matrix products, in-place ones included."""
    operations = {torch.ops.aten.baddbmm_: baddbmm_flop, torch.ops.aten.addmm_: addmm_flop}
    in_place = {operation: flop.__wrapped__ for operation, flop in operations.items()}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter, torch.inference_mode():
        function(*arguments)
    return counter.get_total_flops()


@pytest.mark.slow
def test_costs_are_those_of_the_products_and_of_what_kernels_are_given(launched):
    arguments = without_content(inputs(torch.bfloat16, points=3))
    costs = transform_cost(3, tokens=8, heads=4, dims=8, image_tokens=SIDE**2, itemsize=2)
    around = flops(fused.FusedTransform(fused.LAUNCHES_90, 1), arguments)
    assert sum(cost.flops for cost in costs) == flops(transform, arguments) - around
    # layer 1 writes half of p, layer 2 reads that and writes all
    for cost, ((*tensors,),), share in zip(costs, launched, (0.5, 1.5, 1)):
        (p,) = (x for x in tensors if x.shape == (3, 64, SIDE**2))
        once = sum(x.nbytes for x in tensors if x is not p)
        assert cost.memory_bytes == once + share * p.nbytes
        assert cost.cache_bytes == 3 * sum(x.nbytes for x in tensors if len(x) != 3)


@pytest.mark.parametrize(
    ("device", "dtype", "low_rank", "expected"),
    [
        ("cuda", torch.bfloat16, True, True),
        ("cuda:1", torch.float16, True, True),
        ("cuda", torch.float32, True, False),
        ("cuda", torch.bfloat16, False, False),
        ("cpu", torch.bfloat16, True, False),
    ],
)
def test_kernels_are_for_gpus_16_bits_and_the_low_rank_form(device, dtype, low_rank, expected):
    assert has_transform_kernels(torch.device(device), dtype, low_rank) is expected


def _in_steps_of_10():
    """A decoder of 25 points in the low-rank form."""
    return PointDecoder(random_model(), point_grid(16 * SIDE, 5), points_per_step=10, low_rank=True)


def test_the_transformer_is_asked_of_the_kernels_once_they_agree(monkeypatch):
    asked = []

    def counted(weights, maps, prompt):
        asked.append(len(prompt.tokens))
        return transform(weights, maps, prompt)

    monkeypatch.setattr(fused, "transform", counted)
    expected, expected_iou = _in_steps_of_10().decode(random_features(), -1.0)
    assert asked == []
    monkeypatch.setattr(sam2_run, "has_transform_kernels", lambda *_: True)
    found, iou = _in_steps_of_10().decode(random_features(), -1.0)
    assert asked == [COMPARED_POINTS, 10, 10, 5]
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(iou, expected_iou)


def test_where_the_kernels_cannot_run_results_are_the_plain_ones(monkeypatch, caplog):
    expected, _ = _in_steps_of_10().decode(random_features(), -1.0)
    monkeypatch.setattr(sam2_run, "has_transform_kernels", lambda *_: True)
    found, _ = _in_steps_of_10().decode(random_features(), -1.0)
    assert torch.equal(found.logits, expected.logits)
    assert len(caplog.records) == 1
    assert "kernel for SAM2's transformer is not used" in caplog.text


@pytest.mark.slow
def test_what_is_compiled_uses_no_kernel(monkeypatch):
    monkeypatch.setattr(sam2_run, "has_transform_kernels", lambda *_: True)
    decoder = _in_steps_of_10()
    assert isinstance(decoder._transform, CheckedKernel)
    decoder.compile(CompileOptions("eager"))
    assert not isinstance(decoder._transform, CheckedKernel)


COMPILED = [(c, name, 8) for c in SHARED_BYTES for name in KERNELS] + [(90, "layer_2", 7)]


@pytest.mark.slow
@pytest.mark.skipif(not (TOOLS / "ptxas").exists(), reason="this Triton has no ptxas")
@pytest.mark.parametrize(("capability", "name", "tokens"), COMPILED)
def test_published_widths_compile_for_gpus(monkeypatch, tmp_path, capability, name, tokens):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    launches = fused.LAUNCHES_90 if capability == 90 else fused.LAUNCHES_80
    compiled = _compile(name, capability, launches[KERNELS.index(name)], tokens)
    assert compiled.metadata.shared <= SHARED_BYTES[capability]
    own = capability == 90 and name != "last_attention"  # it has too few rows for a warp group
    assert re.search(r"wgmma\.mma_async" if own else r"mma\.sync", compiled.asm["ptx"])
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    command = [str(TOOLS / "cuobjdump"), "-res-usage", str(cubin)]
    used = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (spilled,) = re.findall(r"STACK:(\d+)", used)
    assert int(spilled) <= SPILLED_BYTES[name], used


def _compile(name, capability, launch, tokens):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(kernels, name)
    sizes = {"channels": 256, "tokens": tokens, "rows": 64, "asked": 32, "heads": 8, "dims": 16}
    constants = {n: v for n, v in (sizes | {"tile": launch.tile}).items() if n in kernel.arg_names}
    types = {"n": "i32", "part": "i32", "eps": "fp32"} | dict.fromkeys(constants, "constexpr")
    wide = {"square_map", "shift_map", "old_scale", "mean_p", "mean_base", "log_sum"}
    wide |= {"scale"} if name == "layer_1" else set()
    types |= dict.fromkeys(wide, "*fp32")
    signature = {n: types.get(n, "*bf16") for n in kernel.arg_names}
    # what torch allocates starts at a multiple of 16 bytes
    aligned = [i for i, n in enumerate(kernel.arg_names) if n not in constants and n != "eps"]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {n: v for n, v in launch._asdict().items() if n != "tile"}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
