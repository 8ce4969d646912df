from types import SimpleNamespace

import pytest
from ray.data import DataContext

from ntt_ray.run.cluster.fetch_limit import FETCHES_PER_ACTOR, FetchLimit, limit_fetches


def _operator(running, pools=(), after=()):
    return SimpleNamespace(
        metrics=SimpleNamespace(num_tasks_running=running),
        get_autoscaling_actor_pools=lambda: list(pools),
        output_dependencies=list(after),
    )


def _pool(size):
    return SimpleNamespace(current_size=lambda: size)


@pytest.mark.parametrize(
    ("running", "actors", "more"),
    [(1, 0, True), (2, 0, False), (2, 1, False), (5, 3, True), (6, 3, False)],
)
def test_so_many_units_are_fetched_for_each_actor(running, actors, more):
    assert FETCHES_PER_ACTOR == 2
    fetch = _operator(running, after=[_operator(0, [_pool(actors)])])
    assert FetchLimit(None, {}, None).can_add_input(fetch) is more


def test_nothing_else_is_held_back():
    limit = FetchLimit(None, {}, None)
    assert limit.can_add_input(_operator(99))
    assert limit.can_add_input(_operator(99, after=[_operator(0)]))
    assert limit.can_add_input(_operator(99, [_pool(1)], [_operator(0)]))


def test_it_is_added_once_to_what_ray_has():
    context = DataContext()
    limit_fetches(context)
    limit_fetches(context)
    (found,) = [
        value for key, value in context._kv_configs.items() if key.startswith("backpressure")
    ]
    assert found.count(FetchLimit) == 1
    assert len(found) > 1
