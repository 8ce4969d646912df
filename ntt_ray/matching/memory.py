"""The memory bank: mean masked features of the references, as tensors and as a small file.

Defines the format ``bank.safetensors``: tensors ``features`` float32 ``[classes, shots, dim]``,
``weights`` float32 ``[classes, shots]`` and ``shots`` int64 ``[classes]`` (how many of the shots
are valid; the rest is zero), metadata ``ntt_ray_bank`` (JSON). It does not know how features are
made, nor where the file lies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.errors import InputError
from ntt_ray.records import ClassLabel

FORMAT_VERSION = 1
_METADATA_KEY = "ntt_ray_bank"


@dataclass(frozen=True)
class MemoryBank:
    """Features of the references, padded to the largest number of shots.

    Attributes:
        classes: by rising category id; the class index everywhere is the position here.
        features: ``(K, shots, dim)`` float32, per-reference means (METHOD 12), not normalised.
        weights: ``(K, shots)`` float32, the sum of each reference's soft mask at the patches.
        shots: ``(K,)`` int64, at least 1 each.
        encoder: what made the features: name, image_size, checkpoint digest.
        reference_digest: SHA-256 over the references and their images.
    """

    classes: tuple[ClassLabel, ...]
    features: Tensor
    weights: Tensor
    shots: Tensor
    encoder: Mapping[str, Any]
    reference_digest: str

    def __post_init__(self) -> None:
        k, max_shots = self.weights.shape if self.weights.ndim == 2 else (0, 0)
        ids = [label.category_id for label in self.classes]
        if k != len(ids) or k == 0 or ids != sorted(set(ids)) or ids[0] < 1:
            raise ValueError("classes must be sorted by category id, one row each, at least one")
        if self.features.ndim != 3 or self.features.shape[:2] != (k, max_shots):
            raise ValueError(f"features are {tuple(self.features.shape)}, weights {(k, max_shots)}")
        if self.shots.shape != (k,) or self.shots.min() < 1 or self.shots.max() > max_shots:
            raise ValueError("every class needs between 1 and the padded number of shots")
        if not (self.features.isfinite().all() and self.weights.isfinite().all()):
            raise ValueError("features and weights must be finite")

    @classmethod
    def from_means(
        cls,
        classes: Sequence[ClassLabel],
        means: Sequence[Sequence[tuple[Tensor, float]]],
        *,
        encoder: Mapping[str, Any],
        reference_digest: str,
    ) -> MemoryBank:
        """Pad the means ``(dim,)`` and weights of each class's references into one bank."""
        most = max(len(shots) for shots in means)
        dim = len(means[0][0][0])
        features = torch.zeros(len(classes), most, dim)
        weights = torch.zeros(len(classes), most)
        for k, shots in enumerate(means):
            for s, (mean, weight) in enumerate(shots):
                features[k, s], weights[k, s] = mean, weight
        counts = torch.tensor([len(shots) for shots in means])
        return cls(tuple(classes), features, weights, counts, dict(encoder), reference_digest)

    def prototypes(self) -> Tensor:
        """Mean over each class's references, L2-normalised (METHOD 13): ``(K, dim)`` float32."""
        valid = torch.arange(self.features.shape[1])[None, :] < self.shots[:, None]
        sums = (self.features * valid[..., None]).sum(dim=1)
        return F.normalize(sums / self.shots[:, None], dim=1)

    def to_bytes(self) -> bytes:
        """The bank as a safetensors file; the same bank gives the same bytes."""
        metadata = {
            "format_version": FORMAT_VERSION,
            "classes": [[label.category_id, label.name] for label in self.classes],
            "encoder": dict(self.encoder),
            "reference_digest": self.reference_digest,
        }
        tensors = {"features": self.features, "weights": self.weights, "shots": self.shots}
        text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
        return safetensors.torch.save(tensors, {_METADATA_KEY: text})

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> MemoryBank:
        """Read a bank.

        Raises:
            InputError: `source` is not a memory bank, damaged, or holds impossible values.
        """
        try:
            metadata = json.loads(_metadata(data)[_METADATA_KEY])
            if metadata["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format {metadata['format_version']}, not {FORMAT_VERSION}")
            tensors = safetensors.torch.load(data)
            return cls(
                tuple(ClassLabel(int(i), str(name)) for i, name in metadata["classes"]),
                tensors["features"].float(),
                tensors["weights"].float(),
                tensors["shots"].long(),
                dict(metadata["encoder"]),
                str(metadata["reference_digest"]),
            )
        except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise InputError(f"{source}: not a usable memory bank ({error})") from None

    def check_encoder(self, encoder: Mapping[str, Any], source: str) -> None:
        """Refuse a bank that another encoder made: its features mean nothing to this one.

        Raises:
            InputError: with the differences.
        """
        differences = [
            f"{key} is {self.encoder.get(key)!r} in the bank and {value!r} in this run"
            for key, value in encoder.items()
            if self.encoder.get(key) != value
        ]
        if differences:
            raise InputError(
                f"{source}: was made by another encoder: {'; '.join(differences)}. "
                "Build the bank again with this encoder"
            )

    def check_width(self, channels: int) -> None:
        """Refuse a bank whose features have another width than the encoder's.

        Raises:
            InputError: with both widths.
        """
        width = self.features.shape[2]
        if width != channels:
            raise InputError(
                f"the memory bank holds features of {width} channels, and the encoder makes "
                f"{channels}; build the bank again"
            )


def bank_digest(data: bytes) -> str:
    """SHA-256 of a bank file, in hex."""
    return hashlib.sha256(data).hexdigest()


def _metadata(data: bytes) -> dict[str, str]:
    """The string metadata in a safetensors header (safetensors reads it from files only)."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        raise ValueError("the header is damaged")
    header = json.loads(data[8 : 8 + length])
    return dict(header["__metadata__"])
