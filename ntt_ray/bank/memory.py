"""The memory bank: mean masked features of the references, as tensors to compute with.

It does not know how features are made, how banks are joined, nor where the file lies; its format is
defined in `file`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.bank.file import (
    EXTENDED_VERSION,
    FORMAT_VERSION,
    METADATA_KEY,
    BankFile,
    Source,
    check_bank,
)
from ntt_ray.bank.padding import Means, PaddedMeans
from ntt_ray.bank.patches import Patches, ReferencePatches, Rows
from ntt_ray.errors import InputError
from ntt_ray.records import ClassLabel


@dataclass(frozen=True)
class MemoryBank:
    """Features of the references, padded to the largest number of shots.

    Attributes:
        classes: the K classes by rising category id; the class index everywhere is the position
            here.
        features: ``(K, shots, dim)`` float32, per-reference means (METHOD 12), not normalised.
        weights: ``(K, shots)`` float32, the sum of each reference's soft mask at the patches.
        shots: ``(K,)`` int64, the number of references of each class, at least 1.
        encoder: what made the features: name, image_size, checkpoint digest, and what else of its
            settings is not as usual.
        reference_digest: SHA-256 over the references and their images; for a joined bank over the
            reference digests of its sources.
        negatives: means of the negative references; None leaves them out of matching.
        sources: the banks that went into a joined bank, in order; empty for a bank built in one go.
        patches: the patches of the references, class by class; None where they were not asked for.
    """

    classes: tuple[ClassLabel, ...]
    features: Tensor
    weights: Tensor
    shots: Tensor
    encoder: Mapping[str, Any]
    reference_digest: str
    negatives: PaddedMeans | None = None
    sources: tuple[Source, ...] = ()
    patches: Patches | None = None

    def __post_init__(self) -> None:
        negatives = None if self.negatives is None else self.negatives.stored()
        check_bank(self.classes, self._references().stored(), negatives)
        if self.patches is not None and len(self.patches.features) != int(self.shots.sum()):
            raise ValueError("each reference needs its patches")

    @classmethod
    def from_means(
        cls,
        classes: Sequence[ClassLabel],
        means: Means,
        *,
        encoder: Mapping[str, Any],
        reference_digest: str,
        negatives: Means = (),
        sources: Sequence[Source] = (),
        patches: Rows = (),
    ) -> MemoryBank:
        """Pad the means ``(dim,)`` and weights of each class's references into one bank.

        Args:
            classes: the classes by rising category id.
            means: for each class at least one pair of mean and weight.
            encoder: what made the features.
            reference_digest: what identifies the references.
            negatives: for each class the pairs of its negatives, if it has any; empty where no
                class has any.
            sources: the banks that went into a joined bank, in order.
            patches: for each class the patches of its references; empty where they are not wanted.
        """
        dim = len(means[0][0][0])
        return cls(
            tuple(classes),
            **vars(PaddedMeans.of(means, dim)),
            encoder=dict(encoder),
            reference_digest=reference_digest,
            negatives=PaddedMeans.of(negatives, dim) if any(negatives) else None,
            sources=tuple(sources),
            patches=Patches.of(patches) if any(patches) else None,
        )

    def prototypes(self) -> Tensor:
        """Mean over each class's references, L2-normalised (METHOD 13): ``(K, dim)`` float32."""
        valid = torch.arange(self.features.shape[1])[None, :] < self.shots[:, None]
        sums = (self.features * valid[..., None]).sum(dim=1)
        return F.normalize(sums / self.shots[:, None], dim=1)

    def weighted_means(self) -> Tensor:
        """Mean over all pixels of each class's references (METHOD 47): ``(K, dim)`` float32."""
        sums = (self.features * self.weights[..., None]).sum(dim=1)
        return sums / self.weights.sum(dim=1, keepdim=True)

    def targets(self) -> tuple[Tensor, Tensor | None]:
        """What pooled features are compared with, all of length 1.

        Returns:
            Prototypes ``(K, dim)``, and negatives ``(K, shots, dim)`` or None. With negatives the
            prototypes are the pixel-weighted means (METHOD 47), else the plain means (METHOD 13).
        """
        if self.negatives is None:
            return self.prototypes(), None
        return F.normalize(self.weighted_means(), dim=1), self.negatives.directions()

    def double(self) -> MemoryBank:
        """The same bank in float64, whose targets are computed in it too."""
        negatives = None if self.negatives is None else self.negatives.double()
        features, weights = self.features.double(), self.weights.double()
        return replace(self, features=features, weights=weights, negatives=negatives)

    def means(self) -> list[list[tuple[Tensor, float]]]:
        """The pairs of mean and weight of each class, as `from_means` takes them."""
        return self._references().means()

    def negative_means(self) -> list[list[tuple[Tensor, float]]]:
        """The pairs of mean and weight of each class's negatives; empty lists without any."""
        return [[] for _ in self.classes] if self.negatives is None else self.negatives.means()

    def reference_patches(self) -> list[list[ReferencePatches]]:
        """The patches of each class's references; empty lists without any."""
        if self.patches is None:
            return [[] for _ in self.classes]
        return self.patches.rows(self.shots.tolist())

    def _references(self) -> PaddedMeans:
        return PaddedMeans(self.features, self.weights, self.shots)

    def to_bytes(self) -> bytes:
        """The bank as a safetensors file; the same bank gives the same bytes."""
        metadata: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "classes": [[label.category_id, label.name] for label in self.classes],
            "encoder": dict(self.encoder),
            "reference_digest": self.reference_digest,
        }
        tensors = {"features": self.features, "weights": self.weights, "shots": self.shots}
        if self.negatives is not None:
            tensors |= {f"negative_{k}": v for k, v in vars(self.negatives).items()}
        if self.patches is not None:
            tensors |= {f"patch_{k}": v for k, v in vars(self.patches).items()}
        if self.sources:
            metadata["sources"] = [asdict(source) for source in self.sources]
        if self.sources or len(tensors) > 3:
            metadata["format_version"] = EXTENDED_VERSION
        text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
        return safetensors.torch.save(tensors, {METADATA_KEY: text})

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> MemoryBank:
        """Read a bank.

        Raises:
            InputError: `source` is not a memory bank, damaged, or holds impossible values.
        """
        file = BankFile.from_bytes(data, source)
        patches = file.patches()
        return cls(
            file.classes,
            **vars(PaddedMeans.of_stored(file.references)),
            encoder=file.encoder,
            reference_digest=file.reference_digest,
            negatives=None if file.negatives is None else PaddedMeans.of_stored(file.negatives),
            sources=file.sources,
            patches=None if patches is None else Patches.of_stored(patches),
        )

    def check_width(self, channels: int) -> None:
        """Refuse a bank whose features have another width than the encoder's.

        Raises:
            InputError: the widths differ; the message says both.
        """
        width = self.features.shape[2]
        if width != channels:
            raise InputError(
                f"the memory bank holds features of {width} channels, and the encoder makes "
                f"{channels}; build the bank again"
            )
