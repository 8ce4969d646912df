"""Arguments to config to one call; an exception to one message and an exit status."""

from ntt_ray.cli import bank, references, run, verify
from ntt_ray.cli.app import app, main

__all__ = ["app", "bank", "main", "references", "run", "verify"]
