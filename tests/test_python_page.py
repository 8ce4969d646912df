"""Every recipe of ``docs/python.md`` runs as it stands; packages it needs may be missing here.

What the packages of readers make of it is tested where they are: `tests/readers`.
"""

import pytest

import ntt_ray
from tests.support.python_page import IMAGES, missing_packages, recipes, run_recipe, write_example

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("python")
    write_example(folder)
    return folder


@pytest.mark.parametrize("title", recipes())
def test_a_recipe_runs(folder, title):
    if missing := missing_packages(recipes()[title]):
        pytest.skip(f"not installed: {', '.join(missing)}; `make readers` runs it")
    run_recipe(title, folder)


def test_one_image_in_a_notebook(folder):
    names, printed = run_recipe("One image in a notebook", folder)
    image, labeler = names["image"], names["labeler"]
    assert image.detections
    assert names["mask"].shape == image.size_hw
    assert printed == f"{labeler.classes}\n"
    (first, *_) = ntt_ray.read_labels(folder / "runs" / "demo" / "run")
    assert [found.rle for found in first.detections] == [found.rle for found in image.detections]


def test_an_image_is_labelled_in_four_lines():
    first = recipes()["One image in a notebook"][0]
    assert len([line for line in first.splitlines() if line]) == 4


def test_to_pandas(folder):
    table = run_recipe("To pandas", folder)[0]["table"]
    rows = list(ntt_ray.read_labels(folder / "runs" / "demo" / "run"))
    assert len(rows) == IMAGES
    assert len(table) == sum(len(row.detections) for row in rows) > 0
