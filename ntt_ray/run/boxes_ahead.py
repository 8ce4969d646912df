"""The boxes of a run before Ray is started: read, matched with its images, and what came of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.box_file import BoxesOf, box_file, is_there
from ntt_ray.run.layout import BOXES_FILE
from ntt_ray.run.local_manifest import ManifestFile
from ntt_ray.run.record import RunRecord
from ntt_ray.sources.boxes import BoxCounts, ImageColumn, boxes_digest, placed_boxes
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Boxes:
    """The boxes of a run.

    Attributes:
        sha256: SHA-256 of the file that they are from, in hex.
        file: what will be the file of the output; None where that is there.
        counts: what became of them; None where they were not read again.
    """

    sha256: str
    file: ManifestFile | None = None
    counts: BoxCounts | None = None

    def recorded(self) -> dict[str, Any] | None:
        """What the record of a new run says of them."""
        return None if self.counts is None else asdict(self.counts)

    def publish(self, output: str, store: Storage) -> None:
        """Write the file of the output, where it is not there."""
        if self.file is not None:
            store.publish_stream(storage.join(output, BOXES_FILE), self.file.chunks())


def check_boxes(
    config: Config, store: Storage, manifest: ManifestFile, recorded: RunRecord | None
) -> Boxes | None:
    """Read the boxes that a config names, unless the run that is there has them already.

    Args:
        config: the run.
        store: access to files.
        manifest: the images of the run.
        recorded: the record of the run; None where none was begun.

    Returns:
        None where SAM2 is not asked with boxes.

    Raises:
        InputError: the file is missing, a box is malformed, or none belongs to an image.
    """
    asked = config.proposals.boxes
    if asked is None:
        return None
    digest = boxes_digest(asked.uri, store)
    made_of = BoxesOf(digest, asked.per_image, manifest.sha256)
    if recorded is not None:
        if recorded_boxes(recorded) != (digest, asked.per_image):
            return Boxes(digest)  # the run that is there has others: it is refused
        if is_there(config.output, made_of, store):
            return Boxes(digest)
        logger.warning("%s was missing or another one, and is written again", BOXES_FILE)
    known: dict[ImageColumn, pa.ChunkedArray] = {
        "file_name": manifest_file.column(manifest, "file_name")
    }
    if config.images.lower().endswith(".json"):  # whose ids are the user's
        known["image_id"] = manifest_file.column(manifest, "image_id")
    placed = placed_boxes(asked.uri, store, known, asked.per_image)
    if asked.score_power is not None and not placed.has_scores:
        raise InputError(
            f"proposals.boxes: {storage.redact(asked.uri)}: its boxes have no scores, which "
            "proposals.boxes.score_power asks for; set that to null"
        )
    _say(placed.counts)
    return Boxes(digest, box_file(placed, manifest, made_of), placed.counts)


def recorded_boxes(recorded: RunRecord) -> tuple[str, int] | None:
    """SHA-256 of the file that the boxes of a run are from, and how many an image has at most."""
    proposals: Mapping[str, Any] = recorded.identity.plain().get("proposals", {})
    found = proposals.get("boxes")
    return None if found is None else (str(found["sha256"]), int(found["per_image"]))


def _say(counts: BoxCounts) -> None:
    logger.info(
        "boxes: %d of %d will be asked, in %d images", counts.used, counts.boxes, counts.images
    )
    if counts.over:
        logger.info("boxes: %d are left out by proposals.boxes.per_image", counts.over)
    if counts.empty:
        logger.warning("boxes: %d are left out, for they have no width or height", counts.empty)
    if counts.images_without:
        logger.warning(
            "boxes: %d images have none (%s)",
            *(counts.images_without, _named(counts.without, counts.images_without)),
        )
    if counts.elsewhere:
        logger.warning(
            "boxes: %d belong to images that are not in the run (%s)",
            *(counts.elsewhere, ", ".join(counts.others)),
        )


def _named(names: Sequence[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > len(names) else "")
