"""Commands about memory banks: build one, see what its references can do, join some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntt_ray.cli.app import (
    ConfigPath,
    DryRun,
    Overrides,
    Verbose,
    app,
    say,
    start,
    start_logging,
)
from ntt_ray.cli.place import override
from ntt_ray.run.layout import BANK_FILE, BANK_PAGE

if TYPE_CHECKING:
    from ntt_ray.bank.file import BankFile

MAX_LINES = 20


@app.command()
def bank(
    config: ConfigPath,
    overrides: Overrides = None,
    extend: Annotated[
        str | None,
        typer.Option("--extend", metavar="BANK", help="Short for --set references.extends=BANK."),
    ] = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Build the memory bank from the references: OUTPUT/bank.safetensors and bank.html.

    The page and the lines printed name references that look mislabelled, weak or doubled, and
    classes that are hard to tell apart. A ready bank (`bank:` in the config) is only reported on.

    Example: ntt-ray bank birds.yaml --extend s3://bucket/runs/birds-01/bank.safetensors
    """
    extension = [override("references.extends", extend)] if extend is not None else []
    settings = start(config, [*(overrides or ()), *extension], dry_run, verbose)
    from ntt_ray.run.prepare import build_run_bank

    built, report = build_run_bank(settings)
    _say_classes(built)
    _say_findings(report)
    files = BANK_PAGE if settings.bank is not None else f"{BANK_FILE}, {BANK_PAGE}"
    say(f"wrote {files} in {settings.output}")


@app.command("join-banks")
def join(
    banks: Annotated[list[str], typer.Argument(metavar="BANK...", help="Two banks or more.")],
    output: Annotated[
        str, typer.Option("--output", help="Write the joined bank to this .safetensors file.")
    ],
    verbose: Verbose = False,
) -> None:
    """Join memory banks of the same encoder: classes of the same name become one class.

    The first bank that has a class gives its id; an id that is taken already is replaced by the
    next one above all of them.

    Example: ntt-ray join-banks birds.safetensors fish.safetensors --output both.safetensors
    """
    start_logging(verbose)
    from ntt_ray.bank.job import join_files

    joined, changes = join_files(banks, output)
    for change in changes:
        say(f"  {change}")
    _say_classes(joined)
    say(f"wrote {output}")


def _say_classes(built: BankFile) -> None:
    for label, shots in zip(built.classes, built.references.shots.tolist(), strict=True):
        say(f"  class {label.category_id} {label.name}: {shots} references")


def _say_findings(report: dict[str, Any]) -> None:
    found = report["findings"]
    for item in found[:MAX_LINES]:
        say(f"  {item['kind']}: {item['text']}", style="yellow")
    if len(found) > MAX_LINES:
        say(f"  and {len(found) - MAX_LINES} more, in {BANK_PAGE}")
    if not found:
        say("  nothing stands out among the references")
