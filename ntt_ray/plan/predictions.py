"""How long a GPU would take, where none is at hand: predictions of the budget benchmark.

``python -m benchmarks.budget`` counts what an image of 640 x 480 asks of a GPU at 1024 points in
bf16; the rates of the cards are assumed. No GPU has been measured with this project, so these are
predictions and are called so.
"""

from __future__ import annotations

from ntt_ray.config import Config

# milliseconds an image, by encoder and proposer
PREDICTED_MS = {
    ("dinov2_vits14", "sam2.1_hiera_t"): {"H100": 12.9, "H200": 12.1, "A100": 33.0, "L4": 87.6},
    ("dinov2_vitl14", "sam2_hiera_l"): {"H100": 19.0, "H200": 17.6, "A100": 47.8, "L4": 144.0},
}


def predicted_gpu_hours(config: Config, images: int) -> dict[str, float]:
    """GPU hours of a run by the model of the GPU; none where nothing was counted for its models.

    Args:
        config: the run; one with another grid of points, with all outputs, with tiles, with chosen
            points, with boxes or with refinement asks other things of a GPU.
        images: how many images it has.
    """
    models, method = config.models, config.method
    if method.points_per_side != 32 or method.all_outputs or config.proposals.boxes is not None:
        return {}
    if any(option is not None for option in (method.tiles, method.prompts, method.refinement)):
        return {}
    if models.precision == "fp32":
        return {}
    predicted = PREDICTED_MS.get((models.encoder.name, models.proposer.name), {})
    return {gpu: images * ms / 3.6e6 for gpu, ms in predicted.items()}
