"""The command ``ntt-ray``: as a process of its own, or here, which spares a second of imports."""

import contextlib
import io
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

from tests.support.paths import ROOT

Done = subprocess.CompletedProcess[str]


def start_command(*arguments: str, timeout: float = 170) -> Done:
    """``ntt-ray ...`` as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "ntt_ray", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
    )


def run_command(*arguments: str) -> Done:
    """``ntt-ray ...`` in this process; an exception that a user would see as one is raised."""
    from ntt_ray.cli import main

    return run_here(main, "ntt-ray", *arguments)


def run_here(program: Callable[[], object], *words: str) -> Done:
    """Run what ends by ``sys.exit`` with the words of a command line; gives what it said.

    Handlers of logs and signals are as before when it returns.
    """
    said, told, status = io.StringIO(), io.StringIO(), None
    handlers, logging.root.handlers = logging.root.handlers, []
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with (
            mock.patch.object(sys, "argv", list(words)),
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(said),
        ):
            program()
    except SystemExit as left:
        status = left.code
    finally:
        logging.root.handlers = handlers
        signal.signal(signal.SIGTERM, on_sigterm)
    assert isinstance(status, int), f"it ended with {status!r}"
    return Done(words, status, told.getvalue(), said.getvalue())
