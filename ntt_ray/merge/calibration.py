"""Defines ``calibration.json``: the score threshold of each class, and what it stands on.

People may write one by hand, as little as::

    {"thresholds": {"nut": 0.35, "bolt": 0.5}}

Class names lead to scores between 0 and 1; a class that is not listed uses ``merge.min_score``.
Other keys at the top are for people and ignored. It does not know how thresholds are found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ntt_ray import storage
from ntt_ray.errors import InputError, did_you_mean
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.run.record import differences

Score = Annotated[float, Field(strict=True, ge=0, le=1)]


class ClassEvidence(BaseModel):
    """What the references say of one class.

    Attributes:
        images: how many reference images have it and could be labelled without their own shots.
        objects: how many annotated objects these images have.
        judged_detections: how many detections that can be judged reach the threshold.
        right_detections: how many of these detections are right.
        unclear_detections: how many more reach the threshold and may be objects nobody annotated.
        expected_precision: which share of the kept detections that can be judged is likely to be
            right; None where there are none, or nothing can be said.
        expected_recall: None where nothing can be said.
        precision_range: where the precision may well lie, so few samples considered, whether the
            unclear ones are right or not.
        recall_range: where the recall may well lie.
        enough_references: whether they are enough for a threshold of its own.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    objects: int
    judged_detections: int
    right_detections: int
    unclear_detections: int = 0
    expected_precision: float | None
    expected_recall: float | None
    precision_range: tuple[float, float] | None
    recall_range: tuple[float, float] | None
    enough_references: bool


class Calibration(BaseModel):
    """The content of a ``calibration.json``.

    Attributes:
        format_version: 1, also where the file does not say.
        bank: digest of the memory bank that it was made with; None where nobody says.
        made_with: what else its scores depend on, as `run.identity.scores_content` has it: models,
            decoding, method; None where nobody says.
        wanted_precision: share of the detections that should be right; None: best F1.
        thresholds: the score that a detection must reach, by class name.
        classes: what the thresholds stand on, by class name.
    """

    model_config = ConfigDict(frozen=True)

    format_version: Literal[1] = 1
    bank: str | None = None
    made_with: dict[str, Any] | None = None
    wanted_precision: float | None = None
    thresholds: dict[str, Score]
    classes: dict[str, ClassEvidence] = {}

    def to_bytes(self) -> bytes:
        """The file; the same calibration gives the same bytes."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        return f"{text}\n".encode()

    @classmethod
    def parse(cls, content: Any, uri: str) -> Calibration:
        """Check the parsed JSON of the file at `uri`.

        Raises:
            InputError: it is not of the format; all problems are named.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problems = "; ".join(_problem(item) for item in error.errors())
            raise InputError(f"{storage.redact(uri)}: {problems}") from None


def calibrated(
    calibration: Calibration, uri: str, classes: Sequence[ClassLabel], min_score: float
) -> Thresholds:
    """The thresholds of the calibration read from `uri`, `min_score` for other classes.

    Raises:
        InputError: it lists classes that the run does not have.
    """
    listed = calibration.thresholds
    names = {label.name for label in classes}
    if problems := [
        f"thresholds.{name}: the run has no such class{did_you_mean(name, names)}"
        for name in listed
        if name not in names
    ]:
        raise InputError(f"{storage.redact(uri)}: {'; '.join(problems)}")
    return Thresholds(
        min_score, {c.category_id: listed[c.name] for c in classes if c.name in listed}
    )


def unlike_run(calibration: Calibration, bank: str, made_with: Mapping[str, Any]) -> list[str]:
    """How the run whose scores are cut differs from that whose scores were looked at.

    Args:
        calibration: what was found; one that does not say with what it was made differs in nothing.
        bank: digest of the run's memory bank.
        made_with: what else the run's scores depend on, see `run.identity.scores_content`.

    Returns:
        The differences for people, by dotted path.
    """
    found = []
    if calibration.bank is not None and calibration.bank != bank:
        found.append(f"bank: {calibration.bank[:12]} there, {bank[:12]} here")
    if calibration.made_with is not None:
        found += differences(calibration.made_with, dict(made_with))
    return found


def _problem(error: Any) -> str:
    path = error["loc"]
    if path in ((), ("thresholds",)):
        return 'a calibration is {"thresholds": {class name: score}}'
    where = ".".join(str(part) for part in path)
    if path[0] == "thresholds":
        return f"{where}: {error['input']!r} is no score between 0 and 1"
    return f"{where}: {error['msg']}"
