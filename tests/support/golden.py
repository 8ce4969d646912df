"""The golden case: values that the paper's own code computed, and how to load its small models."""

from typing import Any

from tests.support.paths import ROOT

GOLDEN = ROOT / "tests" / "golden" / "a"
GOLDEN_MODELS: dict[str, Any] = {
    "encoder": {
        "name": "dino_nano",
        "checkpoint": str(GOLDEN / "weights" / "dino_nano.pth"),
        "image_size": 112,
        "architecture": {"embed_dim": 64, "depth": 2, "num_heads": 4},
    },
    "proposer": {
        "name": "sam2_nano",
        "checkpoint": str(GOLDEN / "weights" / "sam2_nano.pt"),
        "image_size": 256,
        "config": str(GOLDEN / "weights" / "sam2_nano.yaml"),
    },
}
