import itertools
import json
import random
from dataclasses import replace

import pytest

from ntt_ray.coco_input import Annotation, CocoFile
from ntt_ray.references.sample import sample_annotations, sample_plainly
from tests.support.paths import ROOT

FOLDER = ROOT / "tests" / "golden" / "sampler_public"
TRAIN = json.loads((FOLDER / "train_public.json").read_text())
EXPECTED = json.loads((FOLDER / "expected_public.json").read_text())
ANNOTATIONS = [a for _, a in CocoFile.of(TRAIN).items("annotations", Annotation).sound()]
SIZES = {image["id"]: (image["height"], image["width"]) for image in TRAIN["images"]}


@pytest.mark.parametrize("sample", EXPECTED["samples"], ids=lambda s: f"{s['seed']}-{s['n_shot']}")
def test_selections_equal_the_papers(sample):
    chosen, short = sample_annotations(
        ANNOTATIONS,
        SIZES,
        set(EXPECTED["category_ids_sorted"]),
        sample["n_shot"],
        sample["seed"],
    )
    if "by_category" not in sample:
        assert short, "the paper's sampler fails on this one; ours names the short classes"
        return
    assert not short
    expected = {
        int(category): [entry["ann_ids"][0] for entry in entries]
        for category, entries in sample["by_category"].items()
    }
    assert chosen == expected
    assert list(chosen) == sample["category_order"]


def _annotation(identity=1, image=1, box=(50, 50, 40, 40), **more):
    return Annotation(id=identity, image_id=image, category_id=1, bbox=box, **more)


VALIDITY = {
    "plain": (_annotation(), True),
    "crowd": (_annotation(iscrowd=1), False),
    "impossible": (_annotation(isimpossible=1), False),
    "smallest": (_annotation(box=(50, 50, 32, 32)), True),
    "too small": (_annotation(box=(50, 50, 31.9, 32)), False),
    "nearest to the border": (_annotation(box=(10, 10, 40, 40)), True),
    "too near": (_annotation(box=(9.9, 10, 40, 40)), False),
    "nearest to the far border": (_annotation(box=(150, 50, 40, 40)), True),
    "too near the far border": (_annotation(box=(150.1, 50, 40, 40)), False),
}


@pytest.mark.parametrize(("annotation", "valid"), VALIDITY.values(), ids=VALIDITY.keys())
def test_validity(annotation, valid):
    chosen, short = sample_annotations([annotation], {1: (200, 200)}, {1}, 1, 33)
    assert (chosen.get(1, []) == [1]) is valid
    assert (short == []) is valid


def test_an_image_serves_a_class_once():
    same = [_annotation(identity=i) for i in (1, 2, 3)]
    chosen, short = sample_annotations(same, {1: (200, 200)}, {1}, 2, 33)
    assert len(chosen[1]) == 1
    assert short == [1]


PLAIN = {
    "plain": (_annotation(), True),
    "crowd": (_annotation(iscrowd=1), False),
    "impossible": (_annotation(isimpossible=1), False),
    "small, at the border": (_annotation(box=(0, 0, 1, 1)), True),
    "without extent": (_annotation(box=(5, 5, 0.5, 9)), False),
}


@pytest.mark.parametrize(("annotation", "valid"), PLAIN.values(), ids=PLAIN.keys())
def test_what_the_plain_profile_takes(annotation, valid):
    chosen, short = sample_plainly([annotation], {1}, 1, 33)
    assert (chosen[1] == [1]) is valid
    assert (short == []) is valid


def test_plain_draws_take_new_images_first_and_grow_by_appending():
    crowded = [_annotation(identity=i, image=1 if i < 9 else i) for i in range(1, 12)]
    draws = [sample_plainly(crowded, {1}, shots, 3)[0][1] for shots in range(1, 12)]
    assert all(short == long[:-1] for short, long in itertools.pairwise(draws))
    images = {a.id: a.image_id for a in crowded}
    assert {images[i] for i in draws[3]} == {1, 9, 10, 11}
    assert sample_plainly(crowded[::-1], {1}, 11, 3)[0][1] == draws[-1]  # whatever the file's order


def test_a_plain_draw_depends_on_its_own_class_and_the_seed():
    own = [_annotation(identity=i, image=i) for i in range(1, 30)]
    other = [replace(_annotation(identity=100 + i, image=i), category_id=2) for i in range(9)]
    alone = sample_plainly(own, {1}, 5, 3)[0][1]
    assert sample_plainly(other + own, {1, 2}, 5, 3)[0][1] == alone
    assert sample_plainly(own, {1}, 5, 4)[0][1] != alone


def test_the_last_resort_is_the_start_of_the_same_shuffled_list():
    """Only of a class without a valid annotation, and with it the stream goes on as before."""
    tiny = [_annotation(n, image=n, box=(50, 50, 4, 4)) for n in range(1, 9)]
    other = [replace(_annotation(100 + n, image=50 + n), category_id=2) for n in range(8)]
    sizes = dict.fromkeys([*range(1, 9), *range(50, 58)], (200, 200))
    allowed = {a.id for a in tiny} - {3}
    plain, _ = sample_annotations([*tiny, *other], sizes, {1, 2}, 4, 7)
    found, short = sample_annotations([*tiny, *other], sizes, {1, 2}, 4, 7, allowed)
    assert plain[1] == []
    assert found[2] == plain[2]
    shuffled = list(tiny)
    random.Random(7).shuffle(shuffled)
    assert found[1] == [a.id for a in shuffled if a.id != 3][:4]
    assert short == []
