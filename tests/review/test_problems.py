import pytest

from ntt_ray.errors import InputError
from ntt_ray.review.job import draw_run
from ntt_ray.review.problems import check_verdicts
from ntt_ray.review.records import Verdicts
from tests.support.review_run import CLASSES, review_run

DISC, OTHER = (label.category_id for label in CLASSES)


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    config = review_run(tmp_path_factory.mktemp("problems"))
    return draw_run(config, labels=1000, images=100, seed=1, publish=lambda _: None).draw


def check(draw, **said):
    check_verdicts(Verdicts(draw=draw.sha256, design=draw.design, **said), draw, "file.json")


@pytest.mark.parametrize(
    ("correction", "problem"),
    [
        ({"category_id": 77}, "has category 77, which was not drawn"),
        ({"category_id": DISC}, "has the class that was said to be wrong"),
        ({"category_id": OTHER, "counts": ""}, "has a mask without counts"),
        ({"category_id": OTHER, "counts": "PPYo"}, "has a mask"),
        ({"category_id": OTHER, "counts": "é"}, "no compressed RLE"),
        ({"category_id": OTHER, "counts": "ooooooooooooooooooo"}, "has a mask"),
    ],
)
def test_corrections(draw, correction, problem):
    label = next(label for label in draw.labels if label.category_id == DISC)
    said = {"labels": {str(label.id): "class"}, "corrections": {str(label.id): correction}}
    with pytest.raises(InputError, match=f"^file.json: the correction of label {label.id} ") as e:
        check(draw, **said)
    assert problem in str(e.value)


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        ({"x": 1, "y": 1, "category_id": 77}, "has category 77"),
        ({"x": 90, "y": 1}, "lies outside its image of 80 x 60"),
        ({"x": 1, "y": 50, "width": 3, "height": 30}, "lies outside its image of 80 x 60"),
        (
            {"x": 1, "y": 1, "category_id": DISC, "counts": "0"},
            "has a mask of 0 pixels, not 60 x 80",
        ),
    ],
)
def test_missing_objects(draw, mark, problem):
    image = draw.whole_images[0]
    said = {"labels": {str(label.id): "right" for label in image.labels}, "missed": [mark]}
    with pytest.raises(InputError, match=f"image {image.image_id}: missing object 1 {problem}"):
        check(draw, images={str(image.image_id): said})


def test_whole_images_are_judged_whole(draw):
    image = next(image for image in draw.whole_images if len(image.labels) == 2)
    one = {str(image.labels[0].id): "right"}
    for labels in (one, one | {"9999": "right"}):
        with pytest.raises(InputError, match="verdicts on other labels than its own 2"):
            check(draw, images={str(image.image_id): {"labels": labels}})


def test_what_was_not_drawn_is_not_looked_at(draw):
    check(
        draw,
        labels={"99999": "class", "x": "right"},
        corrections={"99999": {"category_id": 77}, "½": {"category_id": 1, "counts": "?"}},
        images={"no number": {"labels": {"1": "right"}}},
    )
