"""Example scenes: same seed, same bytes; every annotation agrees with its pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntt_ray.demo.families import FAMILIES, HOLE, NOVEL_FAMILIES, TRAIN_FAMILIES
from ntt_ray.demo.scenes import SIZES_WH, write_references, write_scenes
from ntt_ray.masks import decode_rle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = write_scenes(
        tmp_path_factory.mktemp("scenes"), families=NOVEL_FAMILIES, images=24, seed=3
    )
    return path.parent, json.loads(path.read_text())


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = write_references(
        tmp_path_factory.mktemp("references"), families=NOVEL_FAMILIES[:4], shots=2, seed=3
    )
    return path.parent, json.loads(path.read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_coco(folder: Path, coco: dict[str, Any]) -> None:
    """Ids count from 1, images fit their records, and area and box fit the mask."""
    assert {"info", "licenses", "images", "annotations", "categories"} <= set(coco)
    for key in ("images", "annotations", "categories"):
        assert [entry["id"] for entry in coco[key]] == list(range(1, len(coco[key]) + 1))
    sizes_wh = {}
    for image in coco["images"]:
        with Image.open(folder / "images" / image["file_name"]) as opened:
            assert (opened.format, opened.mode) == ("JPEG", "RGB")
            assert opened.size == (image["width"], image["height"])
        sizes_wh[image["id"]] = (image["width"], image["height"])
    categories = {category["id"] for category in coco["categories"]}
    for annotation in coco["annotations"]:
        mask = decode_rle(annotation["segmentation"])
        assert mask.shape == sizes_wh[annotation["image_id"]][::-1]
        assert annotation["area"] == mask.sum() > 0
        ys, xs = np.nonzero(mask)
        tight = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
        assert annotation["bbox"] == tight
        assert annotation["iscrowd"] == 0
        assert annotation["category_id"] in categories


def test_families_are_split_without_overlap() -> None:
    assert len(TRAIN_FAMILIES) == 16
    assert len(NOVEL_FAMILIES) >= 8
    assert not set(TRAIN_FAMILIES) & set(NOVEL_FAMILIES)
    assert set(TRAIN_FAMILIES) | set(NOVEL_FAMILIES) == set(FAMILIES)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_family_stays_near_its_square_and_varies(name: str) -> None:
    parts = FAMILIES[name].outline(np.random.default_rng(0))
    corners = np.concatenate([part.points_xy for part in parts if part.role != HOLE])
    assert np.abs(corners).max() <= 1.2
    assert np.ptp(corners, axis=0).max() > 1.5
    other = np.concatenate(
        [part.points_xy for part in FAMILIES[name].outline(np.random.default_rng(1))]
    )
    assert corners.shape != other.shape or not np.array_equal(corners, other)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_texture_is_a_mix_of_both_colours(name: str) -> None:
    axis = np.linspace(-1, 1, 64)
    mix = FAMILIES[name].texture(*np.meshgrid(axis, axis))
    assert mix.shape == (64, 64)
    assert mix.min() >= 0
    assert mix.max() <= 1
    assert mix.min() < 0.25
    assert mix.max() > 0.75


def test_scenes_are_valid_coco(scenes: tuple[Path, dict[str, Any]]) -> None:
    check_coco(*scenes)


def test_scenes_have_all_families_sizes_and_empty_images(
    scenes: tuple[Path, dict[str, Any]],
) -> None:
    _, coco = scenes
    counts = {image["id"]: 0 for image in coco["images"]}
    for annotation in coco["annotations"]:
        counts[annotation["image_id"]] += 1
    assert 0.1 <= sum(n == 0 for n in counts.values()) / len(counts) <= 0.2
    assert max(counts.values()) >= 7  # a crowd
    assert {a["category_id"] for a in coco["annotations"]} == set(range(1, len(NOVEL_FAMILIES) + 1))
    sizes_wh = {(image["width"], image["height"]) for image in coco["images"]}
    assert sizes_wh <= set(SIZES_WH)
    assert len(sizes_wh) >= 4


def test_visible_pixels_never_overlap(scenes: tuple[Path, dict[str, Any]]) -> None:
    _, coco = scenes
    for image in coco["images"]:
        cover = np.zeros((image["height"], image["width"]), dtype=np.int64)
        for annotation in coco["annotations"]:
            if annotation["image_id"] == image["id"]:
                cover += decode_rle(annotation["segmentation"])
        assert cover.max() <= 1


def test_references_are_one_clear_object_each(references: tuple[Path, dict[str, Any]]) -> None:
    folder, coco = references
    check_coco(folder, coco)
    assert [a["category_id"] for a in coco["annotations"]] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [a["image_id"] for a in coco["annotations"]] == list(range(1, 9))
    for annotation, image in zip(coco["annotations"], coco["images"], strict=True):
        x, y, w, h = annotation["bbox"]
        assert max(w, h) >= 60
        assert min(x, y, image["width"] - x - w, image["height"] - y - h) >= 10


def test_same_seed_gives_same_bytes(tmp_path: Path) -> None:
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_scenes(tmp_path / folder, families=NOVEL_FAMILIES, images=3, seed=seed)
        write_references(
            tmp_path / folder / "refs", families=NOVEL_FAMILIES[:1], shots=1, seed=seed
        )
    first, again, other = (files_of(tmp_path / folder) for folder in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert first != other


@pytest.mark.parametrize(
    ("families", "count"),
    [(["nothing"], 1), ([], 1), (["key", "key"], 1), (["key"], 0)],
    ids=["unknown", "none", "repeated", "no image"],
)
def test_bad_requests_are_refused(tmp_path: Path, families: list[str], count: int) -> None:
    with pytest.raises(ValueError, match=r"must be known|at least one"):
        write_scenes(tmp_path, families=families, images=count, seed=0)
    with pytest.raises(ValueError, match=r"must be known|at least one"):
        write_references(tmp_path, families=families, shots=count, seed=0)
