"""The run record ``run.json``: what a run was made of, and whether a second start may go on.

Only what can change labels is compared; see `differences`. No clocks in it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import InputError, OutputMismatchError
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import RECORD_FILE
from ntt_ray.storage import Storage

FORMAT_VERSION = 1
MAX_UNITS = 10_000_000  # more is no plan of ours
_FIELDS = {  # what this package reads of a record
    "labels_hash": str,
    "identity": dict,
    "identity.manifest": str,
    "identity.bank": str,
    "identity.models": dict,
    "identity.models.encoder.checkpoint": str,
    "identity.models.proposer.checkpoint": str,
    "identity.method": dict,
    "classes": list,
    "plan.units": int,
    "plan.images": int,
    "versions": dict,
}
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


def labels_hash(identity: Mapping[str, Any]) -> str:
    """SHA-256 over everything that can change labels, in hex."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def provenance(identity: Mapping[str, Any]) -> dict[str, str]:
    """What every shard of the run carries, so that one of another run is found."""
    models = identity["models"]
    return {
        "labels_hash": labels_hash(identity),
        "bank_digest": identity["bank"],
        "encoder_digest": models["encoder"]["checkpoint"],
        "proposer_digest": models["proposer"]["checkpoint"],
    }


def recorded_run(output: str, store: Storage) -> dict[str, Any]:
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
    identity: Mapping[str, Any],
    config: Mapping[str, Any],
    classes: tuple[ClassLabel, ...],
    units: int,
    images: int,
) -> dict[str, Any]:
    """The record of a new run.

    Args:
        identity: everything that can change labels, see `pipeline.run`.
        config: the resolved config, without secrets.
        classes: by rising category id.
        units: number of work units.
        images: number of images.
    """
    return {
        "format_version": FORMAT_VERSION,
        "labels_hash": labels_hash(identity),
        "identity": dict(identity),
        "classes": [{"id": label.category_id, "name": label.name} for label in classes],
        "plan": {"units": units, "images": images},
        "config": dict(config),
        "versions": _versions(),
        "git_revision": _git_revision(),
    }


def read_record(output: str, store: Storage) -> dict[str, Any] | None:
    """The record of a run, or None where there is none.

    Raises:
        InputError: there is one that cannot be read.
    """
    uri = storage.join(output, RECORD_FILE)
    try:
        record = json.loads(store.read_bytes(uri))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{storage.redact(uri)}: not a run record ({error})") from None
    if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{storage.redact(uri)}: not a run record of format {FORMAT_VERSION}")
    if problems := _damages(record):
        text = f"{storage.redact(uri)}: a damaged run record: {'; '.join(problems)}"
        raise InputError(f"{text}. Restore it, or choose another output")
    return record


def _damages(record: Mapping[str, Any]) -> list[str]:
    """Fields that are missing or of another type, by dotted path."""
    problems = []
    for path, kind in _FIELDS.items():
        value: Any = record
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) is not kind:
            problems.append(f"{path} is not {kind.__name__}")
    plan = record.get("plan")
    units = plan.get("units") if isinstance(plan, dict) else None
    if isinstance(units, int) and not 0 <= units <= MAX_UNITS:
        problems.append(f"plan.units is not in 0 to {MAX_UNITS}")
    classes = record.get("classes")
    for position, item in enumerate(classes if isinstance(classes, list) else ()):
        fields = item if isinstance(item, dict) else {}
        if type(fields.get("id")) is not int or not isinstance(fields.get("name"), str):
            problems.append(f"classes.{position} has no id and name")
    return problems


def write_record(output: str, record: Mapping[str, Any], store: Storage) -> None:
    """Publish the record of a new run."""
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    store.publish_bytes(storage.join(output, RECORD_FILE), text.encode())


def record_classes(record: Mapping[str, Any]) -> tuple[ClassLabel, ...]:
    """The classes in a record."""
    return tuple(ClassLabel(item["id"], item["name"]) for item in record["classes"])


def check_same_run(record: Mapping[str, Any], identity: Mapping[str, Any], output: str) -> None:
    """Refuse to go on with other settings than the run was started with.

    Raises:
        OutputMismatchError: with every difference, by dotted path.
    """
    found = differences(record.get("identity", {}), identity)
    if found:
        raise OutputMismatchError(
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


def _versions() -> dict[str, str]:
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
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
