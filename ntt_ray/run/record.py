"""The run record ``run.json``: what a run was made of, and whether a second start may go on.

Only what can change labels is compared; see `differences`. A record is read with all its keys: of
an identity, the hash is taken over what stands in the file, whatever version wrote it. Keys that
this version does not know are kept and ignored; another `FORMAT_VERSION` is refused. No clocks.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ntt_ray import storage
from ntt_ray.errors import InputError, OutputMismatchError
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import RECORD_FILE
from ntt_ray.storage import Storage

FORMAT_VERSION: Literal[1] = 1
MAX_UNITS = 10_000_000  # more is no plan of ours
_PACKAGES = (
    "ntt-ray",
    "ray",
    "torch",
    "torchvision",
    "timm",
    "rf-sam-2",
    "pycocotools",
    "pyarrow",
    "pillow",
    "numpy",
)


class _Recorded(BaseModel):
    """A block of a record, with all keys that were in it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    def plain(self) -> dict[str, Any]:
        """The block as it was written or made: no key more, none less."""
        return self.model_dump(exclude_unset=True)


class ModelIdentity(_Recorded):
    """A model of a run: the SHA-256 of its checkpoint, and how it was built."""

    checkpoint: str


class ModelsIdentity(_Recorded):
    """Both models of a run, and how they compute."""

    encoder: ModelIdentity
    proposer: ModelIdentity


