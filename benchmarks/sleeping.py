"""How to load the models that only sleep; without torch, for a driver whose memory is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ntt_ray.models.spec import ModelSpec
from ntt_ray.settings import RefinementSettings


@dataclass(frozen=True)
class SleepingSpec(ModelSpec):
    """Loads the sleeping models in whatever process labels."""

    image_s: float = 0.0
    masks: int = 0

    def load_encoder(self) -> Any:
        """See `sleeping_models`."""
        from benchmarks.sleeping_models import SleepingEncoder

        return SleepingEncoder()

    def load_proposer(
        self,
        points_per_side: int,
        all_outputs: bool = False,
        refinement: RefinementSettings | None = None,
    ) -> Any:
        """See `sleeping_models`."""
        from benchmarks.sleeping_models import SleepingProposer

        return SleepingProposer(self.image_s, self.masks)
