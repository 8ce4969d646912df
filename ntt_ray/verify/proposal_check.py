"""The kept proposals of a run against its manifest and its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ntt_ray.errors import InputError
from ntt_ray.run.layout import PROPOSALS_FOLDER, proposals_uri, shard_name
from ntt_ray.run.proposal_shard import (
    check_body,
    keeps_proposals,
    misfit,
    open_proposals,
    proposals_hash,
)
from ntt_ray.run.record import RunRecord
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings


def check_proposals(
    output: str,
    store: Storage,
    recorded: RunRecord,
    units: Sequence[int],
    image_ids: Callable[[int], Sequence[int] | None],
    names: Sequence[str],
    out: Findings,
) -> None:
    """Whether each unit that has labels has its proposals, whole and of this run.

    Args:
        output: the run's prefix.
        store: access to files.
        recorded: the run.
        units: the units that have their shard of labels.
        image_ids: gives the ids of a unit's images in the order of the manifest, if it is known.
        names: every file of the output, relative to it.
        out: takes the problems.
    """
    planned = set[str]()
    if keeps_proposals(recorded):
        planned = {_name(unit) for unit in range(recorded.plan.units)}
        wanted = proposals_hash(recorded.identity)
        for unit in units:
            if _name(unit) not in names:
                lost = "the unit has labels and no proposals: it cannot be matched again"
                out.problem("proposals missing", _name(unit), lost)
            elif (text := _problem(output, store, unit, wanted, image_ids(unit))) is not None:
                out.problem("proposals damaged", _name(unit), text)
    for name in names:
        if name.startswith(f"{PROPOSALS_FOLDER}/") and name not in planned:
            out.problem("stray file", name, "is no proposal shard of this run")


def _problem(
    output: str, store: Storage, unit: int, wanted: str, image_ids: Sequence[int] | None
) -> str | None:
    try:
        data = store.read_bytes(proposals_uri(output, unit))
        with open_proposals(output, unit, store, data) as file:
            return misfit(file, unit, wanted, image_ids) or check_body(file, data)
    except (InputError, FileNotFoundError) as error:
        return str(error)


def _name(unit: int) -> str:
    return f"{PROPOSALS_FOLDER}/{shard_name(unit)}"
