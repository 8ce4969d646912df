"""How many units are fetched at once: a few for each labelling actor that there is.

Ray Data fetches as many as there are CPUs for: on a machine of 16 that were up to 64 units, each in
a process of its own with all its images. A pool of actors may grow, so a fixed number will not do.
"""

from __future__ import annotations

from typing import Any

from ray.data import DataContext
from ray.data._internal.execution import backpressure_policy as theirs
from ray.data._internal.execution.backpressure_policy.backpressure_policy import BackpressurePolicy

FETCHES_PER_ACTOR = 2  # at once; what is fetched waits in the object store


class FetchLimit(BackpressurePolicy):
    """Holds back tasks whose output goes to a pool of actors, beyond so many for each actor."""

    def can_add_input(self, op: Any) -> bool:
        """Whether one more of an operator's tasks may begin."""
        pools = [
            pool
            for after in op.output_dependencies
            for pool in after.get_autoscaling_actor_pools()
            if not op.get_autoscaling_actor_pools()
        ]
        actors = sum(pool.current_size() for pool in pools)
        running: int = op.metrics.num_tasks_running
        return not pools or running < FETCHES_PER_ACTOR * max(1, actors)


def limit_fetches(context: DataContext) -> None:
    """Add the limit to what else holds tasks of a data set back."""
    key = theirs.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY
    known = context.get_config(key, theirs.ENABLED_BACKPRESSURE_POLICIES)
    context.set_config(key, [*(each for each in known if each is not FetchLimit), FetchLimit])
