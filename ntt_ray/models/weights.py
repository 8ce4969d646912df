"""Reading checkpoints: ``safetensors`` or ``torch.load(weights_only=True)``, never unpickled.

It does not know what the tensors mean (the model files do), nor how a file came onto the node.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ntt_ray.errors import WeightsError

SHOWN_DIFFERENCES = 5


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file onto the CPU.

    A ``.pt`` file that holds ``{"model": tensors}``, as SAM2's do, is unwrapped.

    Raises:
        WeightsError: the file is not a checkpoint, is damaged, or would run code when loaded.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, it is not a plain file of tensors "
            f"({str(error).splitlines()[0]}); only tensors are loaded, never code"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, zipfile.BadZipFile) as e:
        raise WeightsError(f"{path}: not a readable checkpoint ({e})") from None
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise WeightsError(f"{path}: holds something else than named tensors")
    return loaded


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a model; every key and shape must fit.

    Raises:
        WeightsError: keys or shapes differ; the message names the first differences.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    differences = [
        *(f"missing: {key} {list(expected[key])}" for key in expected if key not in found),
        *(f"unexpected: {key} {list(found[key])}" for key in found if key not in expected),
        *(
            f"other shape: {key} is {list(found[key])}, the model has {list(expected[key])}"
            for key in expected
            if key in found and found[key] != expected[key]
        ),
    ]
    if differences:
        shown = "\n".join(f"  - {line}" for line in differences[:SHOWN_DIFFERENCES])
        rest = len(differences) - SHOWN_DIFFERENCES
        more = f"\n  and {rest} more" if rest > 0 else ""
        raise WeightsError(
            f"{path} does not fit the model: {len(differences)} of {len(expected)} tensors "
            f"differ\n{shown}{more}"
        )
    model.load_state_dict(dict(tensors), strict=True)
