"""From the `method` settings to what the labeller takes."""

from __future__ import annotations

from typing import Any

from ntt_ray.config import MethodConfig
from ntt_ray.records import (
    DiffusionSettings,
    MatchSettings,
    PromptSettings,
    PrototypeSettings,
    TileSettings,
)


def match_settings(method: MethodConfig) -> MatchSettings:
    """The method's thresholds and options as plain values."""
    options = {
        "diffusion": DiffusionSettings,
        "prototypes": PrototypeSettings,
        "prompts": PromptSettings,
        "tiles": TileSettings,
    }
    chosen: dict[str, Any] = {}
    for name, settings in options.items():
        block = getattr(method, name)
        chosen[name] = None if block is None else settings(**block.model_dump())
    return MatchSettings(method.min_predicted_iou, method.nms_iou, method.max_detections, **chosen)
