"""The transformer's kernels against the plain function, by Triton's interpreter.

The interpreter has to be chosen before Triton is imported: run as a program, with
``TRITON_INTERPRET=1`` in its environment, this prints as JSON what each case and type gave.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from ntt_ray.models.sam2.decoder.checked import disagreement
from ntt_ray.models.sam2.decoder.image import Sam2Features, image_maps
from ntt_ray.models.sam2.decoder.kernels import COMPARED_ROUNDINGS
from ntt_ray.models.sam2.decoder.run import (
    PointDecoder,
    prompt_tokens,
    transform,
    upscale,
)
from ntt_ray.models.sam2.decoder.tokens import Decoded
from ntt_ray.models.sam2.proposer import point_grid
from tests.support.random_decoder import SIDE, random_features, random_model

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Tiles do not divide the 36 image tokens.
CASES: dict[str, dict[str, Any]] = {
    "three points in parts": {"points": 3, "parts": 2, "tile": 32},
    "no object score": {"points": 1, "parts": 1, "tile": 16, "pred_obj_scores": False},
    "two heads in parts": {"points": 1, "parts": 3, "tile": 16, "heads": 2, "channels": 32},
    "published widths": {"points": 2, "parts": 1, "tile": 32, "heads": 8, "channels": 256},
}


def inputs(
    dtype: torch.dtype, points: int, channels: int = 64, heads: int = 4, **switches: Any
) -> tuple[Any, Any, Any]:
    """Weights, maps and prompt tokens: the same for every type, but for rounding."""
    model = random_model(channels, heads, torch.float64, **switches)
    decoder = PointDecoder(model, point_grid(16 * SIDE, 2)[:points], dtype=dtype, low_rank=True)
    features = random_features(channels, torch.float64)
    parts = (features.embedding, features.high_res_0, features.high_res_1)
    with torch.inference_mode():
        narrow = Sam2Features(*(part.to(dtype) for part in parts))
        maps = image_maps(decoder._image, decoder._weights, narrow)
        return decoder._weights, maps, prompt_tokens(decoder._weights, maps)


def values(decoded: Decoded) -> dict[str, Tensor]:
    keys, iou, hypernetworks = decoded
    return {"scale": keys.scale, "p": keys.p, "iou": iou, "hypernetworks": hypernetworks}


def errors(decoded: Decoded, exact: Decoded) -> dict[str, float]:
    """Largest difference of each result, as a share of its largest value."""
    wanted = values(exact)
    return {
        name: float((value.double() - wanted[name]).abs().max() / wanted[name].abs().max())
        for name, value in values(decoded).items()
    }


def compare(dtype: torch.dtype, parts: int, tile: int, **case: Any) -> dict[str, Any]:
    """What kernels and plain function make of a case."""
    from ntt_ray.models.sam2.decoder.fused_transform import FusedTransform, Launch

    exact, arguments = transform(*inputs(torch.float64, **case)), inputs(dtype, **case)
    plain = transform(*arguments)
    found = FusedTransform((Launch(tile, 4, 1),) * 3, parts)(*arguments)
    logits = [upscale(*arguments[:2], x.keys, x.hypernetworks[:, 0]) for x in (found, plain)]
    return {
        "same_types": [x.dtype for x in values(found).values()]
        == [x.dtype for x in values(plain).values()],
        "errors": errors(found, exact),
        "plain_errors": errors(plain, exact),
        "disagreement": disagreement(found, plain, COMPARED_ROUNDINGS * torch.finfo(dtype).eps),
        "logits": float((logits[0] - logits[1]).abs().max() / logits[1].abs().max()),
    }


def main() -> None:
    import triton.language as tl

    from ntt_ray.models.sam2.decoder import transform_kernels, transform_tiles

    float32_dot = transform_tiles.dot

    def dot(a: Any, b: Any, total: Any = None) -> Any:  # products of bfloat16 come out wrong
        return float32_dot(a.to(tl.float32), b.to(tl.float32), total)

    transform_kernels.dot = dot
    torch.set_num_threads(1)
    print(
        json.dumps(
            {
                f"{name}, {type_name}": compare(dtype, **case)
                for name, case in CASES.items()
                for type_name, dtype in TYPES.items()
            }
        )
    )


if __name__ == "__main__":
    main()
