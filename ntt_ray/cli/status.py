"""How a run is: looked at from anywhere, without its config."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntt_ray.cli.app import Overrides, access_settings, app, say, start_logging
from ntt_ray.errors import RunIncompleteError

if TYPE_CHECKING:
    from ntt_ray.run.lock import Holder
    from ntt_ray.run.status import Status

ALARMS_SHOWN, REASONS_SHOWN = 5, 10
Output = Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder or URI prefix of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Count shards only; do not look into them for failures.")
]


@app.command()
def status(
    output: Output, overrides: Overrides = None, as_json: AsJson = False, quick: Quick = False
) -> None:
    """Say how a run is: done, to do, pace, failures; the exit status is 1 until all is done.

    Stores are reached as the environment says (AWS_ENDPOINT_URL, AWS_PROFILE ...), or with
    --set storage_options.s3.endpoint_url=URL.
    """
    start_logging(verbose=False)
    settings = access_settings(output, overrides, "status")
    from ntt_ray.run.status import read_status
    from ntt_ray.storage import Storage

    found = read_status(settings.output, Storage(settings.storage_options), footers=not quick)
    if as_json:
        typer.echo(json.dumps(_plain(found)))
    else:
        _print(found)
    if found.problem is not None:
        raise RunIncompleteError(found.problem)


def _plain(found: Status) -> dict[str, Any]:
    driver = found.driver and {**asdict(found.driver), "progress": dict(found.driver.progress)}
    return {
        **asdict(found),
        "driver": driver,
        "failed": None if found.failures is None else found.failed,
        "images_per_s": found.images_per_s,
        "left_s": found.left_s,
        "done": found.problem is None,
    }


def _print(found: Status) -> None:
    images = "?" if found.images_done is None else found.images_done
    failed = "" if found.failures is None else f", {found.failed} of them failed"
    say(
        f"{found.output}: {found.units_done} of {found.units} units done, "
        f"{images} of {found.images} images{failed}"
    )
    say(_at_work(found.driver))
    if found.images_per_s is not None and found.left_s is not None:
        left = timedelta(seconds=round(found.left_s))
        say(f"{found.images_per_s:.2f} images/s, {left} left to label")
    for alarm in found.drift[-ALARMS_SHOWN:]:
        say(f"  drift: {alarm}", style="yellow")
    for reason, failures in list((found.failures or {}).items())[:REASONS_SHOWN]:
        names = ", ".join(failures.examples)
        say(f"  {failures.images} failed ({failures.kind}): {reason}; {names}")


def _at_work(driver: Holder | None) -> str:
    if driver is None:
        return "no driver is at work"
    who = f"process {driver.pid} on {driver.host}, heard of {driver.heard_s:.0f} s ago"
    return f"a driver is at work: {who}" if driver.alive else f"its driver died: {who}"
