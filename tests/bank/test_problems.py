import itertools
import json

import numpy as np
import pytest

from ntt_ray.bank.problems import find
from ntt_ray.bank.report import write_bank_report
from ntt_ray.records import ClassLabel
from ntt_ray.storage import Storage
from tests.support.banks import file_of
from tests.support.demo_features import FAMILIES, family_means


@pytest.fixture(scope="module")
def features() -> list[np.ndarray]:
    """Ten references of each of six drawn classes."""
    return [np.stack([m.numpy() for m, _ in family_means()[name]]) for name in FAMILIES]


def _mislabelled(features: list[np.ndarray], a: int, b: int) -> list[np.ndarray]:
    """Class `a` has ten references, the last two of class `b`, which keeps eight."""
    changed = list(features)
    changed[a] = np.concatenate([features[a][:8], features[b][:2]])
    changed[b] = features[b][2:]
    return changed


@pytest.mark.slow
def test_two_mislabelled_of_ten_are_named(features):
    """Every pair of classes: all 60 are named, and hardly any other reference.

    Over three other seeds with eight classes, 336 of 336 were named, and 104 of 13,104 others
    (0.8 %): the same two references of one seed, which look mislabelled in the clean bank too.
    """
    named = false = others = 0
    for a, b in itertools.permutations(range(len(FAMILIES)), 2):
        changed = _mislabelled(features, a, b)
        start = sum(len(own) for own in changed[:a])
        wrong = {start + 8, start + 9}
        found = find(changed)
        named += len(wrong & set(found.mislabelled))
        false += len(set(found.mislabelled) - wrong)
        others += sum(map(len, changed)) - 2
        assert all(found.nearest_class[i] == b for i in wrong)
    assert named == 60
    assert false <= 0.02 * others


@pytest.mark.slow
def test_a_clean_bank_accuses_hardly_anyone(features):
    """Of 240 clean references (three other seeds) 2 look mislabelled, 2 weak, none doubled."""
    found = find(features)
    assert len(found.mislabelled) <= 1
    assert len(found.weak) <= 2
    assert found.duplicates == ()
    assert found.confusable == ()
    assert found.untold == ()


@pytest.mark.slow
def test_a_reference_of_no_class_of_the_bank_is_weak(features):
    """An object of a class that the bank lacks (155 of 168 over three other seeds)."""
    named = 0
    for a in range(5):
        changed = [own.copy() for own in features[:5]]
        changed[a][0] = features[5][a]
        found = find(changed)
        named += 10 * a in {*found.weak, *found.mislabelled}
    assert named >= 4


@pytest.mark.slow
def test_copies_are_doubled(features):
    changed = list(features)
    # the same object, as a stored and compressed copy gives it: 0.0003 of cosine distance
    noise = np.random.default_rng(0).normal(size=features[2][3].shape)
    copy = features[2][3] + noise * 0.02 * np.linalg.norm(features[2][3]) / np.linalg.norm(noise)
    changed[2] = np.concatenate([features[2], copy[None]])
    changed[4] = np.concatenate([features[4], features[0][:1]])
    found = find(changed)
    assert set(found.duplicates) == {(23, 30), (0, 51)}


def _cloud(rng, centre, count, spread=0.1):
    return centre + spread * rng.normal(size=(count, len(centre)))


def test_classes_that_overlap_are_confusable():
    rng = np.random.default_rng(3)
    one, other = np.eye(8)[0] * 2, np.eye(8)[1] * 2
    found = find([_cloud(rng, one, 10), _cloud(rng, one + 0.03, 10), _cloud(rng, other, 10)])
    assert found.confusable == ((0, 1),)
    # who can be nearer to either is not called mislabelled one by one
    assert len(found.mislabelled) <= 1


SMALL = {
    "one class, one reference": [1],
    "one class": [6],
    "one each": [1, 1, 1],
    "two each": [2, 2],
    "one, two and many": [1, 2, 9],
}


@pytest.mark.parametrize("shots", SMALL.values(), ids=SMALL.keys())
def test_small_banks_accuse_nobody_they_know_nothing_of(shots):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = find([_cloud(rng, np.eye(8)[k] * 2, n) for k, n in enumerate(shots)])
        assert found.untold == tuple(k for k, n in enumerate(shots) if n < 3)
        accused = {int(found.class_of[i]) for i in (*found.mislabelled, *found.weak)}
        assert not accused & set(found.untold)
        assert len(accused) <= 1
        assert np.isnan(found.own).sum() == shots.count(1)
        assert np.isnan(found.nearest).all() == (len(shots) == 1)


def test_identical_references_accuse_nobody():
    found = find([np.ones((5, 4)), np.eye(4)[:1].repeat(4, axis=0)])
    assert found.mislabelled == found.weak == found.confusable == ()
    assert len(found.duplicates) == 10 + 6


@pytest.mark.slow
def test_the_report_names_two_mislabelled_of_ten(features, tmp_path):
    """What `find` knows reaches people: class, number in the bank, and what it looks like."""
    named = list(FAMILIES)
    labels = tuple(ClassLabel(k + 1, name) for k, name in enumerate(named))
    changed = _mislabelled(features, 1, 3)
    write_bank_report(str(tmp_path), Storage(), file_of(labels, changed))
    page = (tmp_path / "bank.html").read_text(encoding="utf-8")
    said = [f["text"] for f in json.loads((tmp_path / "bank.json").read_text())["findings"]]
    for number in (9, 10):
        start = f"{named[1]}, reference {number}: looks like {named[3]} ("
        assert any(text.startswith(start) for text in said), said
        assert start in page
