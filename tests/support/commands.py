"""The command ``ntt-ray`` as a user starts it."""

import subprocess
import sys

from tests.support.paths import ROOT


def run_command(*arguments: str, timeout=170) -> subprocess.CompletedProcess:
    """``ntt-ray ...`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ntt_ray", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
    )
