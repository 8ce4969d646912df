"""``ntt-ray reproduce``: the paper's benchmarks, our figures beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ntt_ray import storage
from ntt_ray.cli.app import Overrides, Verbose, app, console, say, start_logging
from ntt_ray.cli.run import run_steps
from ntt_ray.config import Config
from ntt_ray.errors import InputError

if TYPE_CHECKING:
    from ntt_ray.protocols.comparison import Row
    from ntt_ray.protocols.declaration import Protocol


@app.command()
def reproduce(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="coco-novel, voc, lvis-minival, coco-20i or cd-fsod."),
    ],
    data: Annotated[
        str, typer.Option("--data", metavar="DIR", help="The data set in its original layout.")
    ],
    shots: Annotated[
        str | None,
        typer.Option("--shots", metavar="N,N", help="References per class; default: as published."),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N,N", help="Seeds of the draw of references.")
    ] = "33",
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="Only this split, fold or data set; repeatable."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="DIR", help="Default: runs/NAME.")
    ] = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Run one of the paper's benchmarks and compare: OUTPUT/comparison.json.

    Example: ntt-ray reproduce coco-novel --data /data/coco --shots 10,30 --seeds 33,34
    """
    start_logging(verbose)
    from ntt_ray.protocols.catalogue import find_parts, find_protocol
    from ntt_ray.protocols.comparison import FILE, compare, comparison_json
    from ntt_ray.protocols.runner import Steps, Wanted, check_overrides, measure
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
    measured = list(measure(protocol, wanted, Steps(_run, _masks)))
    uri, chosen = storage.join(wanted.output, FILE), settings.resolved()
    Storage(settings.storage_options).publish_bytes(
        uri, comparison_json(protocol, measured, {k: chosen[k] for k in ("models", "method")})
    )
    _print_table(protocol, compare(protocol, measured))
    say(f"wrote {storage.redact(uri)}")


def _run(settings: Config, class_maps: bool) -> Mapping[str, Any]:
    """One run to its end; an incomplete one raises, so that no figure stands for it."""
    from ntt_ray.pipeline.outcome import check_complete, class_maps_of_run

    counts, metrics, _ = run_steps(settings)
    check_complete(settings, counts)
    found = dict(metrics or {})
    return {**found, "class_maps": class_maps_of_run(settings)} if class_maps else found


def _masks(settings: Config) -> tuple[dict[str, Any], str]:
    from ntt_ray.pipeline.box_masks import make_masks

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


def _print_table(protocol: Protocol, rows: Sequence[Row]) -> None:
    table = Table(title=protocol.title)
    for title in ("part", "shots", "figure", "ours", "published", "difference", "note"):
        table.add_column(title, justify="left" if title in ("part", "figure", "note") else "right")
    for row in rows:
        ours = "-" if row.ours is None else f"{100 * row.ours:.1f}"
        ours += "" if row.deviation is None else f" ± {100 * row.deviation:.1f}"
        table.add_row(
            row.part,
            "all" if row.shots is None else str(row.shots),
            row.figure,
            ours,
            "-" if row.published is None else f"{100 * row.published:.1f}",
            _difference(row),
            row.note,
        )
    console.print(table)


def _difference(row: Row) -> str:
    """Ours less the published figure, in points; nothing where they are not the same thing."""
    if not row.comparable or row.ours is None or row.published is None:
        return ""
    return f"{100 * (row.ours - row.published):+.1f}"
