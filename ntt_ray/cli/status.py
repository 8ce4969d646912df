"""How a run is: looked at from anywhere, with its config or without."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntt_ray import storage
from ntt_ray.cli.app import Overrides, app, say, start_logging
from ntt_ray.cli.place import output_settings
from ntt_ray.errors import RunIncompleteError
from ntt_ray.stages import Stage

if TYPE_CHECKING:
    from ntt_ray.run.lock import Holder
    from ntt_ray.run.status import Status

ALARMS_SHOWN, REASONS_SHOWN = 5, 10
Output = Annotated[
    str,
    typer.Argument(metavar="OUTPUT|CONFIG", help="Folder or URI prefix of the run, or its config."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quick = Annotated[
    bool | None,
    typer.Option(
        "--quick/--full",
        help="Count shards only, or look into all of them for failures. Unless told, it looks into "
        "20,000 at most.",
    ),
]


@app.command()
def status(
    output: Output, overrides: Overrides = None, as_json: AsJson = False, quick: Quick = None
) -> None:
    """Say how a run is: done, to do, pace, failures.

    The exit status is 0 when all is done or a driver is at work on it, and 1 when it stopped before
    its end or too many images failed.

    Stores are reached as the environment says (AWS_ENDPOINT_URL, AWS_PROFILE ...), or with
    --set storage_options.s3.endpoint_url=URL.
    """
    start_logging(verbose=False)
    settings = output_settings(output, overrides, "status")
    from ntt_ray.run.status import preparing_driver, read_status
    from ntt_ray.storage import Storage

    store = Storage(settings.storage_options)
    if preparing := preparing_driver(settings.output, store):
        _say_preparing(settings.output, preparing, as_json)
        return
    with Stage("looking into the shards", at_once=False):
        footers = None if quick is None else not quick
        found = read_status(settings.output, store, footers=footers)
    if as_json:
        typer.echo(json.dumps(_plain(found)))
    else:
        _print(found)
    if found.trouble is not None:
        raise RunIncompleteError(found.trouble)


def _say_preparing(output: str, driver: Holder, as_json: bool) -> None:
    if as_json:
        shown = {"output": storage.redact(output), "driver": _plain_driver(driver), "done": False}
        typer.echo(json.dumps({**shown, "healthy": True}))
    else:
        say(f"{storage.redact(output)}: a driver is preparing the run; nothing is labelled yet")
        say(_at_work(driver))


def _plain_driver(driver: Holder) -> dict[str, Any]:
    return {**asdict(driver), "progress": dict(driver.progress)}


def _plain(found: Status) -> dict[str, Any]:
    driver = found.driver and _plain_driver(found.driver)
    return {
        **asdict(replace(found, driver=None, parts={})),
        "driver": driver,
        "parts": {part: _plain_driver(holder) for part, holder in found.parts.items()},
        "failed": None if found.failures is None else found.failed,
        "images_per_s": found.images_per_s,
        "left_s": found.left_s,
        "done": found.problem is None,
        "healthy": found.trouble is None,
    }


def _print(found: Status) -> None:
    images = "?" if found.images_done is None else found.images_done
    failed = "" if found.failures is None else f", {found.failed} of them failed"
    say(
        f"{found.output}: {found.units_done} of {found.units} units done, "
        f"{images} of {found.images} images{failed}"
    )
    if found.units_kept is not None:
        say(f"{found.units_kept} units have their proposals kept, for ntt-ray rematch")
    if found.failures is None:
        say("the shards were not looked into; --full counts their images and names failures")
    if found.driver is not None or not found.parts:
        say(_at_work(found.driver))
    for part, holder in found.parts.items():
        say(f"part {part}: {_at_work(holder)}")
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
