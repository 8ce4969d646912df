"""The lists of images that YOLO trains and validates on."""

import numpy as np
import pytest
import yaml

from ntt_ray.errors import InputError
from ntt_ray.merge.profiles.yolo_lists import first_place, list_line
from tests.support.profile_run import kept_masks, merged, write_run


@pytest.fixture
def output(tmp_path):
    write_run(str(tmp_path))
    return tmp_path


def _lists(output):
    """The images of each list; those that could not be read are in none."""
    data = yaml.safe_load((output / "yolo" / "data.yaml").read_text())
    names = [(output / "yolo" / data[side]).read_text().splitlines() for side in ("train", "val")]
    return [[name.removeprefix("./images/") for name in side] for side in names]


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.4, 2), (0.99, 4)])
def test_every_image_is_on_one_side(output, share, count):
    merged(output, "yolo-seg", val_share=share)
    train, val = _lists(output)
    assert len(val) == count
    assert sorted([*train, *val]) == sorted(kept_masks())


def test_without_a_share_the_same_images_validate(output):
    merged(output, "yolo-seg", val_share=0)
    train, val = _lists(output)
    assert train == val == list(kept_masks())
    assert not (output / "yolo" / "val.txt").exists()


def test_the_seed_decides(output):
    found = set()
    for seed in range(8):
        for _ in range(2):
            merged(output, "yolo-seg", split_seed=seed, val_share=0.4)
            found.add((seed, *_lists(output)[1]))
    assert len(found) == 8
    assert len({val for _, *val in map(tuple, found) for val in [tuple(val)]}) > 1


@pytest.mark.parametrize(("images", "validate"), [(0, 0), (1, 0), (2, 1), (100, 10)])
def test_how_many_validate(images, validate):
    places = np.arange(7, 7 + images, dtype=np.uint64)
    assert (places < first_place(places, 0.1)).sum() == validate


def test_a_name_with_a_line_break_is_refused():
    with pytest.raises(InputError, match="line break"):
        list_line("a\nb.jpg")
    assert list_line("d//a b.jpg") == "./images/d/a b.jpg\n"
