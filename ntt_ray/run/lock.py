"""One driver per output prefix and kind of work: a lock object with a heartbeat in the prefix.

A second driver is refused while the heartbeat is fresh. A stale lock is taken over: at once when
its process is known to be dead (same machine), else after `STALE_S` without a heartbeat; the clocks
of machines that share an output must agree to within a minute. Of drivers that start at the same
moment one wins: it creates the lock where there was none. Taking over is the same with a second
object, the claim. On a store that cannot refuse to write over an object, the last writer wins.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

from ntt_ray import storage
from ntt_ray.errors import NttRayError, OutputLockedError
from ntt_ray.run.layout import CLAIM_SUFFIX, LOCK_FILE
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
STALE_S = 90.0
SETTLE_S = 2.0  # after which every driver that started at the same moment has written


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as the lock says.

    Attributes:
        host: the machine of the driver.
        pid: the process id of the driver; None where the lock does not say.
        heard_s: seconds since the driver's last heartbeat.
        alive: whether another driver would be refused.
        part: which part of the run is prepared, as in ``2/4``; None for all of it.
        progress: what the driver last said of its work, see `RunLock.progress`.
    """

    host: str
    pid: int | None
    heard_s: float
    alive: bool
    progress: Mapping[str, float]
    part: str | None = None


def read_holder(output: str, store: Storage, file: str = LOCK_FILE) -> Holder | None:
    """Who works on an output, or died over it; None: nobody."""
    found = _read(storage.join(output, file), store)
    if found is None:
        return None
    beat, pid, progress = found.get("heartbeat"), found.get("pid"), found.get("progress")
    heard_s = max(0.0, time.time() - beat) if isinstance(beat, int | float) else float("inf")
    told = progress.items() if isinstance(progress, dict) else ()
    part = found.get("part")
    return Holder(
        host=str(found.get("host", "an unknown machine")),
        pid=pid if isinstance(pid, int) else None,
        heard_s=heard_s,
        alive=not _is_stale(found),
        progress={str(key): value for key, value in told if isinstance(value, int | float)},
        part=part if isinstance(part, str) else None,
    )


def say_held(output: str, store: Storage) -> None:
    """Warn that a driver works on an output, where another one would be refused; takes nothing."""
    holder = read_holder(output, store)
    if holder is not None and holder.alive:
        logger.warning(
            "%s: a driver is working on this output (process %s on %s, heard of %.0f s ago): "
            "another one would be refused now. Wait for it, or choose another output",
            *(storage.redact(output), holder.pid, holder.host, holder.heard_s),
        )


class RunLock:
    """Context manager that holds the lock of an output prefix.

    Attributes:
        token: unique to this driver; also marks its journals.
        lost: set when another driver took the lock (this one was thought dead); the run must stop.
        progress: goes into the lock with every heartbeat, for whoever asks how the run is.
    """

    def __init__(
        self, output: str, store: Storage, file: str = LOCK_FILE, part: str | None = None
    ) -> None:
        self.token = uuid.uuid4().hex
        self.lost = threading.Event()
        self.progress: Mapping[str, float] = {}
        self._uri = storage.join(output, file)
        self._claim_uri = storage.join(output, file + CLAIM_SUFFIX)
        self._store, self._part = store, part
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)

    def __enter__(self) -> RunLock:
        holder = _read(self._uri, self._store)
        if holder is None:
            if not self._create(self._uri):
                self._refuse_simultaneous()
        elif _is_stale(holder):
            self._take_over(holder)
        else:
            age_s = max(0.0, time.time() - float(holder["heartbeat"]))
            raise OutputLockedError(
                f"{storage.redact(self._uri)}: another driver is working on this output (process "
                f"{holder.get('pid')} on {holder.get('host')}, heard of {age_s:.0f} s ago). Wait "
                f"for it, or choose another output; a dead driver's lock is taken over after "
                f"{STALE_S:.0f} s"
            )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join(timeout=HEARTBEAT_S)
        self._release(self._uri)

    def check(self) -> None:
        """Raise when the lock was lost."""
        if self.lost.is_set():
            raise OutputLockedError(
                f"{storage.redact(self._uri)}: another driver took over this output; stopping"
            )

    def _take_over(self, dead: dict[str, Any]) -> None:
        """Replace a stale lock; the claim keeps out whoever found it stale at the same moment."""
        claim = _read(self._claim_uri, self._store)
        if claim is not None and _is_stale(claim):
            self._store.delete(self._claim_uri)  # its driver died over it
        if not self._create(self._claim_uri):
            self._refuse_simultaneous()
        try:
            holder = _read(self._uri, self._store)
            if holder is not None and holder.get("token") != dead.get("token"):
                self._refuse_simultaneous()
            logger.warning("taking over the lock of a driver that ended without a word")
            self._store.publish_bytes(self._uri, self._record())
        finally:
            self._release(self._claim_uri)

    def _create(self, uri: str) -> bool:
        """Write our record where there is none; whether ours is the one that stays."""
        if self._store.publish_new(uri, self._record()) and self._store.publish_new(
            uri, self._record()
        ):
            time.sleep(SETTLE_S)  # the second must be refused: this store lets every writer win
        return self._is_ours(uri)

    def _is_ours(self, uri: str) -> bool:
        holder = _read(uri, self._store)
        return holder is not None and holder.get("token") == self.token

    def _refuse_simultaneous(self) -> NoReturn:
        raise OutputLockedError(
            f"{storage.redact(self._uri)}: another driver started on this output at the same moment"
        )

    def _release(self, uri: str) -> None:
        try:
            if self._is_ours(uri):
                self._store.delete(uri)
        except NttRayError as problem:
            logger.warning("the lock could not be removed: %s", problem)

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT_S):
            try:
                holder = _read(self._uri, self._store)
                if holder is not None and holder.get("token") != self.token:
                    self.lost.set()
                    return
                self._store.publish_bytes(self._uri, self._record())
            except NttRayError as problem:
                logger.warning("heartbeat: %s", problem)

    def _record(self) -> bytes:
        record = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "heartbeat": time.time(),
            "progress": dict(self.progress),
        }
        if self._part is not None:
            record["part"] = self._part
        return json.dumps(record).encode()


def _read(uri: str, store: Storage) -> dict[str, Any] | None:
    try:
        holder = json.loads(store.read_bytes(uri))
    except FileNotFoundError:
        return None
    except ValueError:
        holder = None
    return holder if isinstance(holder, dict) else {"heartbeat": 0}


def _is_stale(holder: dict[str, Any]) -> bool:
    beat, pid = holder.get("heartbeat"), holder.get("pid")
    if not isinstance(beat, int | float) or time.time() - beat > STALE_S:
        return True
    return (
        holder.get("host") == socket.gethostname()
        and isinstance(pid, int)
        and not _process_is_alive(pid)
    )


def _process_is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
