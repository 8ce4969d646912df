"""The commands about published checkpoints: list them, fetch them onto this node, fill a mirror."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ntt_ray import storage
from ntt_ray.cli.app import Overrides, Verbose, app, say, start_logging
from ntt_ray.cli.place import is_output, settings_of
from ntt_ray.config import Config
from ntt_ray.errors import InputError, did_you_mean
from ntt_ray.models.published import BUNDLED, PUBLISHED, PublishedFile
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

group = typer.Typer(
    name="weights",
    help="Published checkpoints: list them, fetch them onto this node, fill a mirror with them.",
    no_args_is_help=True,
)
app.add_typer(group)

Wanted = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...|CONFIG", help="Model names, or a config or an output that names models."
    ),
]


@group.command("list")
def list_weights() -> None:
    """Print each name with its megabytes, whether this node has it, its SHA-256 and address."""
    from ntt_ray.models.cache import cache_dir, cached_path

    for name, published in PUBLISHED.items():
        size = f"{published.size_bytes / 1e6:.0f} MB" if published.size_bytes else "-"
        cached = "cached" if cached_path(published).is_file() else "-"
        digest = published.sha256 or "-"
        typer.echo(f"{name:<18} {size:>8}  {cached:<6}  {digest:<64}  {published.url}")
    say(f"cache of this node: {cache_dir()} (NTT_RAY_CACHE names another)")


@group.command()
def fetch(wanted: Wanted, overrides: Overrides = None, verbose: Verbose = False) -> None:
    """Fetch published files into this node's cache, from the config's mirror if it has one.

    Example, for an image that needs no download: RUN ntt-ray weights fetch sam2_hiera_l
    """
    start_logging(verbose)
    files, settings = _chosen(wanted, overrides)
    from ntt_ray.models.cache import published_checkpoint

    mirror = settings.models.mirror if settings else None
    store = Storage(settings.storage_options if settings else {})
    for published in files:
        say(f"{published.file_name}: {published_checkpoint(published, mirror, store)}")


@group.command()
def push(
    wanted: Wanted,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="PREFIX", help="Prefix of the mirror; default: that of the config."
        ),
    ] = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Fill a mirror with published files; files that are there and right are left alone.

    Example: ntt-ray weights push --to s3://bucket/weights/ my.yaml
    """
    start_logging(verbose)
    files, settings = _chosen(wanted, overrides)
    prefix = to or (settings.models.mirror if settings else None)
    if prefix is None:
        raise InputError("--to PREFIX is missing, and no config says models.mirror")
    from ntt_ray.models.mirror import push as push_file

    store = Storage(settings.storage_options if settings else {})
    for published in files:
        with Stage(f"filling the mirror with {published.file_name}", at_once=False):
            done = push_file(published, storage.absolute(prefix), store)
        say(f"{published.file_name}: {done}")
    if files:
        say(f"use it with models.mirror: {storage.redact(prefix)}")


def _chosen(
    wanted: Sequence[str], overrides: Sequence[str] | None
) -> tuple[list[PublishedFile], Config | None]:
    """The published files that names or one config ask for, each once, and that config."""
    configs = [item for item in wanted if item.endswith((".yaml", ".yml")) or is_output(item)]
    names = [item for item in wanted if item not in configs]
    if len(configs) > 1:
        raise InputError(f"one config at a time, not {len(configs)}")
    for name in names:
        _check_name(name)
    settings = settings_of(configs[0], overrides) if configs else None
    if settings is not None:
        blocks = (settings.models.encoder, settings.models.proposer)
        names += [b.name for b in blocks if b.checkpoint is None and b.name in PUBLISHED]
    if not names:
        say("nothing to do: the config names no published file")
    return [PUBLISHED[name] for name in dict.fromkeys(names)], settings


def _check_name(name: str) -> None:
    if name in BUNDLED:
        raise InputError(f"{name}: comes with the package, there is nothing to fetch")
    if name not in PUBLISHED:
        hint = did_you_mean(name, PUBLISHED, shown=str)
        raise InputError(
            f"{name}: no published model of that name, and not a .yaml file{hint} "
            "`ntt-ray weights list` shows them"
        )
