"""The bundled example: renders its scenes and references, and says how to run it.

It knows the scenes and the packaged config; what runs the job is the command line.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from ntt_ray.demo.families import NOVEL_FAMILIES
from ntt_ray.demo.scenes import write_references, write_scenes

IMAGES = 64
SHOTS = 5
SEED = 7


def render_example(output: Path, *, images: int = IMAGES) -> tuple[Path, list[str]]:
    """Render references and targets of the families that no weight was trained on.

    Args:
        output: folder of the example; scenes go below it, and later the run.
        images: how many target scenes are rendered.

    Returns:
        The packaged config and the overrides that point it to `output`.
    """
    scenes = output / "scenes"
    targets, references = scenes / "targets", scenes / "references"
    write_scenes(targets, families=NOVEL_FAMILIES, images=images, seed=SEED)
    write_references(references, families=NOVEL_FAMILIES, shots=SHOTS, seed=SEED)
    paths = {
        "images": targets / "annotations.json",
        "image_root": targets / "images",
        "output": output / "run",
        "references.annotations": references / "annotations.json",
        "references.image_root": references / "images",
        "ground_truth": targets / "annotations.json",
    }
    config = Path(str(resources.files("ntt_ray"))) / "demo" / "demo.yaml"
    return config, [
        f"{key}={json.dumps(str(path), ensure_ascii=False)}" for key, path in paths.items()
    ]
