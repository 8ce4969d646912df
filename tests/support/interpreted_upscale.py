"""SAM2's upscaling by Triton's interpreter, compared with the plain function on the CPU.

A process of its own, started with TRITON_INTERPRET=1: Triton reads that when it is imported. It
prints as JSON, for each case and type, the largest logit, how far the kernel is from the plain
function, and how far both are from the plain function in float64 of the same inputs.
"""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ntt_ray.models.sam2.decoder import fold
from ntt_ray.models.sam2.decoder.keys import LowRankKeys, SharedMaps
from ntt_ray.models.sam2.decoder.run import upscale

# side of the image tokens, attention weights of each, channels, points
CASES = {
    "published widths": (4, 128, 256, 5),
    "one point": (4, 128, 256, 1),
    "no point": (4, 128, 256, 0),
    "no object score": (6, 112, 256, 2),
    "tokens that fill no block": (12, 128, 256, 1),
    "several blocks": (16, 128, 256, 1),
    "narrow": (6, 64, 32, 2),
    "channels that fill no block": (6, 42, 96, 1),
}
TYPES = {"float16": torch.float16, "float32": torch.float32}


def random_inputs(side: int, rows: int, c: int, n: int, dtype: torch.dtype) -> tuple[Any, ...]:
    """Arguments of `upscale` that resemble those of a decoder: weights are shares of their head."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(dtype)

    tokens, c4, c8 = side**2, c // 4, c // 8
    torch.manual_seed(0)
    convolutions = nn.ConvTranspose2d(c, c4, 2, 2), nn.ConvTranspose2d(c4, c8, 2, 2)
    norm = SimpleNamespace(weight=1 + draw(c4, scale=0.3), bias=draw(c4, scale=0.3), eps=1e-6)
    store = fold._Store(dtype, heads=1, head_dim=16)
    modules = (convolutions[0], norm, None, convolutions[1])
    upscaling = fold._fold_upscaling(modules, torch.ones(c), (side, side), store)
    shared = SharedMaps(*(None,) * 6, upscaled=draw(tokens, c))
    maps = SimpleNamespace(skip_1=draw(tokens, c), skip_0=draw(4 * tokens, c // 2), shared=shared)
    scale = 1 + draw(n, 1, tokens).abs()
    p = draw(n, rows, tokens, scale=2).softmax(1) * scale
    keys = LowRankKeys(scale, draw(n, rows, c), p, shared)
    return SimpleNamespace(upscaling=upscaling), maps, keys, draw(n, c8)


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same arguments with every tensor changed."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**{name: mapped(function, x) for name, x in vars(value).items()})
    if isinstance(value, tuple):
        items = [mapped(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def compare(arguments: tuple[Any, ...]) -> dict[str, Any]:
    from ntt_ray.models.sam2.decoder import upscale_kernel

    found, plain = upscale_kernel.upscale(*arguments), upscale(*arguments)
    exact = upscale(*mapped(lambda x: x.double() if x.is_floating_point() else x, arguments))
    assert found.dtype == torch.float32
    assert found.shape == plain.shape
    if not len(found):
        return {"shape": list(found.shape)}
    return {
        "shape": list(found.shape),
        "scale": exact.abs().max().item(),
        "from_plain": (found - plain).abs().max().item(),
        "from_exact": (found - exact).abs().max().item(),
        "plain_from_exact": (plain - exact).abs().max().item(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = {
            f"{name}, {type_name}": compare(random_inputs(*case, dtype))
            for name, case in CASES.items()
            for type_name, dtype in TYPES.items()
        }
    print(json.dumps(found))
