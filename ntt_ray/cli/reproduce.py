"""``ntt-ray reproduce``: the paper's benchmarks, our metrics beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ntt_ray import storage
from ntt_ray.cli.app import DryRun, Overrides, Verbose, app, console, say, start_logging
from ntt_ray.cli.run import run_steps
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.stages import Stage

if TYPE_CHECKING:
    from ntt_ray.reproduce.comparison import Row
    from ntt_ray.reproduce.declaration import Protocol
    from ntt_ray.reproduce.runner import Measured


@app.command()
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="coco-novel, voc, lvis-minival, coco-20i, cd-fsod or isaid."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="DIR", help="Folder of the data set, in its original layout."
        ),
    ],
    shots: Annotated[
        str | None,
        typer.Option("--shots", metavar="N,N", help="References per class; default: as published."),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N,N", help="Seeds that references are sampled with.")
    ] = "33",
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="Run only this split, fold or data set; repeatable."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="DIR", help="Folder of the runs; default: runs/NAME."),
    ] = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Run one of the paper's benchmarks and compare: OUTPUT/comparison.json.

    Example: ntt-ray reproduce coco-novel --data /data/coco --shots 10,30 --seeds 33,34
    """
    start_logging(verbose)
    from ntt_ray.evaluate.summary import summary_of
    from ntt_ray.reproduce.catalogue import find_parts, find_protocol
    from ntt_ray.reproduce.comparison import FILE, compare, comparison_json
    from ntt_ray.reproduce.runner import Steps, Wanted, check_overrides, measure, prepare
    from ntt_ray.storage import Storage

    protocol = find_protocol(name)
    wanted = Wanted(
        storage.absolute(data),
        storage.absolute(output or f"runs/{name}"),
        find_parts(protocol, part or []),
        _numbers("--shots", shots, 1) or protocol.shots,
        _numbers("--seeds", seeds, 0),
        tuple(overrides or ()),
    )
    settings = check_overrides(protocol, wanted.overrides)
    with Stage("reading the data set", at_once=False):
        planned = prepare(protocol, wanted, write=not dry_run)
    if dry_run:
        for item in planned:
            say(f"{item.part}: {item.shots} shots, seed {item.seed}; {item.images} images")
        say(f"{len(planned)} runs; nothing was started (--dry-run)")
        raise typer.Exit
    uri, chosen = storage.join(wanted.output, FILE), settings.resolved()
    used = {key: chosen[key] for key in ("models", "method", "merge", "evaluator")}
    store = Storage(settings.storage_options)
    measured: list[Measured] = []
    for run in measure(protocol, planned, Steps(_run, _masks)):
        measured.append(run)  # what is known is there, however the next run ends
        store.publish_bytes(uri, comparison_json(protocol, measured, used, summary_of))
    print_table(protocol, compare(protocol, measured))
    say(f"wrote {storage.redact(uri)}")


def _run(settings: Config, class_maps: bool) -> Mapping[str, Any]:
    """One run to its end; an incomplete one raises, so that no metric stands for it."""
    from ntt_ray.evaluate.job import class_maps_of_run
    from ntt_ray.merge.job import check_complete

    counts, metrics, _ = run_steps(settings)
    check_complete(settings, counts)
    found = dict(metrics or {})
    return {**found, "class_maps": class_maps_of_run(settings)} if class_maps else found


def _masks(settings: Config) -> tuple[dict[str, Any], str]:
    from ntt_ray.references.from_boxes import make_masks

    return make_masks(settings)[:2]


def _numbers(option: str, text: str | None, least: int) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        found = tuple(int(item) for item in text.split(","))
    except ValueError:
        found = (least - 1,)
    if min(found) < least or len(set(found)) < len(found):
        raise InputError(f"{option} {text}: name different whole numbers of {least} or more: 1,5")
    return found


def print_table(protocol: Protocol, rows: Sequence[Row]) -> None:
    """Our metrics and the published ones in 80 columns; letters lead to the notes below."""
    table = Table(title=f"{protocol.title}, in per cent", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("part", "shots", "metric", "ours", "published", "difference"):
        table.add_column(title, justify="left" if title in ("part", "metric") else "right")
    notes = dict.fromkeys(row.note for row in rows if row.note)
    letters = dict(zip(notes, ascii_lowercase))
    for row in rows:
        ours = _points(row.ours)
        ours += "" if row.deviation is None else f" ± {_points(row.deviation)}"
        table.add_row(
            row.part,
            "all" if row.shots is None else str(row.shots),
            row.figure,
            ours,
            f"{_points(row.published)} {letters.get(row.note, '')}".rstrip(),
            _difference(row),
        )
    console.print(table)
    for note, letter in letters.items():
        console.print(f" {letter}: {note}", highlight=False)


def _points(value: float | None) -> str:
    """A fraction in per cent; ``-`` where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def _difference(row: Row) -> str:
    """Our metric less the published one, in points; nothing where they are not the same thing."""
    if not row.comparable or row.ours is None or row.published is None:
        return ""
    judged = "" if row.within is None else " in" if row.within else " beyond"
    band = f"{judged} ± {_points(row.tolerance)}" if judged else ""
    return f"{100 * (row.ours - row.published):+.1f}{band}"
