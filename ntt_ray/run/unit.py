"""Labelling the images of one unit: decoded ahead elsewhere, in steps, one row per image.

It knows the journal and the labeller; it does not know Ray.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch

from ntt_ray.errors import (
    AccessError,
    GivenBackError,
    ImageError,
    LabelError,
    NttRayError,
    SickDeviceError,
)
from ntt_ray.images import RgbImage
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.tiling import TiledLabeler
from ntt_ray.records import Detection, FetchedImage, ImageLabels, PromptWork
from ntt_ray.run.decoding import Decoded, DecoderPool
from ntt_ray.run.hang_watch import HangWatch
from ntt_ray.run.journal import UnitJournal
from ntt_ray.settings import DecodeSettings
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

JOURNAL_STEP = 32  # images noted at once before they are taken up
WHOLE_IMAGES_STEP = 4  # the same where images are kept at their own size
MAX_LOST = 8  # workers that may die over a unit, for no reason that is seen
MAX_SICK_DEVICES = 3  # workers that a unit may leave with a GPU they cannot use
# a lack of GPU memory that torch does not raise as its own error: that of the libraries it calls
_OUT_OF_MEMORY = re.compile(
    "CUDA.*out of memory|CU[A-Z]+_STATUS_(INTERNAL_ERROR_DEVICE_)?ALLOC(ATION)?_FAILED"
)
_DEVICE_ERROR = re.compile(
    "CUDA error|CUDA driver|cuDNN error|CU(BLAS|DNN)_STATUS|uncorrectable ECC"
)


@dataclass(frozen=True)
class _Begun:
    """A step whose masks are found, and whose RLE strings are being made.

    Attributes:
        failed: why an image failed, by its position in the unit.
        found: what was decoded, without its pixels, and what will be the detections, by position in
            the unit.
    """

    failed: Mapping[int, ImageError]
    found: Mapping[int, tuple[Decoded, Future[tuple[Detection, ...]]]]


class UnitLabeler:
    """Labels units with one labeller.

    Images go through the models in steps of a fixed number of places. A place whose image cannot
    be decoded is filled with black, so that what one image gets never depends on its neighbours.
    """

    def __init__(
        self,
        labeler: Labeler | TiledLabeler,
        output: str,
        run_token: str,
        store: Storage,
        *,
        images_per_step: int = 1,
        decoders: int = 1,
        decode: DecodeSettings | None = None,
        hang_s: float = 300.0,
        device: str = "cpu",
    ) -> None:
        self.images_per_step = images_per_step  # fewer after the GPU ran out of memory
        self._labeler = labeler
        self._output, self._token, self._store = output, run_token, store
        self._watch, self._device = HangWatch(hang_s), device
        side = None if labeler.takes_whole_images else labeler.proposer.image_size
        self._decoders = DecoderPool(decoders, side, decode or DecodeSettings())

    def label(self, shard_id: int, images: Sequence[FetchedImage]) -> list[ImageLabels]:
        """Label the images of a unit; every image gives exactly one row, in order.

        Raises:
            LabelError: the method failed; the unit and the images are named.
            SickDeviceError: the GPU cannot be used any more; the process should end.
            GivenBackError: GPUs failed, or workers died over this unit again and again.
            StorageError: the notes on the unit cannot be written.
        """
        journal = UnitJournal(self._output, shard_id, self._token, self._store)
        journal.open()
        if len(journal.devices) >= MAX_SICK_DEVICES:
            devices = ", ".join(dict.fromkeys(journal.devices))
            raise GivenBackError(f"GPUs failed over it {len(journal.devices)} times: {devices}")
        if journal.unexplained() >= MAX_LOST:
            raise GivenBackError(
                f"{journal.lost} workers died over it, and no image is to blame: a lack of memory, "
                "or machines that are taken away"
            )
        condemned = journal.condemned()
        why = "ended the worker process twice, alone in it"
        rows = {p: ImageLabels.failed(images[p].entry, why, "worker") for p in condemned}
        todo = [position for position in range(len(images)) if position not in condemned]
        noted = WHOLE_IMAGES_STEP if self._labeler.takes_whole_images else JOURNAL_STEP
        for group in journal.steps(todo, noted):
            try:
                with self._watch.watching():
                    rows |= self._label_group(shard_id, images, group)
            except SickDeviceError:
                journal.blame_device(self._device)
                raise
        if len(rows) != len(images):
            raise LabelError(f"unit {shard_id}: {len(rows)} rows for {len(images)} images")
        return [rows[position] for position in range(len(images))]

    def warm_up(self) -> None:
        """Label one full step of noise, so that compiling does not count as labelling."""
        side = self._labeler.proposer.image_size
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        (found,) = self._labeler.begin([noise] * self.images_per_step, [(side, side)])
        found.result()
        self.take_work()

    def take_work(self) -> PromptWork:
        """See `Labeler.take_work`."""
        return self._labeler.take_work()

    def _label_group(
        self, shard_id: int, images: Sequence[FetchedImage], group: Sequence[int]
    ) -> dict[int, ImageLabels]:
        """Label images that are noted in the journal; the next are decoded meanwhile."""
        decoded = {p: self._decode(images[p]) for p in group}
        rows: dict[int, ImageLabels] = {}
        begun: list[_Begun] = []
        start = 0
        while start < len(group):
            places = group[start : start + self.images_per_step]
            step = {position: _image(decoded[position]) for position in places}
            try:
                begun.append(self._begin_step(shard_id, images, step))
            except torch.OutOfMemoryError as error:
                self._shrink(shard_id, error)
                continue
            if len(begun) > 1:  # its RLE strings were made while this step was computed
                rows |= self._rows(shard_id, images, begun.pop(0))
            for position in places:
                del decoded[position]
            start += len(places)
            self._watch.finished(len(places))
        return rows | self._rows(shard_id, images, begun.pop())

    def _shrink(self, shard_id: int, error: torch.OutOfMemoryError) -> None:
        """Halve the proposer's steps, then the images of a step, and stay there."""
        if self._labeler.proposer.halve_step():
            smaller = "half as much at once in the proposer"
        elif self.images_per_step > 1:
            self.images_per_step //= 2
            smaller = f"{self.images_per_step} images per step"
        else:
            raise LabelError(f"unit {shard_id}: out of GPU memory at the smallest step") from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of GPU memory: going on with %s", smaller)

    def _begin_step(
        self, shard_id: int, images: Sequence[FetchedImage], step: dict[int, Decoded | ImageError]
    ) -> _Begun:
        failed = {p: found for p, found in step.items() if isinstance(found, ImageError)}
        good = {p: found for p, found in step.items() if not isinstance(found, ImageError)}
        if not good:
            return _Begun(failed, {})
        inputs = self._inputs(list(step), good)
        sizes = [good[p].size_hw if p in good else None for p in step]
        try:
            found = dict(zip(step, self._labeler.begin(inputs, sizes), strict=True))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if _OUT_OF_MEMORY.search(str(error)):
                raise torch.OutOfMemoryError(str(error)) from error
            raise _named(shard_id, [images[p] for p in good], error) from error
        none = np.zeros((0, 0, 3), dtype=np.uint8)
        kept = {p: (image._replace(pixels=none), found[p]) for p, image in good.items()}
        return _Begun(failed, kept)

    def _rows(
        self, shard_id: int, images: Sequence[FetchedImage], begun: _Begun
    ) -> dict[int, ImageLabels]:
        rows = {
            p: ImageLabels.failed(images[p].entry, str(error), error.failure)
            for p, error in begun.failed.items()
        }
        for position, (decoded, found) in begun.found.items():
            image = images[position]
            try:
                rows[position] = ImageLabels.labelled(
                    image.entry, decoded.size_hw, found.result(), decoded.notes
                )
            except Exception as error:
                raise _named(shard_id, [image], error) from error
        return rows

    def _inputs(self, places: Sequence[int], good: dict[int, Decoded]) -> list[RgbImage]:
        side = self._labeler.proposer.image_size
        black = np.zeros((side, side, 3), dtype=np.uint8)
        filled = [good[p].pixels if p in good else black for p in places]
        return filled + [black] * (self.images_per_step - len(filled))

    def _decode(self, image: FetchedImage) -> Future[Decoded]:
        """The image as the labeller takes it, and its own size, as soon as it is decoded."""
        if image.data is not None:
            return self._decoders.submit(image.data)
        missing: Future[Decoded] = Future()
        missing.set_exception(AccessError(image.error or "not fetched"))
        return missing


def _named(shard_id: int, images: Sequence[FetchedImage], error: Exception) -> NttRayError:
    """The error with its unit and images; of another kind where the device failed."""
    names = ", ".join(image.entry.file_name for image in images)
    kind = SickDeviceError if _DEVICE_ERROR.search(str(error)) else LabelError
    return kind(f"unit {shard_id}, image {names}: {type(error).__name__}: {error}")


def _image(future: Future[Decoded]) -> Decoded | ImageError:
    try:
        return future.result()
    except ImageError as error:
        return error
