"""Arguments to config to one call; an exception to one message and an exit status."""

from ntt_ray.cli import (
    average,
    bank,
    calibrate,
    init,
    plan,
    references,
    rematch,
    reproduce,
    review,
    run,
    status,
    verify,
    weights,
)
from ntt_ray.cli.app import app, main

__all__ = [
    "app",
    "average",
    "bank",
    "calibrate",
    "init",
    "main",
    "plan",
    "references",
    "rematch",
    "reproduce",
    "review",
    "run",
    "status",
    "verify",
    "weights",
]
