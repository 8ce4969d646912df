"""The masks of one image between the steps of the method, with all that is known of each."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ntt_ray.method.masks_at_size import RleMasks, StripMasks
from ntt_ray.models.interfaces import Proposals


class Candidates(NamedTuple):
    """Masks with their class, in NMS order once `Labeler.suppress` has run.

    Attributes:
        proposals: the N masks at low resolution.
        features: ``(N, C)`` float32, pooled, of length 1.
        scores: ``(N,)`` float32, similarity to the best class.
        labels: ``(N,)`` int64, index of the best class.
    """

    proposals: Proposals
    features: Tensor
    scores: Tensor
    labels: Tensor

    def select(self, kept: Tensor) -> Candidates:
        """Keep some candidates: `kept` is a bool mask or int64 positions, for all fields alike."""
        return Candidates(self.proposals.select(kept), *(field[kept] for field in self[1:]))


class Merged(NamedTuple):
    """What soft merging makes of the candidates.

    Attributes:
        candidates: M candidates, in NMS order.
        masks: their masks at the image's size.
        scores: ``(M,)`` float32, decayed; -1 where a mask cannot be among those wanted, or has no
            pixel at the image's size.
    """

    candidates: Candidates
    masks: RleMasks | StripMasks
    scores: Tensor
