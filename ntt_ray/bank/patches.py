"""Patch features of whole reference crops, inside and outside of the masks: large, and optional.

A memory bank has them for `method.options.correspondence` alone. In float16 a reference takes two
bytes for each channel of each patch: 2.8 MB with a DINOv2-L at 518 pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ntt_ray.bank.file import StoredPatches
from ntt_ray.bank.masked_mean import mask_at_patches
from ntt_ray.errors import InputError

MAX_BYTES = 2 << 30  # of all references: they lie in the memory of every process that labels


class ReferencePatches(NamedTuple):
    """The patches of one reference.

    Attributes:
        features: ``(P, dim)`` float16, of length 1, or zero where there is none.
        inside: ``(P,)`` bool, whether each lies in the mask of the reference.
    """

    features: Tensor
    inside: Tensor


Rows = Sequence[Sequence[ReferencePatches]]  # for each class one of each of its references


@dataclass(frozen=True)
class Patches:
    """The patches of R references: those of the first class in their order, then the next one's.

    Where crops have different numbers of patches the rest is zero, which resembles nothing.

    Attributes:
        features: ``(R, P, dim)`` float16, of length 1; zero where padded.
        inside: ``(R, P)`` bool; False where padded.
    """

    features: Tensor
    inside: Tensor

    @classmethod
    def of(cls, rows: Rows) -> Patches:
        """Join the patches of all references.

        Raises:
            InputError: they take more than `MAX_BYTES`.
        """
        every = [own for shots in rows for own in shots]
        check_room(len(every), max((own.features for own in every), key=len))
        return cls(*(pad_sequence(list(field), batch_first=True) for field in zip(*every)))

    def rows(self, shots: Sequence[int]) -> list[list[ReferencePatches]]:
        """The patches as `of` takes them, with the number of references of each class."""
        every = map(ReferencePatches, self.features, self.inside)
        return [[next(every) for _ in range(count)] for count in shots]

    def without(self, rows: Mapping[int, Collection[int]], shots: Sequence[int]) -> Patches:
        """The patches without some references; of a class that has no other one none are left.

        Args:
            rows: for a class index the positions of the references that are left out.
            shots: number of references of each class.
        """
        return Patches.of(
            [
                [one for s, one in enumerate(own) if s not in rows.get(k, ())]
                for k, own in enumerate(self.rows(shots))
            ]
        )

    @classmethod
    def of_stored(cls, stored: StoredPatches) -> Patches:
        """The patches as tensors, from those in a bank's file."""
        return cls(*(torch.from_numpy(values) for values in vars(stored).values()))


def reference_patches(features: Tensor, soft_mask: Tensor) -> ReferencePatches:
    """The patches of a reference, on the CPU.

    Args:
        features: ``(h, w, dim)`` float32 patch features of its crop.
        soft_mask: ``(H, W)`` float32 in [0, 1], its mask at the size of the encoder's input.

    Returns:
        The patches row by row. Inside are those with a weight above one half, sampled as for the
        mean feature (`mask_at_patches`); where a small mask has none, those with any weight.
    """
    weights = mask_at_patches(soft_mask, (features.shape[0], features.shape[1])).flatten()
    inside = weights > 0.5
    directions = F.normalize(features.flatten(0, 1), dim=1).half().cpu()
    return ReferencePatches(directions, inside if inside.any() else weights > 0)


def check_room(count: int, features: Tensor) -> None:
    """Refuse more patch features than every process can hold.

    Args:
        count: number of references of all classes.
        features: patch features of one, of which only the number of elements counts.

    Raises:
        InputError: in float16 they take more than `MAX_BYTES`; the message says how many may be.
    """
    each = 2 * features.numel()
    if count * each > MAX_BYTES:
        raise InputError(
            f"method.correspondence: the patch features of {count} references take "
            f"{count * each / 2**30:.1f} GiB, and at most {MAX_BYTES / 2**30:g} GiB may go into a "
            f"memory bank: {MAX_BYTES // each} references of all classes. Lower references.shots, "
            "take fewer classes, or set method.correspondence to null"
        )
