"""The memory bank as a file, read and checked without torch, which a driver has no other use for.

Defines the format ``bank.safetensors``: tensors ``features`` float32 ``[classes, shots, dim]``,
``weights`` float32 ``[classes, shots]`` and ``shots`` int64 ``[classes]`` (how many of the shots
are valid; the rest is zero), and three more with ``negative_`` before their names where there are
negative references; where it has the patches of references, ``patch_features`` float16
``[references, patches, dim]`` and ``patch_inside`` bool ``[references, patches]``, class by class;
metadata ``ntt_ray_bank`` (JSON). Format 1 is a bank built in one go without negatives and patches,
format 2 one with negatives, patches or a history. `memory` writes the file and computes with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from ntt_ray.errors import InputError
from ntt_ray.records import MAX_CATEGORY_ID, ClassLabel

FORMAT_VERSION, EXTENDED_VERSION = 1, 2
METADATA_KEY = "ntt_ray_bank"
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """One bank that went into an extended or joined one.

    Attributes:
        bank: SHA-256 of the file of that bank, which was built in one go, in hex.
        references: digest of that bank's references, in hex.
        shots: pairs of class name and number of that bank's references of the class.
    """

    bank: str
    references: str
    shots: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class StoredMeans:
    """Mean features as they lie in the file; see `padding.PaddedMeans`.

    Attributes:
        features: ``(K, shots, dim)`` float32, means of the instances.
        weights: ``(K, shots)`` float32, the sum of each instance's soft mask at the patches.
        shots: ``(K,)`` int64, how many of a class's rows are valid.
    """

    features: Floats
    weights: Floats
    shots: npt.NDArray[np.int64]

    def rows(self) -> list[Floats]:
        """The features of each class, ``(its shots, dim)``."""
        return [own[:count] for own, count in zip(self.features, self.shots, strict=True)]

    def check(self, classes: int, dim: int, *, least: int) -> None:
        """Check shapes and values for so many classes and channels.

        Args:
            classes: number of classes, K.
            dim: number of channels of a feature.
            least: number of shots that every class must have at least.

        Raises:
            ValueError: shapes or values are impossible; the message says which.
        """
        most = self.weights.shape[1] if self.weights.ndim == 2 else 0
        if self.weights.shape != (classes, most) or self.features.shape != (classes, most, dim):
            raise ValueError(
                f"features are {self.features.shape}, weights {self.weights.shape}, "
                f"for {classes} classes and {dim} channels"
            )
        if self.shots.shape != (classes,) or self.shots.min() < least or self.shots.max() > most:
            raise ValueError(f"every class needs between {least} and the padded number of shots")
        if not (np.isfinite(self.features).all() and np.isfinite(self.weights).all()):
            raise ValueError("features and weights must be finite")
        valid = np.arange(most)[None, :] < self.shots[:, None]
        if not (self.weights[valid] > 0).all():
            raise ValueError("weights must be above 0")


@dataclass(frozen=True)
class StoredPatches:
    """Patches of references as they lie in the file; see `patches.Patches`.

    Attributes:
        features: ``(R, P, dim)`` float16, zero where a reference has fewer than P patches.
        inside: ``(R, P)`` bool.
    """

    features: npt.NDArray[np.float16]
    inside: npt.NDArray[np.bool_]

    def check(self, references: int, dim: int) -> None:
        """Check shapes, kinds and values for so many references and channels.

        Raises:
            ValueError: they are impossible; the message says which.
        """
        grid = self.features.shape[1:2]
        if self.features.shape != (references, *grid, dim) or not grid:
            raise ValueError(
                f"patch features are {self.features.shape}, for {references} references and {dim} "
                "channels"
            )
        if self.inside.shape != (references, *grid):
            raise ValueError(f"patches are {self.features.shape}, their masks {self.inside.shape}")
        if (self.features.dtype.name, self.inside.dtype.name) != ("float16", "bool"):
            raise ValueError("patch features must be float16, and their masks bool")
        if not all(np.isfinite(own).all() for own in self.features):
            raise ValueError("patch features must be finite")


@dataclass(frozen=True)
class BankFile:
    """What a bank's file holds.

    Attributes:
        data: the bytes of the file.
        classes: the classes by rising category id.
        references: means of each class's references.
        negatives: means of each class's negative references; None where no class has any.
        encoder: what made the features: name, image_size, checkpoint digest, and what else of its
            settings is not as usual.
        reference_digest: SHA-256 over the references and their images; for a joined bank over the
            reference digests of its sources.
        sources: the banks that went into a joined bank, in order; empty for a bank built in one go.
        has_patches: whether the patches of its references are in it.
    """

    data: bytes = field(repr=False)
    classes: tuple[ClassLabel, ...]
    references: StoredMeans
    negatives: StoredMeans | None
    encoder: Mapping[str, Any]
    reference_digest: str
    sources: tuple[Source, ...]
    has_patches: bool = False

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> BankFile:
        """Read and check a bank.

        Raises:
            InputError: `source` is not a memory bank, damaged, or holds impossible values.
        """
        try:
            metadata = json.loads(_metadata(data)[METADATA_KEY])
            version = metadata["format_version"]
            if version not in (FORMAT_VERSION, EXTENDED_VERSION):
                raise ValueError(f"format {version}, not {FORMAT_VERSION} or {EXTENDED_VERSION}")
            tensors = safetensors.numpy.load(data)
            read = cls(
                data,
                tuple(ClassLabel(int(i), str(name)) for i, name in metadata["classes"]),
                _means(tensors, ""),
                _means(tensors, "negative_") if "negative_shots" in tensors else None,
                dict(metadata["encoder"]),
                str(metadata["reference_digest"]),
                tuple(_source(item) for item in metadata.get("sources", ())),
                "patch_features" in tensors,
            )
            check_bank(read.classes, read.references, read.negatives)
            if read.has_patches:
                counts = int(read.references.shots.sum()), read.references.features.shape[-1]
                _patches(tensors).check(*counts)
        except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise InputError(f"{source}: not a usable memory bank ({error})") from None
        return read

    def patches(self) -> StoredPatches | None:
        """The patches of its references, read again; None where it has none."""
        return _patches(safetensors.numpy.load(self.data)) if self.has_patches else None

    def negative_features(self) -> list[Floats]:
        """The mean features of each class's negatives, ``(count, dim)``; maybe none."""
        if self.negatives is None:
            return [own[:0] for own in self.references.features]
        return self.negatives.rows()

    def history(self) -> tuple[Source, ...]:
        """The banks that it was joined of; a bank that was built in one go is its own history."""
        if self.sources:
            return self.sources
        names = (label.name for label in self.classes)
        shots = tuple(zip(names, self.references.shots.tolist(), strict=True))
        return (Source(bank_digest(self.data), self.reference_digest, shots),)

    def check_patches(self, source: str) -> None:
        """Refuse a bank without the patches of its references.

        Raises:
            InputError: it has none; the message says how one with them is built.
        """
        if not self.has_patches:
            raise InputError(
                f"{source}: has no patch features of its references, which method.correspondence "
                "compares with. Build the bank again from its references with that setting "
                "(ntt-ray bank), or set method.correspondence to null"
            )

    def check_encoder(self, encoder: Mapping[str, Any], source: str) -> None:
        """Refuse a bank that another encoder made: its features mean nothing to this one.

        Raises:
            InputError: another encoder made it; the message names the differences.
        """
        if differences := encoder_differences(self.encoder, "the bank", encoder, "this run"):
            raise InputError(
                f"{source}: was made by another encoder: {'; '.join(differences)}. "
                "Build the bank again with this encoder"
            )


