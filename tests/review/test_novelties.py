"""Labels worth annotating next: unlike the references, and like many others."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from ntt_ray.errors import InputError
from ntt_ray.review.look_job import Wanted, look_run
from ntt_ray.review.novelties import MOST, by_novelty, embeddings_of, facility_location
from ntt_ray.review.publish import publish_review
from tests.support.review_run import CLASSES, STORE, review_run

AXES = np.eye(6, dtype=np.float32)


def _unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _worth(features, chosen) -> float:
    return float(np.maximum(features @ features[list(chosen)].T, 0).max(axis=1).sum())


@pytest.mark.parametrize("seed", range(5))
def test_each_point_is_the_one_that_raises_the_sum_most(seed):
    """A plain reference: every point is tried; the first two are near the best pair there is."""
    features = _unit(np.random.default_rng(seed).normal(size=(14, 4)))
    chosen = facility_location(features, 14)
    assert sorted(chosen) == list(range(14))
    for count in range(5):
        before = chosen[:count]
        worth = [_worth(features, [*before, n]) if n not in before else -1.0 for n in range(14)]
        assert worth[chosen[count]] == pytest.approx(max(worth), rel=1e-6)
    best = max(_worth(features, pair) for pair in itertools.combinations(range(14), 2))
    assert _worth(features, chosen[:2]) >= (1 - 1 / np.e) * best
    assert facility_location(features, 5) == chosen[:5]
    assert facility_location(features[:0], 3) == []


def test_of_three_groups_one_each_the_largest_first():
    groups = np.repeat(AXES[[2, 3, 4]], [3, 6, 2], axis=0)
    assert facility_location(groups, 3) == [3, 0, 9]


def test_the_half_that_is_unlike_the_references_comes_first():
    features = np.repeat(AXES[:4], 3, axis=0)
    similarities = np.array(
        [0.9, 0.9, 0.9, 0.3, 0.3, 0.3, 0.8, 0.8, 0.8, 0.2, 0.2, 0.2], np.float32
    )
    order = by_novelty(features, similarities, 12)
    assert sorted(order) == list(range(12))
    assert {n // 3 for n in order[:6]} == {1, 3}
    assert {n // 3 for n in order[:2]} == {1, 3}
    assert by_novelty(features, similarities, 7) == order[:7]
    assert by_novelty(features[:1], similarities[:1], 3) == [0]


@pytest.fixture
def config(tmp_path):
    """Labels look like their class, but for a third that looks like neither, in two ways."""
    near = _unit([[5, 0, 0, 0, 0, 1], [0, 5, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]])
    vectors = near[[0, 1, 0, 2, 1, 0, 1, 2, 0, 3, 1, 0, 1, 3]]
    return review_run(tmp_path / "made", images=48, vectors=vectors)


def looked(config, labels, **more):
    return look_run(config, Wanted("novelties", labels, **more), publish=publish_review).draw


def test_what_is_unlike_the_references_is_chosen(config):
    drawn = looked(config, 2)
    assert [own.reason for own in drawn.labels] == [
        "similarity to the references of the nearest class 0.00, where 0.98 is usual"
    ] * 2
    vectors = embeddings_of(drawn, config.output, STORE)
    axes = {int(np.argmax(vector)) for vector in vectors.values()}
    assert axes == {2, 3}  # one of each kind, and each label has its own
    more = looked(config, 20)
    assert more.labels[:2] == drawn.labels
    assert more.design == drawn.design
    assert looked(config, 20).to_bytes() == more.to_bytes()
    assert {own.category_id for own in looked(config, 100).labels} == {
        c.category_id for c in CLASSES
    }


def test_a_run_without_embeddings_says_how_to_get_them(tmp_path):
    plain = review_run(tmp_path / "plain")
    with pytest.raises(InputError, match=r"has none; label with proposals: \{keep: true, embe"):
        looked(plain, 3)
    with pytest.raises(InputError, match="--images: novelties are labels"):
        looked(plain, 3, images=2)


def test_another_bank_or_too_large_a_sample_is_refused(config):
    with pytest.raises(InputError, match=f"--pool: novelties are chosen among {MOST} labels at"):
        looked(config, 3, pool=MOST + 1)
    bank = Path(config.output, "bank.safetensors")
    data = bank.read_bytes()
    bank.write_bytes(data[:-4] + np.float32(0.5).tobytes())
    with pytest.raises(InputError, match="is not the bank that made these labels"):
        looked(config, 3)
    bank.unlink()
    with pytest.raises(InputError, match=r"--order novelties: .*no such file"):
        looked(config, 3)
