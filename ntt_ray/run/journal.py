"""Which images a worker had in hand: finds the image that ends its worker process every time.

Ray starts a unit again whenever its worker dies, for ever if one image is to blame. Before a
worker takes up some images of a unit it notes them beside the shard. When it starts on a unit and
finds such a note of the same run, the worker before it died over those images: each gets a death.
Images with one death are taken up one by one; an image with two deaths is not taken up again and
becomes a failed row. Notes left by another driver (killed, resumed) count for nothing: there the
worker died of its driver.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby, islice

from ntt_ray import storage
from ntt_ray.run.layout import LABELS_FOLDER, journal_name, journal_uri, shard_ids
from ntt_ray.storage import Storage

MAX_DEATHS = 2


class UnitJournal:
    """The notes on one unit."""

    def __init__(self, output: str, shard_id: int, run_token: str, store: Storage) -> None:
        self._uri = journal_uri(output, shard_id)
        self._token, self._store = run_token, store
        self.deaths: dict[int, int] = {}  # workers lost over an image, by its place in the unit

    def open(self) -> None:
        """Read what the worker before left, and count its deaths."""
        try:
            note = json.loads(self._store.read_bytes(self._uri))
        except (FileNotFoundError, ValueError):
            return  # a damaged note says nothing; it cannot happen with whole writes
        if note.get("run") != self._token:
            return
        self.deaths = {int(position): count for position, count in note["deaths"].items()}
        for position in note["in_work"]:
            self.deaths[position] = self.deaths.get(position, 0) + 1

    def condemned(self) -> set[int]:
        """Positions of the images that must not be taken up again."""
        return {position for position, count in self.deaths.items() if count >= MAX_DEATHS}

    def steps(self, positions: Sequence[int], step: int) -> Iterator[list[int]]:
        """Split the work into steps of `step` images, suspects alone; each is noted before."""
        for group in _groups(positions, step, set(self.deaths)):
            note = {"run": self._token, "deaths": self.deaths, "in_work": group}
            self._store.publish_bytes(self._uri, json.dumps(note).encode())
            yield group


def delete_finished(output: str, store: Storage) -> None:
    """Delete notes beside a shard: their process ended after it had published the shard."""
    names = set(store.list_files(storage.join(output, LABELS_FOLDER)))
    for shard_id in sorted(shard_ids(names)):
        if journal_name(shard_id) in names:
            store.delete(journal_uri(output, shard_id))


def _groups(positions: Sequence[int], step: int, suspects: set[int]) -> Iterator[list[int]]:
    for alone, run in groupby(positions, suspects.__contains__):
        while group := list(islice(run, 1 if alone else step)):
            yield group
