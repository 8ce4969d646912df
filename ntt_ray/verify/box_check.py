"""The boxes of a detector that a run was begun with, against its manifest and its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ntt_ray.errors import InputError
from ntt_ray.run.box_file import BoxesOf, check_file
from ntt_ray.run.boxes_ahead import recorded_boxes
from ntt_ray.run.layout import BOXES_FILE
from ntt_ray.run.record import RunRecord
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings


def check_boxes(
    output: str,
    store: Storage,
    recorded: RunRecord,
    image_ids: Callable[[int], Sequence[int] | None],
    out: Findings,
) -> None:
    """Whether a run that asks SAM2 with boxes has them, for just the images that it labels.

    Args:
        output: the run's prefix.
        store: access to files.
        recorded: the run.
        image_ids: gives the ids of a unit's images in the order of the manifest, if it is known.
        out: takes the problem.
    """
    asked = recorded_boxes(recorded)
    if asked is None:
        return
    made_of = BoxesOf(*asked, recorded.identity.manifest)
    try:
        check_file(output, made_of, store, recorded.plan.units, image_ids)
    except InputError as error:
        out.problem("boxes damaged", BOXES_FILE, str(error))
