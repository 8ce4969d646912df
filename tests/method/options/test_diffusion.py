"""Graph diffusion of scores against loops over pairs of masks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ntt_ray.masks import encode_mask
from ntt_ray.method.masks_at_size import RleMasks
from ntt_ray.method.options.diffusion import covered_shares, diffused_scores
from ntt_ray.settings import DiffusionSettings
from tests import reference

PUBLISHED = DiffusionSettings()


def _plain(scores, labels, masks, features, settings) -> list[float]:
    """Node by node, edge by edge, step by step."""
    alpha, power, normalised = settings.alpha, settings.power, settings.form == "normalised"
    found = []
    for i, score in enumerate(scores):
        own = [j for j in range(len(labels)) if labels[j] == labels[i]]
        edges = {a: {} for a in own}
        for a in own:
            for b in own:
                if b < a:
                    share = np.logical_and(masks[a], masks[b]).sum() / masks[a].sum()
                    likeness = max(0.0, float(features[a] @ features[b])) if normalised else 1.0
                    edges[a][b] = share * likeness
        restart = {a: max([0.0, *edges[a].values()]) for a in own}
        sums = {a: sum(edges[a].values()) if normalised else 1.0 for a in own}
        covered = dict.fromkeys(own, 1 / len(own))
        for _ in range(settings.steps):
            walked = {
                a: sum(w / sums[a] * covered[b] for b, w in edges[a].items() if w > 0) for a in own
            }
            covered = {a: alpha * walked[a] + (1 - alpha) * restart[a] for a in own}
        factor = 1.0 if len(own) == 1 else max(0.0, 1 - covered[i]) ** power
        found.append(score * factor)
    return found


def _random(count: int, classes: int, seed: int):
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        x, y, w, h = rng.integers(0, 10), rng.integers(0, 10), *rng.integers(3, 12, 2)
        mask = np.zeros((20, 22), dtype=bool)
        mask[y : y + h, x : x + w] = True
        masks.append(mask)
    features = F.normalize(torch.from_numpy(rng.normal(size=(count, 4))).float(), dim=1)
    labels = torch.from_numpy(rng.integers(0, classes, count))
    scores = torch.from_numpy(rng.uniform(0.1, 1, count)).float()
    return scores, labels, features, masks


def _diffused(scores, labels, features, masks, settings=PUBLISHED) -> torch.Tensor:
    shares = RleMasks(tuple(encode_mask(mask) for mask in masks)).shares
    return diffused_scores(scores, labels, features, shares, settings)


CASES = {
    "no proposal": (0, 1),
    "one proposal": (1, 1),
    "two of one class": (2, 1),
    "one class": (25, 1),
    "each its own class": (5, 1000),
    "several classes": (40, 4),
}


@pytest.mark.parametrize(("count", "classes"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(
    "settings",
    [
        PUBLISHED,
        DiffusionSettings(form="normalised"),
        DiffusionSettings(alpha=0.7, power=2.0, steps=3),
        DiffusionSettings(form="normalised", alpha=0.7, power=2.0, steps=3),
    ],
    ids=str,
)
def test_equals_the_loops(count, classes, settings):
    scores, labels, features, masks = _random(count, classes, seed=count)
    expected = _plain(scores.tolist(), labels.tolist(), masks, features, settings)
    found = _diffused(scores, labels, features, masks, settings)
    torch.testing.assert_close(found, torch.tensor(expected).float(), atol=1e-5, rtol=0)


def test_without_a_walk_it_is_soft_merging():
    scores, labels, features, masks = _random(30, 2, seed=1)
    walkless = DiffusionSettings(form="normalised", alpha=0.0)
    found = _diffused(scores, labels, features, masks, walkless)
    factors = torch.tensor(reference.soft_merge(masks, list(features), labels.tolist())).float()
    torch.testing.assert_close(found, scores * factors, atol=1e-5, rtol=0)


def test_doubles_lose_everything_and_stay_in_range():
    mask = np.ones((4, 4), dtype=bool)
    scores = torch.tensor([0.9, 0.8, 0.7])
    found = _diffused(scores, torch.zeros(3, dtype=torch.int64), torch.ones(3, 1), [mask] * 3)
    assert found[0] == pytest.approx(0.9)
    assert 0 <= found[2] < found[1] < 0.5


def test_a_node_without_edges_keeps_what_it_has():
    assert covered_shares(torch.zeros(4, 4), 0.3, 30).tolist() == pytest.approx([0.0] * 4)


NESTED = {  # factors of six masks, each inside all before it: worked out by hand
    "released": [1.0, 0.548, 0.3, 0.0, 0.0, 0.0],
    "normalised": [1.0, 0.548, 0.442, 0.387, 0.351, 0.326],
}


@pytest.mark.parametrize(("form", "factors"), NESTED.items(), ids=NESTED)
def test_nested_masks(form, factors):
    masks = [np.ones((4, 7), dtype=bool) for _ in range(6)]
    for inset, mask in enumerate(masks):
        mask[:, 7 - inset :] = False
    labels, features = torch.zeros(6, dtype=torch.int64), torch.ones(6, 1)
    found = _diffused(torch.ones(6), labels, features, masks, DiffusionSettings(form=form))
    torch.testing.assert_close(found, torch.tensor(factors), atol=5e-4, rtol=0)
