"""Checking an output: whether a run is whole, and what is wrong with one that is not."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from ntt_ray.cli.app import ConfigPath, Overrides, Verbose, app, say, start_logging
from ntt_ray.cli.place import settings_of
from ntt_ray.cli.progress import counter
from ntt_ray.errors import InputError, RunIncompleteError

if TYPE_CHECKING:
    from ntt_ray.verify.problems import Problem
    from ntt_ray.verify.verify import Verdict

NOTES_SHOWN = 20
JsonPath = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="PATH", help="Write every problem to this file, a line of JSON each."
    ),
]


To = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="PREFIX", help="Check the files of `merge --to PREFIX`, not the first."
    ),
]


@app.command()
def verify(
    config: ConfigPath,
    overrides: Overrides = None,
    verbose: Verbose = False,
    json_path: JsonPath = None,
    to: To = None,
) -> None:
    """Check that an output is whole: manifest, bank, shards and merged files agree."""
    start_logging(verbose)
    settings = settings_of(config, overrides)
    from ntt_ray.verify.problems import Findings
    from ntt_ray.verify.verify import verify as verify_run

    with ExitStack() as stack:
        listing = None if json_path is None else stack.enter_context(_opened(json_path))
        on_unit = stack.enter_context(counter("verifying", "shards"))

        def write(problem: Problem) -> None:
            if listing is not None:
                listing.write(json.dumps(asdict(problem)) + "\n")

        verdict = verify_run(settings, Findings(write), on_unit, to)
    _print_verdict(verdict)
    if not verdict.whole:
        count = sum(verdict.findings.counts.values())
        raise RunIncompleteError(f"{settings.output} is not whole: {count} problems")


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written ({error.strerror})") from None


def _print_verdict(verdict: Verdict) -> None:
    findings = verdict.findings
    for kind, count in sorted(findings.counts.items()):
        say(f"{kind}: {count}", style="red")
        shown = [problem for problem in findings.kept if problem.kind == kind]
        for problem in shown:
            say(f"  {problem.where}: {problem.text}")
        if len(shown) < count:
            say(f"  ... and {count - len(shown)} more (--json PATH writes all)")
    for note in findings.notes[:NOTES_SHOWN]:
        say(f"note: {note}")
    if len(findings.notes) > NOTES_SHOWN:
        say(f"note: ... and {len(findings.notes) - NOTES_SHOWN} more")
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(verdict.statuses.items()))
    say(
        f"{verdict.units_done} of {verdict.units} shards; {verdict.rows} of {verdict.images} rows "
        f"({statuses or 'none'}); {verdict.detections} detections; "
        f"{'merged' if verdict.merged else 'not merged'}"
    )
    if verdict.whole:
        say("whole: everything is there and agrees")
