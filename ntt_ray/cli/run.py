"""The steps of a run: label, merge, evaluate, report; all of them with the bank; and the demo."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ntt_ray import storage
from ntt_ray.cli.app import (
    Verbose,
    app,
    check_later_steps,
    config_command,
    console,
    say,
    shown,
    start_logging,
)
from ntt_ray.cli.progress import MergeReporter, Reporter
from ntt_ray.config import Config, load_config
from ntt_ray.run.layout import COCO_FILE, REPORT_PAGE
from ntt_ray.stages import Stage

if TYPE_CHECKING:
    from ntt_ray.merge.passes import MergeCounts
    from ntt_ray.run.part import Part
    from ntt_ray.run.prepare import CheckClasses

    # what was merged, its metrics if there is ground truth, images per second if any were labelled
    Steps = tuple[MergeCounts, dict[str, Any] | None, float | None]
logger = logging.getLogger("ntt_ray")
METRICS_SAID = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")  # the others: metrics.json
Partial = Annotated[
    bool, typer.Option("--partial", help="Merge although shards are missing; the exit status is 1.")
]
PartOf = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        help="Label the I-th of N parts of the run; other drivers do the others.",
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="PREFIX", help="Write to this prefix; the files of the output stay."
    ),
]


@config_command
def run(settings: Config) -> None:
    """Do everything: build the bank, label, merge, evaluate if ground_truth is given, report."""
    _finish(settings, run_steps(settings)[0])


@app.command()
def demo(
    output: Annotated[str, typer.Option("--output", help="Folder for the scenes and the run.")] = (
        "runs/demo"
    ),
    verbose: Verbose = False,
) -> None:
    """Render the example scenes and run the whole job on them with the bundled weights."""
    from ntt_ray.demo.example import render_example

    start_logging(verbose)
    with Stage("rendering the example scenes"):
        config, paths = render_example(Path(output))
    settings = load_config(str(config), paths)
    done = run_steps(settings, brief=True)
    _print_demo(settings, done)
    _finish(settings, done[0])


@config_command
def label(settings: Config, part: PartOf = None) -> None:
    """Label every image that has no labels yet; build the bank first if it is not there."""
    from ntt_ray.run.part import Part

    chosen = None if part is None else Part.of(part)
    _, units = _label(settings, part=chosen)
    from ntt_ray.run.failures import Allowed
    from ntt_ray.run.status import check_labelled
    from ntt_ray.storage import Storage

    store = Storage(settings.storage_options)
    check_labelled(settings.output, units, Allowed.of(settings.job), store)


@config_command
def merge(settings: Config, partial: Partial = False, to: To = None) -> None:
    """Merge the shards of a run into its COCO files."""
    _finish(settings, _merge(settings, partial=partial, to=to))


@config_command
def evaluate(settings: Config) -> None:
    """Compare a merged run with its ground_truth and write metrics.json."""
    _evaluate(settings)


@config_command
def report(settings: Config) -> None:
    """Write report.html and report.json of a run, finished or not."""
    _report(settings)


def run_steps(settings: Config, *, brief: bool = False) -> Steps:
    """Label, merge, evaluate if there is ground truth, report; with the images per second.

    What is brief leaves to its caller to say what was written and measured.
    """
    images_per_s, _ = _label(settings, lambda classes: check_later_steps(settings, classes))
    return _later_steps(settings, images_per_s, brief=brief)


def finish_steps(settings: Config, images_per_s: float | None) -> None:
    """Merge, evaluate if there is ground truth, report, and say how the run ended."""
    _finish(settings, _later_steps(settings, images_per_s)[0])


def _later_steps(settings: Config, images_per_s: float | None, *, brief: bool = False) -> Steps:
    counts = _merge(settings, partial=False, brief=brief)
    metrics = _evaluate(settings, brief=brief) if settings.ground_truth is not None else None
    _report(settings, images_per_s, brief=brief)
    return counts, metrics, images_per_s


def _label(
    settings: Config, check: CheckClasses | None = None, part: Part | None = None
) -> tuple[float | None, dict[int, int]]:
    """Label; the images per second that went through, if any did, and each unit's images."""
    from ntt_ray.run.label import label as label_run

    with Reporter() as reporter:
        units = label_run(settings, reporter.unit, check, part)
    return reporter.images_per_s, units


def _merge(
    settings: Config, *, partial: bool, brief: bool = False, to: str | None = None
) -> MergeCounts:
    from ntt_ray.merge.job import merge as merge_run
    from ntt_ray.merge.target import target_of

    with MergeReporter() as reporter:
        names, counts = merge_run(settings, partial=partial, on_progress=reporter.items, to=to)
    for name in names:
        logger.log(_level(brief), "wrote %s", storage.join(target_of(settings.output, to), name))
    return counts


def _report(settings: Config, images_per_s: float | None = None, *, brief: bool = False) -> None:
    from ntt_ray.report.job import report_run

    with Stage("writing the report", at_once=False):
        report_run(settings, images_per_s)
    logger.log(_level(brief), "wrote %s", storage.join(settings.output, REPORT_PAGE))


def _level(brief: bool) -> int:
    return logging.DEBUG if brief else logging.INFO


def _evaluate(settings: Config, *, brief: bool = False) -> dict[str, Any]:
    from ntt_ray.evaluate.job import evaluate_run

    with Stage("comparing with the ground truth", at_once=False):
        metrics = evaluate_run(settings)
    if brief:
        return metrics
    for kind, word in (("segm", "masks"), ("bbox", "boxes")):
        found = metrics.get(kind, {})
        texts = [f"{name} {shown(found[name])}" for name in METRICS_SAID if name in found]
        if texts:
            say(f"  {word}: {'  '.join(texts)}")
    return metrics


def _finish(settings: Config, counts: MergeCounts) -> None:
    from ntt_ray.merge.job import check_complete
    from ntt_ray.records import note_lines
    from ntt_ray.run.failures import failure_lines

    calibrated = "" if settings.merge.calibration is None else ", or their class's threshold"
    say(
        f"{counts.images} images: {counts.ok} with objects, {counts.empty} without, "
        f"{counts.failed} failed; {counts.detections} detections, {counts.annotations} in "
        f"{COCO_FILE} (score >= {settings.merge.min_score:g}{calibrated})"
    )
    for line in [*failure_lines(counts.reasons), *note_lines(counts.notes, counts.images)]:
        say(f"  {line}", style="yellow")
    check_complete(settings, counts)


def _print_demo(settings: Config, done: Steps) -> None:
    counts, metrics, images_per_s = done
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = [
        ("images", f"{counts.images}, {counts.failed} failed"),
        ("detections", f"{counts.detections}, {counts.annotations} in {COCO_FILE}"),
    ]
    if metrics is not None:
        from ntt_ray.pages.environment import threshold

        for kind, word in (("segm", "mask"), ("bbox", "box")):
            found = metrics[kind]
            rows.append((f"{word} AP / AP50", f"{shown(found['AP'])} / {shown(found['AP50'])}"))
        alarms = metrics["false_alarms"]
        rows.append(
            (
                "false alarms",
                f"{shown(alarms['share'])} of {alarms['images_without_objects']} images without "
                f"objects (score {threshold(alarms['score'])})",
            )
        )
    rows.append(("images/s", "all done before" if images_per_s is None else f"{images_per_s:.2f}"))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    say(f"files:   {settings.output}")
    say(f"look at: {storage.join(settings.output, REPORT_PAGE)}")
    say("The demo weights know drawn objects only. For photographs: ntt-ray init my.yaml")
