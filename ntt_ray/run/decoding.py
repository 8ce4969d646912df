"""Decoding in processes of its own: what an image file does to its decoder harms nobody else.

Image files are hostile input to native code. So each image is decoded by a `decoder`, a small
process with a limit of CPU time for each image and of memory. One that ends, or does not answer, is
replaced; its image gets another try in a fresh decoder, unless it was the limit of time, and
becomes an `ImageError` then. File and pixels travel in memory without a name, which is gone with
the last process that has it open: nothing can be left behind, whatever ends first.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ntt_ray
from ntt_ray.errors import ImageError, LabelError
from ntt_ray.images import PIXELS_AT_ONCE, PixelBudget, RgbImage
from ntt_ray.run.decoder import LONGEST_MESSAGE, TIMED_OUT, Limits
from ntt_ray.settings import DecodeSettings

logger = logging.getLogger(__name__)


class Decoded(NamedTuple):
    """What a decoder has made of an image file.

    Attributes:
        pixels: read-only uint8 ``(height, width, 3)``, or ``(side, side, 3)``.
        size_hw: height and width of the image before it was resized.
        notes: what may surprise in how it became pixels, by the names of `records.NOTES`.
    """

    pixels: RgbImage
    size_hw: tuple[int, int]
    notes: tuple[str, ...] = ()


START_S = 120.0  # until a decoder must have imported what it needs, from a slow disk too
STARTS = 3  # tries to start one
STEP = 2**26  # bytes that are written at once
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")  # of the environment: no secrets
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
# else every image of usual size would ask the kernel for its pages anew, and give them back
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**24), "MALLOC_TRIM_THRESHOLD_": str(2**24)}


class DecoderPool:
    """Decodes images in up to so many processes, which are started when they are first needed."""

    def __init__(self, decoders: int, side: int | None, settings: DecodeSettings) -> None:
        """Start nothing yet.

        Args:
            decoders: how many processes there may be.
            side: how many pixels wide and high the square is that images are resized to; None
                keeps their own size.
            settings: how images become pixels, and what a decoder may need for it.
        """
        self._side, self._settings = side, settings
        self._budget = PixelBudget(PIXELS_AT_ONCE)
        self._idle: deque[Decoder] = deque()
        # a thread for each process, which only waits: it kills and replaces its process
        self._threads = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._finalizer = weakref.finalize(self, _end, self._threads, self._idle)

    def close(self) -> None:
        """End the processes; images that no decoder has begun are given up."""
        self._threads.shutdown(cancel_futures=True)
        self._finalizer()

    def submit(self, data: bytes) -> Future[Decoded]:
        """Decode an image file as soon as a decoder is free.

        Returns:
            What gives the pixels and what is known of them. It raises `ImageError` where the file
            gives no image, took longer or needed more memory than it may, or ended its decoders;
            and `LabelError` where no decoder can be started.
        """
        return self._threads.submit(self._decode, data)

    def _decode(self, data: bytes) -> Decoded:
        try:
            return self._try(self._take(), data)
        except DecoderLostError as error:
            if error.is_final:
                raise ImageError(str(error)) from None
            logger.warning("an image %s; it gets another try", error)
        try:  # what came before may have worn out the first one, or somebody killed it
            return self._try(_started(self._settings), data)
        except DecoderLostError as error:
            raise ImageError(str(error)) from None

    def _take(self) -> Decoder:
        try:
            return self._idle.pop()
        except IndexError:
            return _started(self._settings)

    def _try(self, decoder: Decoder, data: bytes) -> Decoded:
        try:
            return decoder.decode(data, self._side, self._budget)
        except OSError as error:
            decoder.end()
            raise LabelError(f"no memory for a decoded image: {error}") from error
        finally:
            if decoder.is_alive:
                self._idle.append(decoder)


class DecoderLostError(Exception):
    """A decoder that has not survived an image; the text follows "the image".

    Attributes:
        is_final: another try would end in the same way.
    """

    def __init__(self, text: str, *, is_final: bool = False) -> None:
        super().__init__(text)
        self.is_final = is_final


class Decoder:
    """One process that decodes; for one thread at a time.

    Attributes:
        is_alive: whether it can take another image.
    """

    def __init__(self, settings: DecodeSettings) -> None:
        """Start the process, and wait until it is ready.

        Raises:
            DecoderLostError: it ended at once.
            OSError: there is no room for another process.
        """
        self._settings = settings
        limits = Limits(
            settings.orientation,
            settings.max_pixels,
            settings.timeout_s,
            settings.memory_bytes,
            settings.sixteen_bit,
            settings.background,
        )
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = [str(theirs.fileno()), json.dumps(asdict(limits))]
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-m", "ntt_ray.run.decoder", *arguments],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                stdin=subprocess.DEVNULL,
            )
        self.is_alive = True
        self._hear(START_S)

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def decode(self, data: bytes, side: int | None, budget: PixelBudget) -> Decoded:
        """Decode one image file; arguments and result as for `DecoderPool`.

        Raises:
            ImageError: no image comes of it.
            DecoderLostError: it is no decoder any more.
            OSError: there is no memory for file or pixels.
        """
        file = os.memfd_create("ntt-ray-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _write(file, data)
            answer = self._ask(file, side, budget)
            if "error" in answer:
                raise ImageError(answer["error"])
            height, width = answer["size_hw"]
            pixels = _pixels(file, answer["shape"])
            return Decoded(pixels, (height, width), tuple(answer["notes"]))
        finally:
            os.close(file)

    def _ask(self, file: int, side: int | None, budget: PixelBudget) -> dict[str, Any]:
        waiting_s = self._settings.waiting_s
        with contextlib.ExitStack() as held:
            self._say({"side": side}, file)
            answer = self._hear(waiting_s)
            if "pixels" in answer:
                held.enter_context(budget.taken(answer["pixels"]))
                self._say({})
                answer = self._hear(waiting_s)
        if answer.get("last") or answer.get("is_memory"):
            self.end()
        if answer.get("is_memory"):
            limit = self._settings.memory_bytes >> 20
            raise DecoderLostError(f"needed more than decode.memory_mb ({limit} MB) to be decoded")
        return answer

    def _say(self, message: Mapping[str, Any], *files: int) -> None:
        with contextlib.suppress(ConnectionError):  # it has ended: the next answer tells
            socket.send_fds(self._link, [json.dumps(message).encode()], files)

    def _hear(self, timeout_s: float) -> dict[str, Any]:
        self._link.settimeout(timeout_s)
        try:
            message = self._link.recv(LONGEST_MESSAGE)
        except TimeoutError:
            self.end()
            raise DecoderLostError(
                f"left its decoder without an answer in {timeout_s:g} s"
            ) from None
        except ConnectionError:
            message = b""
        if not message:
            raise self._lost()
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _lost(self) -> DecoderLostError:
        self.is_alive = False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # its end of the socket closes first
        status = self.end()
        if status == -TIMED_OUT:
            limit = f"decode.timeout_s ({self._settings.timeout_s:g} s of CPU time)"
            return DecoderLostError(f"took longer than {limit} to be decoded", is_final=True)
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return DecoderLostError(f"ended its decoder ({how})")

    def end(self) -> int:
        """End the process if it has not ended, and give its exit status."""
        self.is_alive = False
        self._link.close()
        self._process.kill()
        return self._process.wait()


def _started(settings: DecodeSettings) -> Decoder:
    """A new decoder, whose failing to start is no fault of an image."""
    for last in range(1, STARTS + 1):
        try:
            return Decoder(settings)
        except (DecoderLostError, OSError) as error:
            if last == STARTS:
                raise LabelError(
                    f"the process that decodes images cannot be started: it {error}; this "
                    f"worker's log says more. If decode.memory_mb is set, raise it"
                ) from error
    raise AssertionError


def _environment() -> dict[str, str]:
    """What a decoder needs to find the same packages, and nothing secret."""
    package = Path(ntt_ray.__file__).parents[1]
    paths = os.pathsep.join([str(package), *filter(None, sys.path)])
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**kept, **_ONE_THREAD, **_KEPT_MEMORY, "PYTHONPATH": paths}


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest[:STEP]) :]


def _pixels(file: int, shape: tuple[int, int]) -> RgbImage:
    """The pixels that a decoder has left, mapped and not copied; nobody can shorten them now."""
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    mapped = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype=np.uint8).reshape(*shape, 3)


def _end(threads: ThreadPoolExecutor, idle: deque[Decoder]) -> None:
    threads.shutdown(wait=False)  # this may be one of them
    while idle:
        idle.pop().end()
