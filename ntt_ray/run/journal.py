"""Which images a worker had in hand: finds the image that ends its worker process every time.

Ray starts a unit again whenever its worker dies, for ever if one image is to blame. Before a
worker takes up some images of a unit it notes them beside the shard. When it starts on a unit and
finds such a note of the same run, the worker before it died over those images. They are suspects
now, and taken up one by one. Most workers die of something else (memory, a node that is taken
away), so only an image that was alone gets a death; at two deaths it is not taken up again and
becomes a failed row. A worker whose GPU broke says so before it ends, and blames no image. Notes
left by another driver (killed, resumed) count for nothing: there the worker died of its driver.

A note names two groups where the next is taken up while one is labelled (`work_ahead`), and a few
images of the group before. So one death makes twice as many suspects. It costs their time alone,
and nobody a death: an image is condemned for what it does alone, as before. Two images of a note
that both end workers are found one after the other, each by two deaths alone; the death with the
others is then one for both, so `unexplained` counts no more deaths than there were.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection, Sequence
from itertools import groupby, islice

from ntt_ray import storage
from ntt_ray.run.layout import LABELS_FOLDER, journal_name, journal_uri, shard_ids
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

MAX_DEATHS = 2


class UnitJournal:
    """The notes on one unit.

    Attributes:
        deaths: how many workers were lost over an image that they had alone, by its position in the
            unit; images that were in work with others have 0, and are suspects.
        devices: the GPU of each worker that this unit's images left with a GPU it could not use.
        lost: how many workers died over the unit, for whatever reason.
    """

    def __init__(self, output: str, shard_id: int, run_token: str, store: Storage) -> None:
        self._uri = journal_uri(output, shard_id)
        self._token, self._store = run_token, store
        self.deaths: dict[int, int] = {}
        self.devices: list[str] = []
        self.lost = 0
        self._lock, self._is_closed = threading.Lock(), False  # a thread notes, another may blame

    def open(self) -> None:
        """Read what the worker before left, and count its deaths."""
        try:
            note = json.loads(self._store.read_bytes(self._uri))
            if note["run"] != self._token:
                return
            deaths = {int(position): int(count) for position, count in note["deaths"].items()}
            in_work = [int(position) for position in note["in_work"]]
            devices = [str(device) for device in note.get("devices", ())]
            lost = int(note.get("lost", 0)) + bool(in_work)
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError, AttributeError):
            logger.warning("%s is damaged and says nothing", storage.redact(self._uri))
            return
        alone = len(in_work) == 1
        for position in in_work:
            deaths[position] = deaths.get(position, 0) + alone
        self.deaths, self.devices, self.lost = deaths, devices, lost

    def condemned(self) -> set[int]:
        """Positions of the images that must not be taken up again."""
        return {position for position, count in self.deaths.items() if count >= MAX_DEATHS}

    def unexplained(self) -> int:
        """How many workers died over the unit beside those that its condemned images ended."""
        return self.lost - (MAX_DEATHS + 1) * len(self.condemned())

    def groups(self, positions: Sequence[int], size: int) -> list[list[int]]:
        """Split the work into groups of `size` images; suspects are groups of their own."""
        groups = []
        for alone, run in groupby(positions, self.deaths.__contains__):
            while group := list(islice(run, 1 if alone else size)):
                groups.append(group)
        return groups

    def blame_device(self, device: str) -> None:
        """Note that the worker ends because of its GPU: no image is to blame for this death.

        What is noted later by this worker changes nothing any more.
        """
        with self._lock:
            if not self._is_closed:
                self.devices.append(device)
                self._publish([])
            self._is_closed = True

    def note(self, in_work: Sequence[int]) -> None:
        """Note the positions of all images that are in work from now on."""
        with self._lock:
            if not self._is_closed:
                self._publish(in_work)

    def _publish(self, in_work: Sequence[int]) -> None:
        note = {
            "run": self._token,
            "deaths": self.deaths,
            "in_work": list(in_work),
            "devices": self.devices,
            "lost": self.lost,
        }
        self._store.publish_bytes(self._uri, json.dumps(note).encode())


def delete_finished(output: str, units: Collection[int], store: Storage) -> None:
    """Delete notes beside shards of units: their process ended after it had published the shard."""
    names = set(store.list_files(storage.join(output, LABELS_FOLDER)))
    for shard_id in sorted(shard_ids(names) & set(units)):
        if journal_name(shard_id) in names:
            store.delete(journal_uri(output, shard_id))
