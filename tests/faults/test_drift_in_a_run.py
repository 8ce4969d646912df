"""A camera that breaks halfway through a run, half of its images dark and inverted, is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from ntt_ray.config import Config, load_config
from ntt_ray.demo.example import render_example
from ntt_ray.run.drift import unit_order
from ntt_ray.run.drift_watch import read_alarms
from ntt_ray.run.label import label
from ntt_ray.run.manifest import manifest_digest
from ntt_ray.run.prepare import check_images
from ntt_ray.run.status import read_status
from ntt_ray.storage import Storage

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.usefixtures("ray_cluster"),
]
SCENES, UNITS, PER_UNIT = 4, 30, 4  # every unit has the same scenes, so few units are enough


def _config(folder: Path, *overrides: str) -> Config:
    path, paths = render_example(folder, images=SCENES)
    photos = folder / "photos"
    photos.mkdir()
    scenes = sorted((folder / "scenes" / "targets" / "images").iterdir())
    for number in range(UNITS * PER_UNIT):
        shutil.copy(scenes[number % SCENES], photos / f"{number:04d}{scenes[0].suffix}")
    paths = [text for text in paths if text.split("=")[0] not in ("images", "image_root")]
    return load_config(
        str(path),
        [
            *(text for text in paths if not text.startswith("ground_truth")),
            f"images={photos}",
            "ground_truth=null",
            "image_root=null",
            f"job.images_per_unit={PER_UNIT}",
            "job.actors=1",
            "job.cpus_per_actor=1",
            "method.points_per_side=8",
            *overrides,
        ],
    )


def _break(photo: Path) -> None:
    dark = ImageOps.invert(Image.open(photo).convert("RGB")).point(lambda value: value // 4)
    dark.save(photo.with_name(f".{photo.name}"), photo.suffix[1:].replace("jpg", "jpeg"))
    photo.with_name(f".{photo.name}").replace(photo)


def test_a_change_after_half_of_a_run_is_named_within_five_units(tmp_path):
    config, ended = _config(tmp_path), list[int]()
    manifest = check_images(config, Storage()).manifest
    order = unit_order(range(UNITS), manifest_digest(manifest))
    photos = sorted((tmp_path / "photos").iterdir())
    for unit in order[UNITS // 2 :]:  # fetching runs far ahead, so it is planted by the order
        for photo in photos[unit * PER_UNIT : (unit + 1) * PER_UNIT : 2]:
            _break(photo)

    label(config, lambda unit, done, total: ended.append(unit.shard_id))
    assert sorted(ended) == sorted(order)
    alarms = read_alarms(config.output, Storage())
    assert alarms
    last = ended.index(alarms[0]["units"][-1])
    assert UNITS // 2 <= last < UNITS // 2 + 5
    assert read_status(config.output, Storage()).drift == tuple(a["text"] for a in alarms)
