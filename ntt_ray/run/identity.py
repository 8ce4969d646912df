"""The identity of a run: from its config, and from what only its files tell.

What may change labels goes in, and nothing else; `record` compares two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.local_manifest import Source
from ntt_ray.run.record import Identity, RunRecord


@dataclass(frozen=True)
class Found:
    """What of an identity stands in no config.

    Attributes:
        bank: SHA-256 of the memory bank.
        digests: SHA-256 of the models' files, as `CheckedModels` has them.
        precision: what both models compute in.
        device: where they compute.
        boxes: SHA-256 of the file of boxes; None where SAM2 is not asked with boxes.
    """

    bank: str
    digests: Mapping[str, str]
    precision: str
    device: str
    boxes: str | None = None

    @classmethod
    def as_recorded(cls, recorded: RunRecord) -> Found:
        """What the run that is there found."""
        plain = recorded.identity.plain()
        models = plain["models"]
        digests = {name: models[name]["checkpoint"] for name in ("encoder", "proposer")}
        config = models["proposer"].get("config")
        digests |= {} if config is None else {"proposer_config": config}
        known = (models.get("precision", "fp32"), models.get("device", "cpu"))
        return cls(plain["bank"], digests, *known)


def models_content(config: Config, found: Found) -> dict[str, Any]:
    """What an identity says of both models, as plain data."""
    encoder, proposer = config.models.encoder, config.models.proposer
    digests = found.digests
    return {
        "encoder": {
            "name": encoder.name,
            "image_size": encoder.image_size,
            "checkpoint": digests["encoder"],
            "architecture": encoder.architecture and encoder.architecture.model_dump(),
            **encoder.options(),
        },
        "proposer": {
            "name": proposer.name,
            "image_size": proposer.image_size,
            "checkpoint": digests["proposer"],
            "config": digests.get("proposer_config"),
        },
        "precision": found.precision,
        "compile": config.models.compile,
        "device": found.device,
    }


def proposals_content(config: Config) -> dict[str, Any]:
    """What an identity says of how proposals are kept, as plain data."""
    return config.proposals.model_dump(mode="json", include={"keep", "max_iou"})


def labelling_content(config: Config, found: Found) -> dict[str, Any]:
    """What an identity says of how pixels become labels, as plain data."""
    return {
        "models": models_content(config, found),
        # options that are off are no part of it: they were none when older runs began
        "decode": {
            "orientation": config.decode.orientation,
            "max_pixels": config.decode.max_pixels,
            **config.decode.model_dump(
                mode="json", include={"sixteen_bit", "background"}, exclude_defaults=True
            ),
        },
        "method": config.method.named(),
    }


def scores_content(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of an identity as plain data, what the scores of detections depend on, but for the bank.

    Images are no part of it, nor is what changes their last digits alone, as the device.
    """
    models = {name: identity["models"][name] for name in ("encoder", "proposer")}
    # the oldest records say nothing of decoding
    found = {
        "models": models,
        "decode": identity.get("decode", {}),
        "method": identity["method"],
    }
    # how proposals are kept changes nothing; which boxes SAM2 is asked with does
    asked = {
        key: value
        for key, value in identity.get("proposals", {}).items()
        if key in ("grid", "boxes")
    }
    return found | ({"proposals": asked} if asked else {})


def identity_of(config: Config, manifest: Source, found: Found) -> Identity:
    """The identity of a run, from its config, its manifest file, and what only its files tell."""
    content: dict[str, Any] = {
        "images": storage.redact(config.images),
        "image_root": config.image_root and storage.redact(config.image_root),
        "manifest": manifest_file.manifest_digest(manifest),
        "bank": found.bank,
        **labelling_content(config, found),
        "job": {"images_per_unit": config.job.images_per_unit},
    }
    if config.proposals.keep:
        content["proposals"] = proposals_content(config)
        if config.proposals.embeddings:
            content["proposals"]["embeddings"] = True
    if (boxes := config.proposals.boxes) is not None:
        asked = boxes.model_dump(mode="json", exclude={"uri"}, exclude_none=True)
        content["proposals"] = {
            "grid": config.proposals.grid,
            "boxes": {"sha256": found.boxes, **asked},
        }
    if columns := config.columns.model_dump(mode="json", exclude_defaults=True):
        content["columns"] = columns
    return Identity.model_validate(content)


def with_unit_images(config: Config, manifest: Source, recorded: RunRecord | None) -> Config:
    """The config with a number for ``auto``: as the run began, or as its manifest will say."""
    if config.job.images_per_unit != "auto":
        return config
    found = recorded and recorded_unit_images(recorded)
    per_unit = found or manifest_file.recorded_unit_images(manifest)
    job = config.job.model_copy(update={"images_per_unit": per_unit})
    return config.model_copy(update={"job": job})


def recorded_unit_images(recorded: RunRecord) -> int | None:
    """The images of a unit as a run began with them; None where its record does not say."""
    found = recorded.identity.plain().get("job", {}).get("images_per_unit")
    return found if isinstance(found, int) else None


def recorded_unit_bytes(recorded: RunRecord) -> int | None:
    """The bytes of a unit's images as a run began with them; None where they had no bound."""
    found = recorded.config.get("job", {}).get("unit_mb")
    return found << 20 if isinstance(found, int) else None
