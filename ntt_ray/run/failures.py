"""What failed images mean for a run: how many of which kind, why most of them, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ntt_ray.config import JobConfig

# what is said of the images of each kind of `records.Failure`, and what helps
_KINDS = {
    "content": ("failed for good", "no image comes of their content"),
    "access": ("could not be read", "mend the access, and the same command tries just these again"),
    "worker": ("ended their workers", "the same command tries just these again"),
}
Reasons = Mapping[tuple[str, str], int]  # images by kind of failure and reason


@dataclass(frozen=True)
class Allowed:
    """How many images may fail before the exit status says so, as shares of all images.

    Attributes:
        failed: the share that may fail for good, `job.max_failed_fraction`.
        unreachable: the share that may wait to be tried again, `job.max_unreachable_fraction`.
    """

    failed: float = 0.0
    unreachable: float = 0.0

    @classmethod
    def of(cls, job: JobConfig) -> Allowed:
        """What a config allows."""
        return cls(job.max_failed_fraction, job.max_unreachable_fraction)

    def problem(self, images: int, reasons: Reasons) -> str | None:
        """Why the exit status may not be 0; None where few enough of the images failed."""
        final = sum(count for (kind, _), count in reasons.items() if kind == "content")
        waiting = sum(reasons.values()) - final
        problems = []
        if final > self.failed * images:
            problems.append(
                f"{final} of {images} images failed, more than job.max_failed_fraction "
                f"{self.failed:g} allows"
            )
        if waiting > self.unreachable * images:
            problems.append(
                f"{waiting} of {images} images are to be tried again, more than "
                f"job.max_unreachable_fraction {self.unreachable:g} allows"
            )
        return "; ".join([*problems, *failure_lines(reasons)]) if problems else None


def failure_lines(reasons: Reasons) -> list[str]:
    """A line for each kind of failure: how many images, why most of them, and what to do."""
    lines = []
    for kind, (what, help_text) in _KINDS.items():
        own = Counter({reason: n for (found, reason), n in reasons.items() if found == kind})
        if own:
            reason, count = own.most_common(1)[0]
            lines.append(f"{own.total()} {what}, {count} of them: {reason} ({help_text})")
    return lines
