"""Which units of a run are done: a file in a shard's place is looked into before it is believed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from ntt_ray.errors import InputError
from ntt_ray.run.layout import shard_name
from ntt_ray.run.shard import misfit, open_shard
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
READERS = 32  # shards looked into at once; a few small requests each
NAMED = 20


def whole_shards(
    output: str,
    units: Collection[int],
    labels_hash: str,
    image_ids: Callable[[int], Sequence[int]],
    store: Storage,
) -> frozenset[int]:
    """The units whose shard is whole and of this run; others are named in a warning.

    Args:
        output: the run's prefix.
        units: the units that have a file in the place of their shard.
        labels_hash: the hash of settings that the run's shards carry, see `record.Identity.digest`.
        image_ids: gives the ids of a unit's images in the order of the manifest.
        store: access to files.
    """
    ordered = sorted(units)
    ids = map(image_ids, ordered)  # here, in order: the manifest is read once

    def problem(unit: int, wanted: Sequence[int]) -> str | None:
        try:
            with open_shard(output, unit, store) as file:
                return misfit(file, unit, labels_hash, wanted)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(READERS, thread_name_prefix="shards") as pool:
        problems = dict(zip(ordered, pool.map(problem, ordered, ids), strict=True))
    wrong = {unit: text for unit, text in problems.items() if text is not None}
    for unit, text in list(wrong.items())[:NAMED]:
        logger.warning("%s: %s; its unit is done again", shard_name(unit), text)
    if len(wrong) > NAMED:
        logger.warning("... and %d shards more are done again", len(wrong) - NAMED)
    return frozenset(units) - wrong.keys()
