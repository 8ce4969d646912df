"""A decoder: a process that turns image files into pixels, and that may end at any of them.

It is started by `ntt_ray.run.decoding`, imports nothing but Pillow and numpy, and has neither
credentials nor names of files: for each image it is handed a piece of memory that holds the file,
and leaves the pixels there. What travels beside is JSON, so that nothing it says can run:

* from the decoder, once: ``{"ready": true}``;
* to the decoder: ``{"side": 1024}``, or null for the image at its own size, with the memory;
* from the decoder: ``{"pixels": 12000000}``, which it is about to decode; to the decoder: ``{}``;
* from the decoder: ``{"shape": [1024, 1024], "size_hw": [3000, 4000], "notes": []}`` or
  ``{"error": "why", "is_memory": false}``; with ``"last": true`` where it ends of itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ntt_ray.errors import ImageError, ImageMemoryError
from ntt_ray.images import decode_image, decode_square, prepare_formats

LONGEST_MESSAGE = 16_384  # bytes
TIMED_OUT = signal.SIGPROF  # ends a decoder whose image takes too long, within native code too
_WHEN_PARENT_ENDS = 1  # PR_SET_PDEATHSIG of prctl(2)
_MAY_STAY = 0.25  # of its memory: a decoder that images have left with more than this ends


@dataclass(frozen=True)
class Limits:
    """What a decoder is told when it starts.

    Attributes:
        orientation: whether pixels are ``stored`` or ``upright``, as in `DecodeSettings`.
        max_pixels: how many pixels an image may have; a larger one is refused by its header.
        timeout_s: seconds of CPU time that an image may take.
        sixteen_bit: how samples of 16 bits become 8, as in `DecodeSettings`.
        background: what transparent parts are laid on, as in `DecodeSettings`.
        memory_bytes: address space that the process may have, everything counted.
    """

    orientation: str
    max_pixels: int
    timeout_s: float
    memory_bytes: int
    sixteen_bit: str
    background: tuple[int, int, int] | None


def main() -> None:
    """Decode what comes over the socket, whose descriptor is the first argument, until it ends."""
    limits = Limits(**json.loads(sys.argv[2]))
    with socket.socket(fileno=int(sys.argv[1])) as link:
        _prepare(limits)
        with contextlib.suppress(ConnectionError):  # whoever asked has ended
            _serve(_Link(link), limits)


class _Link:
    """The socket; also asks, as a `Budget`, whether pixels may be decoded."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def say(self, message: Mapping[str, Any]) -> None:
        self._link.send(json.dumps(message).encode())

    def next_request(self) -> tuple[Any, BinaryIO] | None:
        message, files, _, _ = socket.recv_fds(self._link, LONGEST_MESSAGE, 1)
        return (json.loads(message), open(files[0], "r+b")) if message else None

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        self.say({"pixels": pixels})
        if not self._link.recv(LONGEST_MESSAGE):
            raise SystemExit
        yield


def _prepare(limits: Limits) -> None:
    """Import and confine everything before the first image, so that none pays for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for whoever asks; it ends this process itself
    signal.signal(TIMED_OUT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {TIMED_OUT})
    ctypes.CDLL(None).prctl(_WHEN_PARENT_ENDS, signal.SIGKILL)
    prepare_formats()
    if avif := sys.modules.get("PIL.AvifImagePlugin"):
        vars(avif)["DEFAULT_MAX_THREADS"] = 1  # else as many as cores; each takes address space
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))


def _serve(link: _Link, limits: Limits) -> None:
    at_start = _address_space()
    most = at_start + _MAY_STAY * (limits.memory_bytes - at_start)
    link.say({"ready": True})
    while request := link.next_request():
        question, file = request
        with file:
            answer = _answer(link, question["side"], file, limits)
        last = _address_space() > most
        link.say({**answer, "last": last})
        if last:
            return


def _answer(link: _Link, side: int | None, file: BinaryIO, limits: Limits) -> dict[str, Any]:
    """Put the pixels in the place of the image file, and say what they are."""
    signal.setitimer(signal.ITIMER_PROF, limits.timeout_s)
    notes: set[str] = set()
    try:
        file.seek(0)  # whoever wrote it shares the position
        data = file.read()
        if side is None:
            pixels = decode_image(data, limits, link, notes)
            size_hw = pixels.shape[:2]
        else:
            pixels, size_hw = decode_square(data, side, limits, link, notes)
        file.seek(0)
        file.truncate()
        file.write(pixels.tobytes() if not pixels.flags.c_contiguous else pixels.data)
        file.flush()
        return {"shape": pixels.shape[:2], "size_hw": size_hw, "notes": sorted(notes)}
    except (ImageError, MemoryError) as error:
        is_memory = isinstance(error, ImageMemoryError | MemoryError)
        return {"error": str(error), "is_memory": is_memory}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
