"""``ntt-ray rematch``: labels with other classes or thresholds, of proposals that a run kept."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ntt_ray import storage
from ntt_ray.cli.app import (
    ConfigPath,
    DryRun,
    Overrides,
    Verbose,
    app,
    check_later_steps,
    say,
    start,
)
from ntt_ray.cli.progress import Reporter
from ntt_ray.cli.run import finish_steps

if TYPE_CHECKING:
    from ntt_ray.config import Config
    from ntt_ray.run.prepare import CheckClasses

From = Annotated[
    str, typer.Option("--from", metavar="OUTPUT", help="The output of a run that kept proposals.")
]


@app.command()
def rematch(
    config: ConfigPath,
    source: From,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Match the kept proposals of a run again: other classes or thresholds, without a GPU.

    Writes a new output, and then merges, evaluates and reports as run does. The run that kept
    the proposals had proposals.keep: true.

    Example: ntt-ray rematch birds-02.yaml --from s3://bucket/runs/birds-01/
    """
    settings = start(config, overrides, False, verbose)
    check = partial(check_later_steps, settings)
    if dry_run:
        _print_plan(settings, source, check)
        return
    from ntt_ray.run.rematch import rematch as match_again

    with Reporter() as reporter:
        match_again(settings, source, reporter.unit, check)
    finish_steps(settings, reporter.images_per_s)


def _print_plan(settings: Config, source: str, check: CheckClasses) -> None:
    from ntt_ray.run.outlook import preset_lines
    from ntt_ray.run.rematch_plan import make_rematch_plan

    plan = make_rematch_plan(settings, source, check)
    bank = "is built first, by the encoder" if plan.bank is None else "is there"
    for line in preset_lines(settings):
        say(line)
    say(f"proposals: {storage.redact(plan.source)}, {len(plan.sizes)} units")
    say(f"bank: {bank}")
    names = ", ".join(label.name for label in plan.classes)
    done = f"{len(plan.sizes)} units, {len(plan.begun.done)} of them done"
    say(f"{sum(plan.sizes)} images in {done}; {len(plan.classes)} classes: {names}")
    say("nothing was started (--dry-run)")
