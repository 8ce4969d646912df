"""``ntt-ray plan``: label a sample, show it, and say what the whole run will take and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from ntt_ray.cli.app import config_command, console, say
from ntt_ray.cli.progress import Reporter
from ntt_ray.config import Config
from ntt_ray.run.layout import REPORT_PAGE

if TYPE_CHECKING:
    from ntt_ray.plan.estimate import Estimate


@config_command
def plan(
    settings: Config,
    sample: Annotated[int, typer.Option("--sample", min=1, help="How many images to label.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="The same seed takes the same images.")] = 0,
    price: Annotated[
        float | None,
        typer.Option(
            "--price",
            min=0.0,
            help="Price of an hour of one GPU, or of one core where there is none.",
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Show a sample that was labelled with other references or thresholds."
        ),
    ] = False,
) -> None:
    """Label a seeded sample and state time, size and cost of the whole run.

    The sample is a run of its own below OUTPUT/plan/, with a report; asked twice, it is labelled
    once. With --again its kept proposals are matched with what the config says now, in seconds.

    Example: ntt-ray plan birds.yaml --sample 50 --price 3.90
    """
    from ntt_ray.plan.estimate import estimate_run

    if again:
        from ntt_ray.plan.again import match_sample_again

        with Reporter() as reporter:
            own = match_sample_again(settings, sample, seed, reporter.unit)
        say(f"look at: {own.output}/{REPORT_PAGE}")
        return
    with Reporter() as reporter:
        found, own = estimate_run(
            settings, sample, seed, reporter.unit, lambda found: _rows(found, price)
        )
    console.print(_table(found, price))
    say(f"look at: {own.output}/{REPORT_PAGE}")


def _table(found: Estimate, price: float | None) -> Table:
    table = Table(title=f"from a sample of {found.sample.images} images", show_header=False)
    for row in _rows(found, price):
        table.add_row(*row)
    return table


def _rows(found: Estimate, price: float | None) -> list[tuple[str, str]]:
    """What is said of the whole run, here and on the page of the sample: name and text of each."""
    device = "GPU" if found.device == "cuda" else "core"
    sample = found.sample
    rows = [
        ("images", f"{found.images:,} in {found.units:,} units"),
        ("in the sample", f"{sample.detections} detections, {sample.failed} images failed"),
        (
            "speed",
            f"{found.images_per_s:.2f} images/s with {found.actors} actors on this cluster "
            f"({found.device})",
        ),
        (
            "time",
            f"{_duration(found.hours)}, {_amount(found.device_hours)} {device}-hours; starting and "
            "merging not counted",
        ),
        ("to read", decimal(found.read_bytes)),
        ("to write", f"{decimal(found.written_bytes)} in {found.units:,} shards and merged files"),
    ]
    if sample.kept_bytes:
        each = sample.kept_bytes / sample.images
        text = f"{decimal(round(each * found.images))} of proposals, for ntt-ray rematch"
        name = "to keep" if found.keeps else "with proposals.keep"
        rows.append((name, f"{text}; {decimal(round(each))} an image"))
    if price is not None:
        rows.append(
            ("cost", f"{_amount(found.device_hours * price)} at {price:g} per {device}-hour")
        )
    if found.device == "cpu" and found.predicted_gpu_hours:
        hours = [f"{_amount(hours)} on {gpu}" for gpu, hours in found.predicted_gpu_hours.items()]
        rows.append(("on GPUs", f"predicted, not measured: GPU-hours {', '.join(hours)}"))
    return rows


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if 60 * hours >= 1 else f"{3600 * hours:.0f} s"


def _amount(value: float) -> str:
    """With two digits after the point, or as many as it takes to see two of a small one."""
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"
