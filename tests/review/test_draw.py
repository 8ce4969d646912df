from collections import Counter

import numpy as np
import pytest

from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.review.draw import draw, read_population
from ntt_ray.run.shard import existing_shards
from tests.support.review_run import CLASSES, MIN_SCORE, STORE, review_run


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """48 images, of which 8 failed and 8 are empty: 64 labels."""
    config = review_run(tmp_path_factory.mktemp("draw"), images=48)
    units = sorted(existing_shards(config.output, STORE))
    options = {"labels_hash": "ab", "thresholds": Thresholds(MIN_SCORE), "classes": CLASSES}
    return read_population(config.output, units, STORE, **options)


def test_the_population_is_what_the_merged_file_keeps(population):
    assert (len(population.scores), population.images) == (64, 40)
    assert population.scores.min() >= MIN_SCORE


def test_a_draw_is_its_seed(population):
    one, same = (draw(population, labels=20, images=10, seed=4) for _ in range(2))
    assert one.to_bytes() == same.to_bytes()
    other = draw(population, labels=20, images=10, seed=5)
    assert {label.id for label in other.labels} != {label.id for label in one.labels}


def test_labels_have_the_ids_of_the_merged_file(population):
    every = draw(population, labels=1000, images=0, seed=1)
    assert sorted(label.id for label in every.labels) == list(range(1, 65))
    by_id = sorted(every.labels, key=lambda label: label.id)
    assert [label.image_id for label in by_id] == sorted(label.image_id for label in by_id)
    for label in every.labels:
        assert label.score == population.scores[label.id - 1]
        assert label.category_id == population.categories[label.id - 1]
        assert label.probability == 1.0


def test_probabilities_add_up(population):
    found = draw(population, labels=20, images=0, seed=1)
    assert len(found.labels) == 20
    assert sum(stratum.labels for stratum in found.strata) == 64
    expected = sum(1 / label.probability for label in found.labels)
    assert expected == pytest.approx(64)
    assert sum(group.labels for group in found.groups) == 64
    assert found.depths[-1].labels == 64


def test_classes_are_strata_where_there_are_labels_enough(population):
    few, many = (draw(population, labels=n, images=0, seed=1) for n in (20, 64))
    assert {stratum.category_id for stratum in few.strata} == {None}
    cells = len(many.groups)
    assert (10 * cells <= 64) == (many.strata[0].category_id is not None)


def test_a_larger_draw_holds_the_smaller(population):
    small, large = (draw(population, labels=n, images=n // 4, seed=9) for n in (12, 30))
    assert small.design == large.design
    assert {label.id for label in small.labels} < {label.id for label in large.labels}
    images = [{image.image_id for image in found.whole_images} for found in (small, large)]
    assert images[0] < images[1]


@pytest.mark.slow
def test_every_label_and_image_is_as_likely_as_any_other(population):
    labels, plain, images = Counter(), Counter(), Counter()
    draws = 150
    for seed in range(draws):
        found = draw(population, labels=16, images=10, seed=seed)
        labels.update(label.id for label in found.labels)
        plain.update(label.id for label in found.labels if label.plain)
        images.update(image.image_id for image in found.whole_images)
    assert len(labels) == 64
    assert len(images) == 40  # empty ones too, and none that failed
    for counts, share in (
        (labels, 1 / 4),
        (images, 1 / 4),
        (plain, sum(plain.values()) / 64 / draws),
    ):
        spread = np.sqrt(share * (1 - share) * draws)
        values = np.array(list(counts.values()))
        assert np.abs(values - share * draws).max() < 4.5 * spread


def test_with_priors_uncertain_classes_are_drawn_more(population):
    found = draw(population, labels=60, images=0, seed=1, priors={2: 0.95, 5: 0.5})
    assert all(0.5 <= stratum.prior <= 0.95 for stratum in found.strata)
