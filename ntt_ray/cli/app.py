"""What every command shares: the application, the options, what is said to people, the exit status.

Exit status: 0 everything done, 1 the run is incomplete or failed, 2 bad arguments or config.
torch and Ray are imported by the commands that need them, not here.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from ntt_ray import __version__
from ntt_ray.cli.place import settings_of
from ntt_ray.config import Config
from ntt_ray.errors import NttRayError
from ntt_ray.records import ClassLabel

if TYPE_CHECKING:
    from ntt_ray.run.prepare import CheckNames

logger = logging.getLogger("ntt_ray")
INTERRUPTED = 128 + signal.SIGINT
console = Console(stderr=True, highlight=False)
app = typer.Typer(
    name="ntt-ray",
    help="Label millions of images with instance masks from a few annotated references.",
    no_args_is_help=True,
    # every command below inherits these names
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG|OUTPUT", help="Path of the YAML config, or the output of a run that began."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="A.B=VALUE", help="Set A.B to VALUE, whatever the config says; repeatable."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check everything and print the plan; start and write nothing."),
]
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more of what is going on.")]


def main() -> NoReturn:
    """The command ``ntt-ray``: errors of ours become one message, bugs keep their traceback."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        app(standalone_mode=True)
    except NttRayError as error:
        say(f"error: {error}", style="red")
        sys.exit(error.exit_status)
    except SystemExit as left:  # Typer has caught the KeyboardInterrupt
        if left.code == INTERRUPTED:
            say("interrupted; the same command goes on where this run stopped")
        raise
    sys.exit(0)


def _on_sigterm(number: int, _frame: FrameType | None) -> NoReturn:
    """``ray job stop`` and schedulers send it: leave in order, so that the lock is given back."""
    raise SystemExit(128 + number)


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"ntt-ray {__version__}")
        raise typer.Exit


def say(text: str, style: str | None = None) -> None:
    """A line for people, on stderr, never wrapped and never read as markup."""
    console.print(_visible(text), style=style, markup=False, soft_wrap=True)


def name_cell(name: str) -> Text:
    """A name from data in a table: never read as markup, on one line."""
    return Text(_visible(name.replace("\n", "\\n")))


def _visible(text: str) -> str:
    """A text without control characters, which a terminal would obey: they are written out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def start(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> Config:
    """Read the config, or that of a run by its output; ``--dry-run`` prints the plan and leaves."""
    start_logging(verbose)
    settings = settings_of(config, overrides)
    if dry_run:
        _print_plan(settings)
        raise typer.Exit
    return settings


def config_command(
    function: Callable[..., None], foresee: Callable[..., None] = lambda *_, **__: None
) -> Callable[..., None]:
    """Register a command that reads a config.

    The function gets the settings and options of its own; the command has those of `start` beside
    them. With ``--dry-run`` the function is not called, but `foresee` with the same arguments: it
    checks and says what no plan of a run does.
    """
    is_whole = function.__name__ == "run"

    @functools.wraps(function)
    def command(*, config: str, overrides: list[str] | None, dry_run: bool, verbose: bool,
                **own: object) -> None:  # fmt: skip
        settings = start(config, overrides, verbose=verbose)
        if dry_run:
            foresee(settings, **own)
            _print_plan(settings, all_steps=is_whole)
        else:
            function(settings, **own)

    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    config, *common = inspect.signature(start, eval_str=True).parameters.values()
    options = [p.replace(kind=p.KEYWORD_ONLY) for p in (config, *own, *common)]
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return app.command()(command)


def start_logging(verbose: bool) -> None:
    """Log lines go to stderr, above a progress bar where there is one."""
    handler: logging.Handler = logging.StreamHandler()
    layout = "%(asctime)s %(levelname)s %(message)s"
    if console.is_terminal:  # lines above a progress bar go through its console
        handler = RichHandler(
            console=console, show_path=False, markup=False, log_time_format="%H:%M:%S"
        )
        layout = "%(message)s"
    logging.basicConfig(level=logging.WARNING, format=layout, handlers=[handler])
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def check_later_steps(settings: Config, classes: Sequence[ClassLabel]) -> CheckNames:
    """Refuse what merging and evaluating would refuse, as far as it is known by now."""
    from ntt_ray.evaluate.ahead import check_ahead
    from ntt_ray.storage import Storage

    return check_ahead(settings, classes, Storage(settings.storage_options))


def _print_plan(settings: Config, *, all_steps: bool = False) -> None:
    from ntt_ray.run.outlook import describe
    from ntt_ray.run.prepare import make_plan

    check = functools.partial(check_later_steps, settings) if all_steps else None
    plan = make_plan(settings, check)
    for line in describe(settings, plan.weights):
        say(line)
    say(
        f"{plan.images} images in {plan.units} units, {plan.units_done} of them done; "
        f"{len(plan.classes)} classes: {', '.join(label.name for label in plan.classes)}"
    )
    say("nothing was started (--dry-run)")


def shown(value: float | None) -> str:
    """A fraction with three digits; ``-`` where there is none."""
    return "-" if value is None else f"{value:.3f}"
