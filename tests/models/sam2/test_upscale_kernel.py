"""The kernel that upscales survivors on a GPU: interpreted, and compiled for GPUs."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ntt_ray.models.sam2.decoder.run import upscale
from tests.support.interpreted_upscale import CASES, TYPES, random_inputs
from tests.support.kernels import SHARED_BYTES, interpreted_by

triton = pytest.importorskip("triton", reason="torch for CPUs comes without Triton")
kernel = pytest.importorskip("ntt_ray.models.sam2.decoder.upscale_kernel")

TOOLS = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin"


@pytest.fixture(scope="module")
def interpreted():
    return interpreted_by("tests.support.interpreted_upscale")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_kernel_computes_what_the_plain_function_does(interpreted, case, dtype):
    side, _, _, n = CASES[case]
    found, eps = interpreted[f"{case}, {dtype}"], torch.finfo(TYPES[dtype]).eps
    assert found["shape"] == [n, 4 * side, 4 * side]
    if n:
        assert found["from_plain"] < 4 * eps * found["scale"]
        # what is summed in float32 is closer than what is rounded after each step
        factor = 0.4 if dtype == "float16" else 1.5
        assert found["from_exact"] < factor * found["plain_from_exact"]


@pytest.mark.slow
@pytest.mark.skipif(not (TOOLS / "ptxas").exists(), reason="this Triton has no ptxas")
@pytest.mark.parametrize("type_name", ["bf16", "fp32"])
@pytest.mark.parametrize("capability", SHARED_BYTES)
def test_published_widths_compile_for_gpus_without_spills(
    monkeypatch, tmp_path, capability, type_name
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    compiled = _compile(capability, type_name)
    assert compiled.metadata.shared <= SHARED_BYTES[capability]
    if type_name == "bf16":
        wanted = r"wgmma\.mma_async" if capability == 90 else r"mma\.sync"
        assert re.search(wanted, compiled.asm["ptx"])
    # what each point has of its own may be further than 2^31 elements away
    assert len(re.findall(r"tt\.addptr .*>, i64", compiled.asm["ttir"])) == 5
    cubin = tmp_path / "upscale.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    command = [str(TOOLS / "cuobjdump"), "-res-usage", str(cubin)]
    used = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"(?:STACK|LOCAL):(\d+)", used) == ["0", "0"], used


def _compile(capability: int, type_name: str):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[type_name]
    block, num_warps = kernel.block_and_warps(dtype)
    constants = kernel.constants(128, 64, 64, 32, block)
    types = {"eps": "fp32", "logits_ptr": "*fp32"} | dict.fromkeys(constants, "constexpr")
    names = kernel.upscale_kernel.arg_names
    source = ASTSource(
        kernel.upscale_kernel,
        signature={name: types.get(name, f"*{type_name}") for name in names},
        constexprs=constants,
        # what torch allocates starts at a multiple of 16 bytes
        attrs={(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n.endswith("_ptr")},
    )
    options = {"num_warps": num_warps} | kernel.COMPILED_WITH
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.slow  # the first to count operations imports the counter
def test_cost_is_that_of_the_products_and_of_reading_all_once():
    arguments = random_inputs(4, 112, 256, 3, torch.float32)
    weights, maps, keys, hypernetworks = arguments
    with FlopCounterMode(display=False) as counter:
        logits = upscale(*arguments)
    products = keys.u @ weights.upscaling.first.T  # is written and read
    once = [products, products, keys.p, keys.u, keys.scale, maps.shared.upscaled, maps.skip_1]
    once += [maps.skip_0, hypernetworks, logits, *weights.upscaling.norm[:2]]
    once += [weights.upscaling.first, weights.upscaling.second]
    cost = kernel.upscale_cost(3, 112, 16, 64, 32, 4)
    assert cost.flops == counter.get_total_flops() + 2 * 3 * 16 * 112 * 256  # what it omits
    assert cost.bytes == sum(tensor.nbytes for tensor in once)
    assert kernel.upscale_cost(0, 112, 16, 64, 32, 4) == (0, 0)
