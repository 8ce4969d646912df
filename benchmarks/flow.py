"""How busy the device is kept, where the models, the decoders and the store only sleep.

    python -m benchmarks.flow                     # as an actor of Ray labels: two units at a time
    python -m benchmarks.flow --units-at-once 1   # one after the other

Units, groups, steps, journal and threads are the real ones. Sleeping costs no CPU, so what is lost
is lost by waiting for each other, not by a lack of cores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.sleeping_models import SIDE
from ntt_ray.records import Detection, FetchedImage, ImageEntry, PromptWork
from ntt_ray.run.actor import IMAGES_PER_GPU_STEP
from ntt_ray.run.decoding import Decoded
from ntt_ray.run.unit import UnitLabeler
from ntt_ray.storage import Storage

IMAGES_PER_STEP = IMAGES_PER_GPU_STEP


class Naps(NamedTuple):
    """Seconds that each part takes: labelling, decoding and encoding an image, asking the store."""

    label_s: float
    decode_s: float
    encode_s: float
    store_s: float


class SleepingStore(Storage):
    """Holds nothing, and takes its time for each request."""

    store_s = 0.0

    def read_bytes(self, uri: str) -> bytes:
        """There is no such object."""
        time.sleep(self.store_s)
        raise FileNotFoundError(uri)

    def publish_bytes(self, uri: str, data: bytes) -> None:
        """Forget it."""
        time.sleep(self.store_s)


class SleepingDecoders:
    """As many decoders as a `DecoderPool` has, which give black images."""

    def __init__(self, decoders: int, decode_s: float) -> None:
        self._threads, self._decode_s = ThreadPoolExecutor(decoders), decode_s

    def submit(self, data: bytes) -> Future[Decoded]:
        """Begin with an image as soon as a decoder is free."""
        return self._threads.submit(self._decode)

    def _decode(self) -> Decoded:
        time.sleep(self._decode_s)
        return Decoded(np.zeros((SIDE, SIDE, 3), np.uint8), (480, 640))


class _Proposer:
    image_size = SIDE


class SleepingLabeler:
    """A labeller without models.

    Attributes:
        spans: when its device began and ended each step, by `time.perf_counter`.
    """

    takes_whole_images = False
    proposer = _Proposer()

    def __init__(self, naps: Naps) -> None:
        self._naps, self._host = naps, ThreadPoolExecutor(1)
        self.spans: list[tuple[float, float]] = []

    def begin(
        self, inputs: Sequence[Any], sizes_hw: Sequence[tuple[int, int] | None]
    ) -> list[Future[tuple[Detection, ...]]]:
        """Sleep as long as the device would work on all places."""
        began = time.perf_counter()
        time.sleep(self._naps.label_s * len(inputs))
        self.spans.append((began, time.perf_counter()))
        return [self._host.submit(self._encode) for _ in sizes_hw]

    def _encode(self) -> tuple[Detection, ...]:
        time.sleep(self._naps.encode_s)
        return ()

    def take_work(self) -> PromptWork:
        """No points are chosen."""
        return PromptWork()


def busy(naps: Naps, *, decoders: int, units: int, images: int, at_once: int) -> dict[str, float]:
    """Label some units, so many of them at work at the same time, as Ray calls an actor.

    Returns:
        Share of the time for which the device worked: from the arrival of the first unit to the end
        of the last one, and from the first step to the last.
    """
    labeler, store = SleepingLabeler(naps), SleepingStore()
    object.__setattr__(store, "store_s", naps.store_s)
    labelling = UnitLabeler(labeler, "/none", "token", store, images_per_step=IMAGES_PER_STEP)  # type: ignore[arg-type]
    labelling._decoders = SleepingDecoders(decoders, naps.decode_s)  # type: ignore[assignment]
    unit = [FetchedImage(ImageEntry(n, "image", "image"), b"image", None) for n in range(images)]
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        for done in [threads.submit(labelling.label, n, unit) for n in range(units)]:
            assert len(done.result().rows) == images
    took_s = time.perf_counter() - started
    worked_s = sum(end - begin for begin, end in labeler.spans)
    steps_s = labeler.spans[-1][1] - labeler.spans[0][0]
    return {
        "ms_per_image": 1000 * took_s / (units * images),
        "busy": worked_s / took_s,
        "busy_between_steps": worked_s / steps_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, milliseconds in (("label", 7.0), ("decode", 13.5), ("encode", 3.0), ("store", 40.0)):
        parser.add_argument(f"--{name}-ms", type=float, default=milliseconds)
    parser.add_argument("--decoders", type=int, default=4)
    parser.add_argument("--units", type=int, default=4)
    parser.add_argument("--images", type=int, default=256, help="of each unit")
    parser.add_argument("--units-at-once", type=int, default=2)
    parser.add_argument("--slower", type=float, default=1.0, help="on a machine that is not quiet")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    each = (given.label_ms, given.decode_ms, given.encode_ms, given.store_ms)
    naps = Naps(*(given.slower * milliseconds / 1000 for milliseconds in each))
    found = busy(
        naps,
        decoders=given.decoders,
        units=given.units,
        images=given.images,
        at_once=given.units_at_once,
    )
    for name, value in found.items():
        print(f"{name}: {value:.3f}")
    if given.json is not None:
        given.json.write_text(json.dumps({**vars(given), **found}, indent=1, default=str))


if __name__ == "__main__":
    main()