class Identity(_Recorded):
    """Everything that can change labels, and nothing else.

    Attributes:
        manifest: SHA-256 of the manifest.
        bank: SHA-256 of the memory bank.
        models: both models.
        method: the settings of the method; options that are off are missing.
        images: where the images were listed.
        decode: how image files became pixels; empty in the oldest records.
    """

    manifest: str
    bank: str
    models: ModelsIdentity
    method: dict[str, Any]
    images: str = ""
    decode: dict[str, Any] = Field(default_factory=dict)

    @property
    def makes_embeddings(self) -> bool:
        """Whether shards of labels have embeddings."""
        return bool(self.plain().get("proposals", {}).get("embeddings"))

    def digest(self) -> str:
        """SHA-256 over the identity, in hex: the run's ``labels_hash``."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()

    def provenance(self) -> dict[str, str]:
        """What every shard of the run carries, so that one of another run is found."""
        return {
            "labels_hash": self.digest(),
            "bank_digest": self.bank,
            "encoder_digest": self.models.encoder.checkpoint,
            "proposer_digest": self.models.proposer.checkpoint,
        }


class RecordedClass(_Recorded):
    """A class of the run: its COCO category id and its name."""

    id: int
    name: str


class RecordedPlan(_Recorded):
    """How many units a run has, and how many images in all of them."""

    units: Annotated[int, Field(ge=0, le=MAX_UNITS)]
    images: int


class RunRecord(_Recorded):
    """What ``run.json`` says.

    Attributes:
        format_version: the version of this format; a key more does not change it.
        labels_hash: the digest of the identity when the run began.
        identity: everything that can change labels.
        classes: the classes of the bank, by rising category id.
        plan: units and images.
        versions: by name the versions of Python and of the packages that began the run.
        config: the resolved config, without secrets.
        git_revision: the revision of the checkout that began the run, if it was a checkout.
        images_sha256: SHA-256 of the table or COCO file that `images` named when the run began;
            None for a prefix, and in older records.
        rematched_from: the output whose kept proposals the labels were made of, without secrets;
            None where images were labelled.
        boxes: what became of the boxes of a detector (`sources.boxes.BoxCounts`); None where none
            were asked.
    """

    format_version: Literal[1]
    labels_hash: str
    identity: Identity
    classes: tuple[RecordedClass, ...]
    plan: RecordedPlan
    versions: dict[str, Any]
    config: dict[str, Any] = Field(default_factory=dict)
    git_revision: str | None = None
    images_sha256: str | None = None
    rematched_from: str | None = None
    boxes: dict[str, Any] | None = None

    @property
    def class_labels(self) -> tuple[ClassLabel, ...]:
        """The classes as the rest of the package takes them."""
        return tuple(ClassLabel(item.id, item.name) for item in self.classes)


def recorded_run(output: str, store: Storage) -> RunRecord:
    """The record of a run that must be there.

    Raises:
        InputError: there is no run here.
    """
    recorded = read_record(output, store)
    if recorded is None:
        raise InputError(f"{storage.redact(output)}: there is no run here; label first")
    return recorded


def make_record(
    *,
    identity: Identity,
    config: Mapping[str, Any],
    classes: Sequence[ClassLabel],
    units: int,
    images: int,
    images_sha256: str | None = None,
    rematched_from: str | None = None,
    boxes: Mapping[str, Any] | None = None,
) -> RunRecord:
    """The record of a new run.

    Args:
        identity: everything that can change labels.
        config: the resolved config, without secrets.
        classes: the classes of the bank, by rising category id.
        units: number of work units.
        images: number of images.
        images_sha256: SHA-256 of the table or COCO file that lists them, if one does.
        rematched_from: the output whose proposals the labels are made of, without secrets.
        boxes: what became of the boxes of a detector, if SAM2 is asked with any.
    """
    own: dict[str, Any] = {} if rematched_from is None else {"rematched_from": rematched_from}
    if boxes is not None:
        own["boxes"] = dict(boxes)
    return RunRecord(
        format_version=FORMAT_VERSION,
        labels_hash=identity.digest(),
        identity=identity,
        classes=tuple(RecordedClass(id=c.category_id, name=c.name) for c in classes),
        plan=RecordedPlan(units=units, images=images),
        versions=installed_versions(),
        config=dict(config),
        git_revision=_git_revision(),
        images_sha256=images_sha256,
        **own,
    )


def read_record(output: str, store: Storage) -> RunRecord | None:
    """The record of a run, or None where there is none.

    Raises:
        InputError: there is one that cannot be read; every problem is named by its dotted path.
    """
    uri = storage.join(output, RECORD_FILE)
    try:
        return RunRecord.model_validate_json(store.read_bytes(uri))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        found = {".".join(map(str, item["loc"])): str(item["msg"]) for item in error.errors()}
    where = storage.redact(uri)
    if "" in found:
        text = f"not a run record ({found['']}). Restore it, or choose another output"
        raise InputError(f"{where}: {text}")
    if "format_version" in found:
        raise InputError(f"{where}: not a run record of format {FORMAT_VERSION}")
    problems = "; ".join(f"{path}: {text[:1].lower()}{text[1:]}" for path, text in found.items())
    raise InputError(
        f"{where}: a damaged run record: {problems}. Restore it, or choose another output"
    )


def write_record(output: str, record: RunRecord, store: Storage) -> None:
    """Publish the record of a new run."""
    text = json.dumps(record.plain(), indent=1, sort_keys=True) + "\n"
    store.publish_bytes(storage.join(output, RECORD_FILE), text.encode())


def check_same_run(record: RunRecord, identity: Identity, output: str) -> None:
    """Refuse to go on with other settings than the run was started with.

    Raises:
        OutputMismatchError: with every difference, by dotted path.
    """
    found = differences(record.identity.plain(), identity.plain())
    if found:
        raise mismatch(output, found)


def mismatch(output: str, found: Sequence[str]) -> OutputMismatchError:
    """The error that an output holds a run with other settings, and which they are."""
    return OutputMismatchError(
        f"{storage.redact(output)} holds a run with other settings; choose another output, or "
        "restore the settings:",
        found,
    )


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What differs between two trees of plain data, by dotted path."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        inner = [(f"{path}.{key}" if path else key, old.get(key), new.get(key)) for key in keys]
        return [line for where, a, b in inner for line in differences(a, b, where)]
    return [] if old == new else [f"{path}: {old!r} there, {new!r} here"]


def installed_versions() -> dict[str, str]:
    """By name the versions of Python and of the packages that labels come from, in this process."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_revision() -> str | None:
    """Revision of the checkout the package runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
