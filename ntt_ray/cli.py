"""Arguments to config to one call; an exception to one message and an exit status.

Exit status: 0 everything done, 1 the run is incomplete or failed, 2 bad arguments or config.
torch and Ray are imported by the commands that need them, not here.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

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

from ntt_ray import __version__
from ntt_ray.config import Config, load_config
from ntt_ray.errors import NttRayError

if TYPE_CHECKING:
    from ntt_ray.outputs.coco import MergeCounts
    from ntt_ray.pipeline.label import UnitDone

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
    """Do everything: bank, label, merge; evaluate too when ground_truth is given."""
    settings = _start(config, overrides, verbose)
    if dry_run:
        _print_plan(settings)
        return
    _label(settings)
    counts = _merge(settings, partial=False)
    if settings.ground_truth is not None:
        _evaluate(settings)
    _finish(settings, counts)


@app.command()
def bank(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Build the memory bank from the references and write it to OUTPUT/bank.safetensors."""
    settings = _start(config, overrides, verbose)
    if dry_run:
        _print_plan(settings)
        return
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
    settings = _start(config, overrides, verbose)
    if dry_run:
        _print_plan(settings)
        return
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
    settings = _start(config, overrides, verbose)
    if dry_run:
        _print_plan(settings)
        return
    _finish(settings, _merge(settings, partial=partial))


@app.command()
def evaluate(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Compare a merged run with ground_truth and write metrics.json."""
    settings = _start(config, overrides, verbose)
    if dry_run:
        _print_plan(settings)
        return
    _evaluate(settings)


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


def _start(config: str, overrides: list[str] | None, verbose: bool) -> Config:
    handler: logging.Handler = logging.StreamHandler()
    layout = "%(asctime)s %(levelname)s %(message)s"
    if console.is_terminal:  # lines above a progress bar go through its console
        handler, layout = RichHandler(console=console, show_path=False, markup=False), "%(message)s"
    logging.basicConfig(level=logging.WARNING, format=layout, handlers=[handler])
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    return load_config(config, overrides or ())


def _print_plan(settings: Config) -> None:
    from ntt_ray.pipeline.run import make_plan

    plan = make_plan(settings)
    _say(
        f"{plan.images} images in {plan.units} units, {plan.units_done} of them done; "
        f"{len(plan.classes)} classes: {', '.join(plan.classes)}",
    )
    _say(f"output: {settings.output}; nothing was started (--dry-run)")


def _label(settings: Config) -> None:
    from ntt_ray.pipeline.run import label as label_run

    with _Reporter() as reporter:
        label_run(settings, reporter.unit)


def _merge(settings: Config, *, partial: bool) -> MergeCounts:
    from ntt_ray.pipeline.run import merge as merge_run

    names, counts = merge_run(settings, partial=partial)
    for name in names:
        logger.info("wrote %s/%s", settings.output, name)
    return counts


def _evaluate(settings: Config) -> None:
    from ntt_ray.pipeline.run import evaluate_run

    metrics = evaluate_run(settings)
    for kind, word in (("segm", "masks"), ("bbox", "boxes")):
        figures = (f"{name} {_shown(value)}" for name, value in metrics[kind].items())
        _say(f"  {word}: {'  '.join(figures)}")


def _finish(settings: Config, counts: MergeCounts) -> None:
    from ntt_ray.pipeline.run import check_complete

    _say(
        f"{counts.images} images: {counts.ok} with objects, {counts.empty} without, "
        f"{counts.failed} failed; {counts.detections} detections, {counts.annotations} in "
        f"annotations.json (score >= {settings.merge.min_score:g})",
    )
    check_complete(settings, counts)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


class _Reporter:
    """Progress for people: a bar on a terminal, and one line per unit in any log."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: int | None = None
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
        if self._first is None:
            self._first = done - unit.images
        rate = (done - self._first) / (time.monotonic() - self._started)
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