def encoder_differences(
    encoder: Mapping[str, Any], place: str, other: Mapping[str, Any], other_place: str
) -> list[str]:
    """In what two encoders differ, in words that say where each of them is from."""
    return [
        f"{key} is {encoder.get(key)!r} in {place} and {other.get(key)!r} in {other_place}"
        for key in sorted(encoder.keys() | other.keys())
        if encoder.get(key) != other.get(key)
    ]


def bank_digest(data: bytes) -> str:
    """SHA-256 of a bank file, in hex."""
    return hashlib.sha256(data).hexdigest()


def check_bank(
    classes: tuple[ClassLabel, ...], references: StoredMeans, negatives: StoredMeans | None
) -> None:
    """Check that classes and means are those of one bank.

    Raises:
        ValueError: they are not; the message says why.
    """
    ids = [label.category_id for label in classes]
    if not ids or ids != sorted(set(ids)) or ids[0] < 1 or ids[-1] > MAX_CATEGORY_ID:
        raise ValueError("classes must be sorted by category id, one row each, at least one")
    dim = references.features.shape[-1] if references.features.ndim else 0
    references.check(len(ids), dim, least=1)
    if negatives is not None:
        negatives.check(len(ids), dim, least=0)


def _metadata(data: bytes) -> dict[str, str]:
    """The string metadata in a safetensors header (safetensors reads it from files only)."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        raise ValueError("the header is damaged")
    header = json.loads(data[8 : 8 + length])
    return dict(header["__metadata__"])


def _means(tensors: Mapping[str, npt.NDArray[Any]], prefix: str) -> StoredMeans:
    return StoredMeans(
        tensors[f"{prefix}features"].astype(np.float32),
        tensors[f"{prefix}weights"].astype(np.float32),
        tensors[f"{prefix}shots"].astype(np.int64),
    )


def _patches(tensors: Mapping[str, npt.NDArray[Any]]) -> StoredPatches:
    return StoredPatches(tensors["patch_features"], tensors["patch_inside"])


def _source(item: Mapping[str, Any]) -> Source:
    shots = tuple((str(name), int(count)) for name, count in item["shots"])
    return Source(str(item["bank"]), str(item["references"]), shots)
