"""The memory bank: mean masked features of the references, as tensors and as a small file.

Defines the format ``bank.safetensors``: tensors ``features`` float32 ``[classes, shots, dim]``,
``weights`` float32 ``[classes, shots]`` and ``shots`` int64 ``[classes]`` (how many of the shots
are valid; the rest is zero), and the same with ``negative_`` before their names where there are
negative references; metadata ``ntt_ray_bank`` (JSON). Format 1 is a bank built in one go without
negatives, 2 one with negatives or a history. It does not know how features are made, how banks are
joined, nor where the file lies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.errors import InputError
from ntt_ray.matching.padding import Means, PaddedMeans
from ntt_ray.records import MAX_CATEGORY_ID, ClassLabel

FORMAT_VERSION, EXTENDED_VERSION = 1, 2
_METADATA_KEY = "ntt_ray_bank"


@dataclass(frozen=True)
class Source:
    """One bank that went into an extended or joined one.

    Attributes:
        bank: digest of that bank's file, built in one go.
        references: digest of its references.
        shots: number of its references by class name.
    """

    bank: str
    references: str
    shots: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class MemoryBank:
    """Features of the references, padded to the largest number of shots.

    Attributes:
        classes: by rising category id; the class index everywhere is the position here.
        features: ``(K, shots, dim)`` float32, per-reference means (METHOD 12), not normalised.
        weights: ``(K, shots)`` float32, the sum of each reference's soft mask at the patches.
        shots: ``(K,)`` int64, at least 1 each.
        encoder: what made the features: name, image_size, checkpoint digest.
        reference_digest: SHA-256 over the references and their images; of a joined bank over those
            of its sources.
        negatives: used in matching when present.
        sources: the history of a joined bank, in order; empty for a bank built in one go.
    """

    classes: tuple[ClassLabel, ...]
    features: Tensor
    weights: Tensor
    shots: Tensor
    encoder: Mapping[str, Any]
    reference_digest: str
    negatives: PaddedMeans | None = None
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        ids = [label.category_id for label in self.classes]
        if not ids or ids != sorted(set(ids)) or ids[0] < 1 or ids[-1] > MAX_CATEGORY_ID:
            raise ValueError("classes must be sorted by category id, one row each, at least one")
        dim = self.features.shape[-1] if self.features.ndim else 0
        self._references().check(len(ids), dim, least=1)
        if self.negatives is not None:
            self.negatives.check(len(ids), dim, least=0)

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
    ) -> MemoryBank:
        """Pad the means ``(dim,)`` and weights of each class's references into one bank.

        Args:
            classes: by rising category id.
            means: for each class at least one pair of mean and weight.
            encoder: what made them.
            reference_digest: what they were made of.
            negatives: for each class its pairs, or none; the same form.
            sources: the history of a joined bank.
        """
        dim = len(means[0][0][0])
        return cls(
            tuple(classes),
            **vars(PaddedMeans.of(means, dim)),
            encoder=dict(encoder),
            reference_digest=reference_digest,
            negatives=PaddedMeans.of(negatives, dim) if any(negatives) else None,
            sources=tuple(sources),
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
            prototypes ``(K, dim)``, and the negatives ``(K, shots, dim)`` or None. With negatives
            the prototypes are the pixel-weighted ones (METHOD 47), else those of METHOD 13.
        """
        if self.negatives is None:
            return self.prototypes(), None
        return F.normalize(self.weighted_means(), dim=1), self.negatives.directions()

    def means(self) -> list[list[tuple[Tensor, float]]]:
        """The pairs of mean and weight of each class, as `from_means` takes them."""
        return self._references().means()

    def negative_means(self) -> list[list[tuple[Tensor, float]]]:
        """The same of the negatives; empty lists where there are none."""
        return [[] for _ in self.classes] if self.negatives is None else self.negatives.means()

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
        if self.sources:
            metadata["sources"] = [asdict(source) for source in self.sources]
        if self.sources or self.negatives is not None:
            metadata["format_version"] = EXTENDED_VERSION
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
            if metadata["format_version"] not in (FORMAT_VERSION, EXTENDED_VERSION):
                raise ValueError(
                    f"format {metadata['format_version']}, not {FORMAT_VERSION} or "
                    f"{EXTENDED_VERSION}"
                )
            tensors = safetensors.torch.load(data)
            return cls(
                tuple(ClassLabel(int(i), str(name)) for i, name in metadata["classes"]),
                *_parts(tensors, ""),
                dict(metadata["encoder"]),
                str(metadata["reference_digest"]),
                PaddedMeans(*_parts(tensors, "negative_")) if "negative_shots" in tensors else None,
                tuple(_source(item) for item in metadata.get("sources", ())),
            )
        except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise InputError(f"{source}: not a usable memory bank ({error})") from None

    def check_encoder(self, encoder: Mapping[str, Any], source: str) -> None:
        """Refuse a bank that another encoder made: its features mean nothing to this one.

        Raises:
            InputError: with the differences.
        """
        differences = [
            f"{key} is {self.encoder.get(key)!r} in the bank and {encoder.get(key)!r} in this run"
            for key in sorted(self.encoder.keys() | encoder.keys())
            if self.encoder.get(key) != encoder.get(key)
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


def _parts(tensors: Mapping[str, Tensor], prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    features, weights = tensors[f"{prefix}features"].float(), tensors[f"{prefix}weights"].float()
    return features, weights, tensors[f"{prefix}shots"].long()


def _source(item: Mapping[str, Any]) -> Source:
    shots = tuple((str(name), int(count)) for name, count in item["shots"])
    return Source(str(item["bank"]), str(item["references"]), shots)
