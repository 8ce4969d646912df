"""``ntt-ray calibrate``: score thresholds from the references, before anything is labelled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ntt_ray import storage
from ntt_ray.cli.app import config_command, console, name_cell, say, shown
from ntt_ray.cli.progress import counter
from ntt_ray.config import Config
from ntt_ray.run.layout import CALIBRATION_FILE, CALIBRATION_PAGE

if TYPE_CHECKING:
    from ntt_ray.calibrate.thresholds import ClassCalibration


MAX_NAMED = 8


def _foresee(settings: Config, *, kept_by: str | None, **_: object) -> None:
    """Refuse what calibrating would, and say what it would write."""
    from ntt_ray.calibrate.job import check_calibration

    store = check_calibration(settings, kept_by)
    uri = storage.join(settings.output, CALIBRATION_FILE)
    again = ", in the place of the one that is there" if store.exists(uri) else ""
    say(
        f"every reference image would be labelled without its own references, to write {uri}{again}"
    )


@partial(config_command, foresee=_foresee)
def calibrate(
    settings: Config,
    precision: Annotated[
        float | None,
        typer.Option(
            "--precision", min=0.0, max=1.0, help="Reach this precision, instead of the best F1."
        ),
    ] = None,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete", help="Say that every object in the reference images is annotated."
        ),
    ] = False,
    kept_by: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="OUTPUT",
            help="Take the proposals of pictures that its calibration kept.",
        ),
    ] = None,
) -> None:
    """Choose a score threshold for each class from the references: OUTPUT/calibration.json.

    Every reference image is labelled with a bank made of the others; calibration.html shows each
    one. Classes with few references share the score of all classes; where nothing can be told,
    `merge.min_score` stays. With proposals.keep the proposals of the pictures are kept in
    OUTPUT: with other classes or thresholds SAM2 looks at new pictures only.

    Example: ntt-ray calibrate birds.yaml --precision 0.9
    """
    from ntt_ray.calibrate.job import calibrate_run
    from ntt_ray.calibrate.thresholds import MIN_IMAGES
    from ntt_ray.storage import Storage

    uri = storage.join(settings.output, CALIBRATION_FILE)
    was_there = Storage(settings.storage_options).exists(uri)
    with counter("calibrating", "reference images") as on_images:
        found = calibrate_run(
            settings,
            wanted_precision=precision,
            complete=complete,
            kept_by=kept_by,
            on_images=on_images,
        )
    _print_table(found)
    if few := [item.label.name for item in found if not item.evidence.enough_references]:
        named = ", ".join(few[:MAX_NAMED]) + (", ..." if few[MAX_NAMED:] else "")
        say(
            f"too few references to tell for {len(few)} of {len(found)} classes: {named}; "
            f"{MIN_IMAGES} images or more of a class are needed",
            style="yellow",
        )
    if all(item.threshold is None for item in found):
        say("no threshold was chosen: no object was found without its own references")
    again = ", in the place of another" if was_there else ""
    say(f"wrote {uri}{again}; merge with --set merge.calibration={uri}")
    say(f"look at: {storage.join(settings.output, CALIBRATION_PAGE)}")


def _print_table(found: list[ClassCalibration]) -> None:
    from ntt_ray.pages.environment import threshold

    table = Table("class", "images", "objects", "score", "precision", "recall")
    for item in found:
        evidence = item.evidence
        precision = _with_range(evidence.expected_precision, evidence.precision_range)
        table.add_row(
            name_cell(item.label.name),
            str(evidence.images),
            str(evidence.objects),
            threshold(item.threshold),
            precision if evidence.enough_references else "too few to tell",
            _with_range(evidence.expected_recall, evidence.recall_range),
        )
    console.print(table)
    say("in brackets: where it may well lie (95 %), trust the lower end")
    if unclear := sum(item.evidence.unclear_detections for item in found):
        say(
            f"{unclear} kept detections are unclear, as nothing is annotated where they lie: "
            "precision leaves them out, and its range holds whether they are right or not; "
            "annotate every object and give --complete to narrow it"
        )


def _with_range(share: float | None, within: tuple[float, float] | None) -> str:
    if share is None or within is None:
        return shown(share)
    return f"{share:.2f} ({within[0]:.2f}-{within[1]:.2f})"
