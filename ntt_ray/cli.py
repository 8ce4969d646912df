"""Arguments to config to one call; an exception to one message and an exit status.

Exit status: 0 everything done, 1 the run is incomplete or failed, 2 bad arguments or config.
torch and Ray are imported by the commands that need them, not here.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ntt_ray import __version__
from ntt_ray.config import Config, load_config
from ntt_ray.errors import NttRayError

if TYPE_CHECKING:
    from ntt_ray.outputs.coco import MergeCounts
    from ntt_ray.pipeline.stages import UnitDone

logger = logging.getLogger("ntt_ray")
console = Console(stderr=True, highlight=False)
app = typer.Typer(
    name="ntt-ray",
    help="Label millions of images with instance masks from a few annotated references.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="Path of the YAML config.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a setting; repeatable, wins."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Validate, plan and print; start and write nothing.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what is going on.")]
Partial = Annotated[
    bool, typer.Option("--partial", help="Merge although shards are missing; recorded in info.")
]


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Do everything: bank, label, merge, report; evaluate too when ground_truth is given."""
    settings = _start(config, overrides, dry_run, verbose)
    _finish(settings, _run(settings)[0])


@app.command()
def demo(
    output: Annotated[str, typer.Option("--output", help="Folder for scenes and results.")] = (
        "runs/demo"
    ),
    verbose: Verbose = False,
) -> None:
    """Draw the example scenes and run the whole job on them with the bundled weights."""
    from ntt_ray.demo.example import draw_example

    _start_logging(verbose)
    _say("drawing the example scenes")
    config, paths = draw_example(Path(output))
    settings = load_config(str(config), paths)
    counts, metrics, images_per_s = _run(settings)
    _print_demo(settings, counts, metrics, images_per_s)
    _finish(settings, counts)


