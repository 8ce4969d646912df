"""The forward-backward check: does what a mask shows lead back into the masks of the references?

A pooled feature says what a mask resembles on the whole. A patch of the image that resembles a
class has a nearest patch in each reference of it, and that one may lie beside the object: on what
the class is often seen with, as water around boats. The share of a mask's patches that lead back
into the object weighs its score.

From Matcher (arXiv 2305.13310) and INSID3 (arXiv 2603.28480), which choose points and regions by
it. As INSID3's published code has it, each reference has a vote, and half of the votes are enough;
the similarity that must be positive is that to the class's prototype there, and to the nearest
patch here. INSID3 compares features without the directions of places, which is an option of the
encoder here (`models.positions`).
"""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.errors import InputError
from ntt_ray.method.pooling import at_patches
from ntt_ray.settings import CorrespondenceSettings


class Correspondence:
    """The patches of a bank's references on a device, by class.

    Raises:
        InputError: when built with a bank without patches.
    """

    def __init__(
        self, bank: MemoryBank, settings: CorrespondenceSettings, device: torch.device
    ) -> None:
        if bank.patches is None:
            raise InputError(
                "the memory bank has no patch features of its references, which "
                "method.correspondence compares with; build it again with that setting"
            )
        self._features = bank.patches.features.to(device)
        self._inside = bank.patches.inside.to(device)
        shots = bank.shots.tolist()
        self._rows = [slice(end - own, end) for own, end in zip(shots, accumulate(shots))]
        self._power = settings.power

    def weighed(self, features: Tensor, masks: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
        """Scores times the share of each mask that leads back to its class, to a power.

        Only classes that a mask has are compared, one reference at a time.

        Args:
            features: ``(h, w, C)`` float32 patch features of the image.
            masks: ``(N, H, W)`` bool.
            labels: ``(N,)`` int64 class indices.
            scores: ``(N,)`` float32.

        Returns:
            ``(N,)`` float32.
        """
        patches = F.normalize(features.flatten(0, 1), dim=1)
        shares = torch.zeros_like(scores)
        for label in sorted(set(labels.tolist())):
            own = self._rows[label]
            leading = leading_back(patches, self._features[own], self._inside[own])
            of_class = shares_of(masks, leading.view(features.shape[:2]))
            shares = torch.where(labels == label, of_class, shares)
        return scores * shares**self._power


def leading_back(patches: Tensor, references: Tensor, inside: Tensor) -> Tensor:
    """Patches of an image whose nearest patches in the references lie in the references' masks.

    A reference votes for a patch if the most similar of all its patches has a similarity above 0
    and lies in its mask; of equally similar ones one in the mask is enough.

    Args:
        patches: ``(P, C)`` float32 of length 1.
        references: ``(n, R, C)`` of length 1, in any precision, all patches of n references; zero
            where one has fewer than R.
        inside: ``(n, R)`` bool, which of them lie in the masks.

    Returns:
        ``(P,)`` bool, whether half of the references or more vote for each patch.
    """
    votes = torch.zeros(len(patches), dtype=torch.int64, device=patches.device)
    for own, within in zip(references, inside, strict=True):
        similarity = patches @ own.to(patches.dtype).T
        nearest = similarity.amax(dim=1)
        nearest_inside = similarity.masked_fill(~within, -torch.inf).amax(dim=1)
        votes += (nearest > 0) & (nearest_inside == nearest)
    return 2 * votes >= len(references)


def shares_of(masks: Tensor, patches: Tensor) -> Tensor:
    """The share of each mask that some patches have, by the weights that pool its features.

    Args:
        masks: ``(N, H, W)`` bool.
        patches: ``(h, w)`` bool.

    Returns:
        ``(N,)`` float32 in [0, 1]; of an empty mask 0.
    """
    weights = masks.to(torch.float32)
    areas = weights.flatten(1).sum(dim=1).clamp(min=1)
    parts = at_patches(weights, patches.shape) @ patches.flatten().to(weights.dtype)
    return (parts / areas).clamp(0, 1)
