"""Mean features of drawn references, made by the demo encoder; once per session."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from ntt_ray.bank.build import load_crops, reference_mean
from ntt_ray.demo.families import NOVEL_FAMILIES
from ntt_ray.demo.scenes import write_references
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.published import BUNDLED, bundled_file
from ntt_ray.references.dataset import load_references
from ntt_ray.storage import Storage

FAMILIES = NOVEL_FAMILIES[:6]
SHOTS = 10
SEED = 5


@lru_cache(maxsize=1)
def family_means() -> dict[str, list[tuple[torch.Tensor, float]]]:
    """Mean feature and weight of ten drawn objects of each of six families."""
    checkpoint = bundled_file(BUNDLED["dinov2_demo"])
    encoder = Dinov2Encoder.load(checkpoint, name="dinov2_demo", image_size=280)
    means: dict[str, list[tuple[torch.Tensor, float]]] = {name: [] for name in FAMILIES}
    with tempfile.TemporaryDirectory() as folder:
        path = write_references(Path(folder), families=FAMILIES, shots=SHOTS, seed=SEED)
        references = load_references(str(path), f"{folder}/images", Storage())
        names = {label.category_id: label.name for label in references.classes}
        with torch.inference_mode():
            for crop in load_crops(references, Storage(), 0.2):
                name = names[crop.reference.category_id]
                means[name].append(reference_mean(crop, encoder))
    return means