@app.command()
def bank(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Build the memory bank from the references and write it to OUTPUT/bank.safetensors."""
    settings = _start(config, overrides, dry_run, verbose)
    from ntt_ray.pipeline.run import BANK_FILE, build_run_bank

    built = build_run_bank(settings)
    for label, shots in zip(built.classes, built.shots.tolist(), strict=True):
        _say(f"  class {label.category_id} {label.name}: {shots} references")
    _say(f"wrote {settings.output}/{BANK_FILE}")


@app.command()
def label(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Label every image that has no row yet; builds the bank if it is not there."""
    settings = _start(config, overrides, dry_run, verbose)
    _label(settings)


@app.command()
def merge(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    partial: Partial = False,
) -> None:
    """Merge the shards of a run into its COCO files."""
    settings = _start(config, overrides, dry_run, verbose)
    _finish(settings, _merge(settings, partial=partial))


@app.command()
def evaluate(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Compare a merged run with ground_truth and write metrics.json."""
    settings = _start(config, overrides, dry_run, verbose)
    _evaluate(settings)


@app.command()
def report(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Write report.html and report.json of a run, whole or not."""
    settings = _start(config, overrides, dry_run, verbose)
    _report(settings)


def main() -> NoReturn:
    """The command ``ntt-ray``: errors of ours become one message, bugs keep their traceback."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        app(standalone_mode=True)
    except NttRayError as error:
        _say(f"error: {error}", style="red")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on where this run stopped")
        sys.exit(130)
    sys.exit(0)


def _on_sigterm(number: int, _frame: FrameType | None) -> NoReturn:
    """``ray job stop`` and schedulers send it: leave in order, so that the lock is given back."""
    raise SystemExit(128 + number)


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"ntt-ray {__version__}")
        raise typer.Exit


def _say(text: str, style: str | None = None) -> None:
    """A line for people, on stderr, never wrapped and never read as markup."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def _start(config: str, overrides: list[str] | None, dry_run: bool, verbose: bool) -> Config:
    """Read the config; with ``--dry-run`` print the plan and leave."""
    _start_logging(verbose)
    settings = load_config(config, overrides or ())
    if dry_run:
        _print_plan(settings)
        raise typer.Exit
    return settings


def _start_logging(verbose: bool) -> None:
    handler: logging.Handler = logging.StreamHandler()
    layout = "%(asctime)s %(levelname)s %(message)s"
    if console.is_terminal:  # lines above a progress bar go through its console
        handler, layout = RichHandler(console=console, show_path=False, markup=False), "%(message)s"
    logging.basicConfig(level=logging.WARNING, format=layout, handlers=[handler])
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def _print_plan(settings: Config) -> None:
    from ntt_ray.pipeline.run import make_plan

    plan = make_plan(settings)
    _say(
        f"{plan.images} images in {plan.units} units, {plan.units_done} of them done; "
        f"{len(plan.classes)} classes: {', '.join(plan.classes)}",
    )
    _say(f"output: {settings.output}; nothing was started (--dry-run)")


def _run(settings: Config) -> tuple[MergeCounts, dict[str, Any] | None, float | None]:
    images_per_s = _label(settings)
    counts = _merge(settings, partial=False)
    metrics = _evaluate(settings) if settings.ground_truth is not None else None
    _report(settings, images_per_s)
    return counts, metrics, images_per_s


def _label(settings: Config) -> float | None:
    """Label, and say how many images per second went through, if any did."""
    from ntt_ray.pipeline.run import label as label_run

    with _Reporter() as reporter:
        label_run(settings, reporter.unit)
    return reporter.images_per_s


def _merge(settings: Config, *, partial: bool) -> MergeCounts:
    from ntt_ray.pipeline.outcome import merge as merge_run

    names, counts = merge_run(settings, partial=partial)
    for name in names:
        logger.info("wrote %s/%s", settings.output, name)
    return counts


def _report(settings: Config, images_per_s: float | None = None) -> None:
    from ntt_ray.pipeline.outcome import report_run

    report_run(settings, images_per_s)
    logger.info("wrote %s/report.html", settings.output)


def _evaluate(settings: Config) -> dict[str, Any]:
    from ntt_ray.pipeline.outcome import evaluate_run

    metrics = evaluate_run(settings)
    for kind, word in (("segm", "masks"), ("bbox", "boxes")):
        figures = (f"{name} {_shown(value)}" for name, value in metrics[kind].items())
        _say(f"  {word}: {'  '.join(figures)}")
    return metrics


def _finish(settings: Config, counts: MergeCounts) -> None:
    from ntt_ray.pipeline.outcome import check_complete

    _say(
        f"{counts.images} images: {counts.ok} with objects, {counts.empty} without, "
        f"{counts.failed} failed; {counts.detections} detections, {counts.annotations} in "
        f"annotations.json (score >= {settings.merge.min_score:g})",
    )
    check_complete(settings, counts)


def _print_demo(
    settings: Config,
    counts: MergeCounts,
    metrics: dict[str, Any] | None,
    images_per_s: float | None,
) -> None:
    table = Table(title="ntt-ray demo", show_header=False)
    rows = [
        ("images", f"{counts.images}, {counts.failed} failed"),
        ("detections", f"{counts.detections}, {counts.annotations} in annotations.json"),
    ]
    if metrics is not None:
        for kind, word in (("segm", "mask"), ("bbox", "box")):
            found = metrics[kind]
            rows.append((f"{word} AP / AP50", f"{_shown(found['AP'])} / {_shown(found['AP50'])}"))
        alarms = metrics["false_alarms"]
        rows.append(
            (
                "false alarms",
                f"{_shown(alarms['share'])} of {alarms['images_without_objects']} images without "
                f"objects (score {_shown(alarms['score'])}, best F1 {_shown(alarms['best_f1'])})",
            )
        )
    rows.append(("images/s", "all done before" if images_per_s is None else f"{images_per_s:.2f}"))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    _say(f"files:   {settings.output}")
    _say(f"look at: {settings.output}/report.html")
    _say(
        "The demo weights know drawn objects only. For photographs: configs/photos.yaml, with the "
        "published models."
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


class _Reporter:
    """Progress for people: a bar on a terminal, and one line per unit in any log."""

    def __init__(self) -> None:
        self._first_done: int | None = None
        self._begun_at = time.time()
        self.images_per_s: float | None = None
        self._progress = Progress(
            TextColumn("labelling"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("label", total=None, rate="")

    def __enter__(self) -> _Reporter:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def unit(self, unit: UnitDone, done: int, total: int) -> None:
        """Report a finished unit."""
        if self._first_done is None:
            self._first_done, self._begun_at = done - unit.images, unit.begun_at
        # the clock starts where labelling does: loading models is not speed
        self._begun_at = min(self._begun_at, unit.begun_at)
        ended_at = max(time.time(), unit.begun_at + unit.label_s)
        self.images_per_s = rate = (done - self._first_done) / (ended_at - self._begun_at)
        self._progress.update(self._task, completed=done, total=total, rate=f"{rate:.2f} images/s")
        logger.info(
            "unit %d: %d images, %d failed, %d detections; fetch %.1f s, label %.1f s, "
            "write %.1f s; %d of %d images, %.2f images/s",
            unit.shard_id,
            unit.images,
            unit.failed,
            unit.detections,
            unit.fetch_s,
            unit.label_s,
            unit.write_s,
            done,
            total,
            rate,
        )
