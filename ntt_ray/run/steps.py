"""Labelling some images of a unit at once: decoded images in, rows out.

Images go through the models in steps of a fixed number of places. A place whose image cannot be
decoded is filled with black, so that what one image gets never depends on its neighbours. It does
not know the journal.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ntt_ray.errors import ImageError, LabelError, NttRayError, SickDeviceError
from ntt_ray.images import RgbImage
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.options.boxes import NO_BOXES
from ntt_ray.method.tiling import TiledLabeler
from ntt_ray.proposals.keeping import Keeper
from ntt_ray.proposals.kept import ImageProposals
from ntt_ray.records import FetchedImage, ImageBoxes, ImageLabels
from ntt_ray.run.decoding import Decoded

logger = logging.getLogger(__name__)

# a lack of GPU memory that torch does not raise as its own error: that of the libraries it calls
_OUT_OF_MEMORY = re.compile(
    "CUDA.*out of memory|CU[A-Z]+_STATUS_(INTERNAL_ERROR_DEVICE_)?ALLOC(ATION)?_FAILED"
)
_DEVICE_ERROR = re.compile(
    "CUDA error|CUDA driver|cuDNN error|CU(BLAS|DNN)_STATUS|uncorrectable ECC"
)


AnyLabeler = Labeler | TiledLabeler | Keeper
Row = ImageLabels | ImageProposals


class Unit(NamedTuple):
    """A unit at work.

    Attributes:
        shard_id: its number.
        images: its images, which the rest knows by their positions here.
        boxes: what a detector found in the images, by image id; None where nothing is asked with
            boxes.
    """

    shard_id: int
    images: Sequence[FetchedImage]
    boxes: Mapping[int, ImageBoxes] | None = None


@dataclass(frozen=True)
class Begun:
    """A step whose masks are found, and whose RLE strings are being made.

    Attributes:
        places: positions of its images.
        failed: why an image failed, by its position in the unit.
        found: what was decoded, without its pixels, and what will be the detections, or the
            proposals, by position in the unit.
    """

    places: Sequence[int]
    failed: Mapping[int, ImageError]
    found: Mapping[int, tuple[Decoded, Future[Any]]]


class StepLabeler:
    """Labels steps with one labeller.

    Attributes:
        images_per_step: how many places a step has; fewer after the GPU ran out of memory.
        failed: makes the row of an image that failed.
    """

    def __init__(self, labeler: AnyLabeler, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self._labeler = labeler
        kept = isinstance(labeler, Keeper)
        self._row: Callable[..., Row] = ImageProposals.kept if kept else ImageLabels.labelled
        self.failed: Callable[..., Row] = ImageProposals.failed if kept else ImageLabels.failed

    def begin(self, unit: Unit, step: Mapping[int, Future[Decoded]]) -> Begun:
        """Wait until the images of a step are decoded, and do the device's part.

        Args:
            unit: where the images are from.
            step: at most `images_per_step` images by their position.

        Raises:
            LabelError: the method failed; the unit and the images are named.
            SickDeviceError: likewise, because of the device.
            torch.OutOfMemoryError: the device has too little memory; see `shrink`.
        """
        decoded = {position: _image(future) for position, future in step.items()}
        failed = {p: found for p, found in decoded.items() if isinstance(found, ImageError)}
        good = {p: found for p, found in decoded.items() if not isinstance(found, ImageError)}
        if not good:
            return Begun(tuple(step), failed, {})
        inputs = self._inputs(list(step), good)
        sizes = [good[p].size_hw if p in good else None for p in step]
        try:
            begun: Sequence[Future[Any]] = self._begun(unit, inputs, step, sizes)
            found = dict(zip(step, begun, strict=True))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if _OUT_OF_MEMORY.search(str(error)):
                raise torch.OutOfMemoryError(str(error)) from error
            raise _named(unit, good, error) from error
        none = np.zeros((0, 0, 3), dtype=np.uint8)
        kept = {
            p: (image._replace(pixels=none, notes=image.notes + _beside(unit, p, image)), found[p])
            for p, image in good.items()
        }
        return Begun(tuple(step), failed, kept)

    def _begun(
        self,
        unit: Unit,
        inputs: Sequence[RgbImage],
        step: Iterable[int],
        sizes: Sequence[tuple[int, int] | None],
    ) -> Sequence[Future[Any]]:
        """Do the device's part, with the boxes of each image where the unit has boxes."""
        if unit.boxes is None:
            return self._labeler.begin(inputs, sizes)
        assert isinstance(self._labeler, Labeler), "only a labeller of whole images takes boxes"
        boxes = [
            None if size is None else _boxes_of(unit, p).on_image(size)
            for p, size in zip(step, sizes, strict=True)
        ]
        return self._labeler.begin(inputs, sizes, boxes)

    def rows(self, unit: Unit, begun: Begun) -> dict[int, Row]:
        """Wait for the rows of a step, by the positions of their images; raises as `begin` does."""
        rows = {
            p: self.failed(unit.images[p].entry, str(error), error.failure)
            for p, error in begun.failed.items()
        }
        for position, (decoded, found) in begun.found.items():
            try:
                rows[position] = self._row(
                    unit.images[position].entry, decoded.size_hw, found.result(), decoded.notes
                )
            except Exception as error:
                raise _named(unit, [position], error) from error
        return rows

    def shrink(self, unit: Unit, error: torch.OutOfMemoryError) -> None:
        """Halve the proposer's steps, then the images of a step, and stay there.

        Raises:
            LabelError: there is nothing left to halve.
        """
        if self._labeler.proposer.halve_step():
            smaller = "half as much at once in the proposer"
        elif self.images_per_step > 1:
            self.images_per_step //= 2
            smaller = f"{self.images_per_step} images per step"
        else:
            raise LabelError(
                f"unit {unit.shard_id}: out of GPU memory at the smallest step"
            ) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of GPU memory: going on with %s", smaller)

    def _inputs(self, places: Sequence[int], good: dict[int, Decoded]) -> list[RgbImage]:
        side = self._labeler.proposer.image_size
        black = np.zeros((side, side, 3), dtype=np.uint8)
        filled = [good[p].pixels if p in good else black for p in places]
        return filled + [black] * (self.images_per_step - len(filled))


def _boxes_of(unit: Unit, position: int) -> ImageBoxes:
    return (unit.boxes or {}).get(unit.images[position].entry.image_id, NO_BOXES)


def _beside(unit: Unit, position: int, image: Decoded) -> tuple[str, ...]:
    """A note where boxes of an image do not lie on it."""
    boxes = _boxes_of(unit, position)
    return ("beside_boxes",) if len(boxes.on_image(image.size_hw)) < len(boxes) else ()


def _named(unit: Unit, positions: Iterable[int], error: Exception) -> NttRayError:
    """The error with its unit and images; of another kind where the device failed."""
    names = ", ".join(unit.images[position].entry.file_name for position in positions)
    kind = SickDeviceError if _DEVICE_ERROR.search(str(error)) else LabelError
    return kind(f"unit {unit.shard_id}, image {names}: {type(error).__name__}: {error}")


def _image(future: Future[Decoded]) -> Decoded | ImageError:
    try:
        return future.result()
    except ImageError as error:
        return error
