"""Labelling the images of one unit: noted and decoded ahead, in steps, one row per image.

It knows the journal and the labeller; it does not know Ray. Units may come in several threads: each
is taken up as it comes, and one thread labels them, one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from ntt_ray.errors import (
    AccessError,
    GivenBackError,
    ImageError,
    LabelError,
    SickDeviceError,
)
from ntt_ray.records import FetchedImage, ImageBoxes, ImageEntry
from ntt_ray.run.decoding import Decoded, DecoderPool
from ntt_ray.run.hang_watch import HangWatch
from ntt_ray.run.job import LabelledUnit
from ntt_ray.run.journal import UnitJournal
from ntt_ray.run.steps import AnyLabeler, Begun, Row, StepLabeler, Unit
from ntt_ray.run.turns import Turns
from ntt_ray.run.work_ahead import WorkAhead
from ntt_ray.settings import DecodeSettings
from ntt_ray.storage import Storage

JOURNAL_STEP = 32  # images of a group; while one is labelled, the next is in work too
WHOLE_IMAGES_STEP = 2  # the same where images are kept at their own size, and take memory
MAX_LOST = 8  # workers that may die over a unit, for no reason that is seen
MAX_SICK_DEVICES = 3  # workers that a unit may leave with a GPU they cannot use

_Decoding = dict[int, Future[Decoded]]  # by position in the unit


class UnitLabeler:
    """Labels units with one labeller."""

    def __init__(
        self,
        labeler: AnyLabeler,
        output: str,
        run_token: str,
        store: Storage,
        *,
        images_per_step: int = 1,
        decoders: int = 1,
        decode: DecodeSettings | None = None,
        hang_s: float = 300.0,
        device: str = "cpu",
        labelling: ThreadPoolExecutor | None = None,
        read: Callable[[Sequence[ImageEntry]], list[FetchedImage]] | None = None,
        boxes: Callable[[int], Mapping[int, ImageBoxes]] | None = None,
    ) -> None:
        self._labeler, self._steps = labeler, StepLabeler(labeler, images_per_step)
        self._output, self._token, self._store = output, run_token, store
        self._watch, self._device = HangWatch(hang_s), device
        side = None if labeler.takes_whole_images else labeler.proposer.image_size
        self._decoders = DecoderPool(decoders, side, decode or DecodeSettings())
        self._read = read  # images that come unread
        self._boxes = boxes  # of a unit, by image id
        self._turns, self._journals = Turns(), set[UnitJournal]()
        self._noting = ThreadPoolExecutor(2, "note")
        # One thread, because CUDA graphs belong to the thread that recorded them: that which loaded
        # the models, if it is given. Else it takes over how many threads torch may use, which is a
        # matter of each thread.
        threads = (torch.get_num_threads(),)
        own = labelling or ThreadPoolExecutor(1, "label", torch.set_num_threads, threads)
        self._labelling = own

    @property
    def images_per_step(self) -> int:
        """How many images go through the models at once; fewer after the GPU ran out of memory."""
        return self._steps.images_per_step

    def label(self, shard_id: int, images: Sequence[FetchedImage]) -> LabelledUnit:
        """Label the images of a unit; every image gives exactly one row, in order.

        A unit that comes while another is labelled waits for its turn; its first images are decoded
        meanwhile.

        Raises:
            LabelError: the method failed; the unit and the images are named.
            SickDeviceError: the GPU cannot be used any more; the process should end.
            GivenBackError: GPUs failed, or workers died over this unit again and again.
            StorageError: the notes on the unit cannot be written, or its boxes cannot be read.
        """
        boxes = None if self._boxes is None else self._boxes(shard_id)
        journal = UnitJournal(self._output, shard_id, self._token, self._store)
        journal.open()
        _check_losses(journal)
        with self._turns.in_work(alone=journal.lost > 0):
            self._journals.add(journal)
            try:
                return self._label(Unit(shard_id, images, boxes), journal)
            finally:
                self._journals.discard(journal)

    def warm_up(self) -> None:
        """Label one full step of noise, so that compiling does not count as labelling."""
        side = self._labeler.proposer.image_size
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        step = [noise] * self.images_per_step
        begin: Callable[..., Sequence[Future[Any]]] = self._labeler.begin
        (found,) = self._labelling.submit(begin, step, [(side, side)]).result()
        found.result()
        self._labeler.take_work()

    def _label(self, unit: Unit, journal: UnitJournal) -> LabelledUnit:
        """Take up the unit, wait for its turn, and add the rows of condemned images."""
        condemned = journal.condemned()
        todo = [position for position in range(len(unit.images)) if position not in condemned]
        size = WHOLE_IMAGES_STEP if self._labeler.takes_whole_images else JOURNAL_STEP

        def decode(group: Sequence[int]) -> _Decoding:
            images = {position: unit.images[position] for position in group}
            return {p: self._decode(image) for p, image in self._all_read(images).items()}

        work = WorkAhead(journal, journal.groups(todo, size), decode, self._noting)
        work.look_ahead()
        try:
            return self._labelling.submit(self._turn, unit, work, condemned).result()
        finally:
            work.close()

    def _turn(self, unit: Unit, work: WorkAhead[_Decoding], condemned: set[int]) -> LabelledUnit:
        begun_at, started = time.time(), time.perf_counter()
        self._labeler.take_work()  # of a unit that failed
        try:
            rows = self._rows(unit, work)
        except SickDeviceError:
            for journal in list(self._journals):  # of whatever else is taken up, too
                journal.blame_device(self._device)
            raise
        why = "ended the worker process twice, alone in it"
        for position in condemned:
            rows[position] = self._steps.failed(unit.images[position].entry, why, "worker")
        if len(rows) != len(unit.images):
            raise LabelError(
                f"unit {unit.shard_id}: {len(rows)} rows for {len(unit.images)} images"
            )
        in_order = [rows[position] for position in range(len(rows))]
        label_s = time.perf_counter() - started
        return LabelledUnit(in_order, begun_at, label_s, self._labeler.take_work())

    def _rows(self, unit: Unit, work: WorkAhead[_Decoding]) -> dict[int, Row]:
        """Label group after group; the rows of a step are made while the next is computed."""
        rows: dict[int, Row] = {}
        last: Begun | None = None
        for decoding in work.groups():
            work.look_ahead(last.places if last else ())
            with self._watch.watching():
                while decoding:
                    begun = self._begin(unit, decoding)
                    rows |= self._steps.rows(unit, last) if last else {}
                    last = begun
                    self._watch.finished(len(begun.places))
                if not work.is_ahead:
                    assert last is not None
                    rows |= self._steps.rows(unit, last)
                    last = None
        return rows

    def _begin(self, unit: Unit, decoding: _Decoding) -> Begun:
        """Do the first step of what is left of a group, and take it away."""
        while True:
            step = dict(list(decoding.items())[: self.images_per_step])
            try:
                begun = self._steps.begin(unit, step)
            except torch.OutOfMemoryError as error:
                self._steps.shrink(unit, error)
                continue
            for position in step:
                del decoding[position]
            return begun

    def _all_read(self, images: dict[int, FetchedImage]) -> dict[int, FetchedImage]:
        """Images by their position, and none of them unread."""
        unread = [position for position, image in images.items() if image.is_unread]
        if not unread or self._read is None:
            return images
        read = self._read([images[position].entry for position in unread])
        return {**images, **dict(zip(unread, read, strict=True))}

    def _decode(self, image: FetchedImage) -> Future[Decoded]:
        """The image as the labeller takes it, and its own size, as soon as it is decoded."""
        if image.data is not None:
            return self._decoders.submit(image.data)
        missing: Future[Decoded] = Future()
        kind = ImageError if image.final else AccessError
        missing.set_exception(kind(image.error or "not fetched"))
        return missing


def _check_losses(journal: UnitJournal) -> None:
    if len(journal.devices) >= MAX_SICK_DEVICES:
        devices = ", ".join(dict.fromkeys(journal.devices))
        raise GivenBackError(f"GPUs failed over it {len(journal.devices)} times: {devices}")
    if journal.unexplained() >= MAX_LOST:
        raise GivenBackError(
            f"{journal.lost} workers died over it, and no image is to blame: a lack of memory, "
            "or machines that are taken away"
        )
