"""How to load the fakes, for runs that are about processes and storage; without torch itself.

Also the command ``ntt-ray`` with them, whose labelling takes as long as asked without computing:

    python -m tests.support.fake_models SECONDS_PER_IMAGE run CONFIG
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ntt_ray.models.spec import ModelSpec
from ntt_ray.run import models
from ntt_ray.run.cluster.connect import decide
from ntt_ray.settings import RefinementSettings

if TYPE_CHECKING:
    from tests.support.fakes import FakeEncoder, FakeProposer


@dataclass(frozen=True)
class FakeSpec(ModelSpec):
    """Loads the fakes in whatever process labels."""

    image_s: float = 0.0
    troubles: str | None = None  # a folder, see `Troubled`

    def load_encoder(self) -> FakeEncoder:
        from tests.support.fakes import FakeEncoder

        return FakeEncoder()

    def load_proposer(
        self,
        points_per_side: int,
        all_outputs: bool = False,
        refinement: RefinementSettings | None = None,
    ) -> FakeProposer:
        import torch

        from tests.support.fakes import FakeProposer, make_proposals

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[0, 4:20, 4:20] = masks[1, 12:28, 16:30] = True
        proposer = FakeProposer(make_proposals(masks, [0.9, 0.8]), self.image_s)
        return proposer if self.troubles is None else _troubled(proposer, Path(self.troubles))


def _troubled(proposer: FakeProposer, folder: Path) -> FakeProposer:
    """It takes a file out of a folder for each image, and has the trouble of its name.

    ``sick-*``: the GPU is broken; ``hang-*``: it never comes back; ``die-*``: it takes its process
    along. An empty folder is no trouble.
    """
    propose = proposer.propose

    def with_troubles(*arguments):
        for path in sorted(folder.iterdir())[:1]:
            path.unlink()
            if path.name.startswith("sick"):
                raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
            if path.name.startswith("hang"):
                time.sleep(3600)
            os.kill(os.getpid(), signal.SIGKILL)
        return propose(*arguments)

    proposer.propose = with_troubles
    return proposer


def use_fakes(image_s: float = 0.0, troubles: Path | None = None) -> None:
    """Let the runs of this process label with them; an image takes `image_s` seconds longer."""
    folder = None if troubles is None else str(troubles)

    def fake_models(config, store):
        spec = FakeSpec(config.models, store=store, image_s=image_s, troubles=folder)
        return spec, decide(config.job, "cpu")

    models._decided = fake_models


if __name__ == "__main__":
    # under its own name, by which the workers find the class; here it is in `__main__`
    from ntt_ray.cli import main
    from tests.support.fake_models import use_fakes as use_importable_fakes

    use_importable_fakes(float(sys.argv.pop(1)))
    main()
