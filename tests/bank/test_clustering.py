from itertools import product

import pytest
import torch

from ntt_ray.bank.clustering import cluster_directions


def _spread(points: torch.Tensor, owner: list[int]) -> float:
    """Sum of squared distances of directions to the means of their clusters, one by one."""
    unit = [point / point.norm() for point in points.double()]
    total = 0.0
    for cluster in set(owner):
        own = [point for point, k in zip(unit, owner) if k == cluster]
        mean = sum(own) / len(own)
        total += sum(float((point - mean).square().sum()) for point in own)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [2, 3])
def test_no_other_division_of_a_few_points_is_tighter(seed, count):
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
    owner = cluster_directions(points, count, seed=5).tolist()
    best = min(_spread(points, list(other)) for other in product(range(count), repeat=7))
    assert _spread(points, owner) == pytest.approx(best, abs=1e-9)
    assert sorted(set(owner), key=owner.index) == list(range(len(set(owner))))


A, B = [1.0, 0.0], [0.0, 2.0]
DEGENERATE = {
    "one point": ([A], 3, [0]),
    "one cluster": ([A, B, A], 1, [0, 0, 0]),
    "as many clusters as points": ([A, B], 2, [0, 1]),
    "more clusters than points": ([A, B], 9, [0, 1]),
    "equal points are not divided": ([A, A, A], 2, [0, 0, 0]),
    "length plays no part": ([A, B, [9.0, 0.1], [0.1, 0.2]], 2, [0, 1, 0, 1]),
    "a point without a direction": ([A, [0.0, 0.0], A], 2, [0, 1, 0]),
}


@pytest.mark.parametrize(("points", "count", "owner"), DEGENERATE.values(), ids=DEGENERATE.keys())
def test_degenerate(points, count, owner):
    assert cluster_directions(torch.tensor(points), count, seed=1).tolist() == owner


def test_the_same_seed_gives_the_same_clusters():
    points = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    found = [cluster_directions(points, 5, seed=2) for _ in range(2)]
    assert torch.equal(*found)
    assert len(found[0].unique()) == 5
