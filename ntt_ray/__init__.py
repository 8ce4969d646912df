"""ntt-ray: training-free, reference-based instance segmentation of image collections on Ray.

From Python: `load_config`, `load_labeler`, `read_labels`, `rematch`, and what they give. They are
loaded when they are first asked for; nothing heavy is imported here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntt_ray.api import (
        Detection,
        ImageLabeler,
        LabelledImage,
        load_labeler,
        read_labels,
        rematch,
    )
    from ntt_ray.config import Config, load_config
    from ntt_ray.errors import NttRayError

__version__ = "0.1.0"
__all__ = [
    "Config",
    "Detection",
    "ImageLabeler",
    "LabelledImage",
    "NttRayError",
    "load_config",
    "load_labeler",
    "read_labels",
    "rematch",
]
_HOMES = {"Config": "config", "load_config": "config", "NttRayError": "errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
