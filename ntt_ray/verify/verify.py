"""Whether an output is whole: its run record, manifest, bank, shards and merged files agree.

Reads everything once and changes nothing; needs neither Ray nor the models. The checks themselves
are in `shard_check`, `merged_files`, `reports` and others; here is their order.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.merge.digests import digest_of_bytes, digest_of_file
from ntt_ray.merge.target import target_of
from ntt_ray.records import ImageEntry
from ntt_ray.run.layout import (
    AGAIN_SUFFIX,
    BANK_FILE,
    JOURNAL_SUFFIX,
    LABELS_FOLDER,
    LOCK_FILE,
    MANIFEST_FILE,
    MERGE_LOCK_FILE,
    RECORD_FILE,
    part_of_lock,
    shard_name,
)
from ntt_ray.run.record import RunRecord, read_record
from ntt_ray.run.shard import check_body, read_shard, read_shard_bytes
from ntt_ray.run.units import Units
from ntt_ray.sources.schema import entries_of, schema_of
from ntt_ray.storage import Storage
from ntt_ray.verify.box_check import check_boxes
from ntt_ray.verify.merged_files import check_files, find_merge, is_left
from ntt_ray.verify.problems import Findings
from ntt_ray.verify.proposal_check import check_proposals
from ntt_ray.verify.reports import check_reports
from ntt_ray.verify.shard_check import check_images, check_provenance, check_row

READ_AHEAD = 4  # shards fetched before they are looked at
ROWS_AT_ONCE = 64


@dataclass
class Verdict:
    """What an output holds, and what is wrong with it.

    Attributes:
        images: how many images the run has.
        units: how many units the run has.
        units_done: how many units have their shard.
        rows: how many rows all shards have that could be read.
        statuses: how many of these rows have each status.
        detections: how many detections these rows have.
        merged: whether there are merged files and their record.
        findings: problems and notes.
    """

    images: int = 0
    units: int = 0
    units_done: int = 0
    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    detections: int = 0
    merged: bool = False
    findings: Findings = field(default_factory=Findings)

    @property
    def whole(self) -> bool:
        """Whether everything is there and agrees."""
        return not self.findings.counts

    def count(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        self.rows += 1
        self.statuses[row["status"]] = self.statuses.get(row["status"], 0) + 1
        self.detections += len(row["annotations"])


def verify(
    config: Config,
    findings: Findings,
    on_unit: Callable[[int, int], None] = lambda *_: None,
    to: str | None = None,
) -> Verdict:
    """Check the output of a config, finished or not.

    Args:
        config: the run; only where it lies and how it would be merged now matter.
        findings: takes what is found.
        on_unit: called with the units looked at so far, and the units in all.
        to: where the merged files to check were written beside the first; None: the first.

    Raises:
        InputError: there is no run.
    """
    target, store = target_of(config.output, to), Storage(config.storage_options)
    try:
        recorded = read_record(config.output, store)
    except InputError as error:  # without it nothing can be said of the rest
        findings.problem("file damaged", RECORD_FILE, str(error))
        return Verdict(findings=findings)
    if recorded is None:
        raise InputError(f"{storage.redact(config.output)}: there is no run here; label first")
    verdict = Verdict(recorded.plan.images, recorded.plan.units, findings=findings)
    _check_record(recorded, findings)
    _check_digest(config, store, BANK_FILE, recorded.identity.bank, findings)
    names = store.list_files(config.output, hidden=True)
    of_merge = names if to is None else store.list_files(target, hidden=True)
    with ExitStack() as stack:
        manifest = _open_manifest(config, store, recorded, findings, stack)
        shards = _check_names(names, recorded.plan.units, findings)
        verdict.units_done = len(shards)
        merge = find_merge(config, store, recorded, shards, of_merge, findings, target)
        verdict.merged = merge is not None
        merged = {} if merge is None else merge.shard_digests()
        for done, shard in enumerate(_read_shards(config.output, store, shards), start=1):
            if shard.table is None:
                findings.problem("shard damaged", shard_name(shard.unit), shard.damage)
            else:
                if shard.damage:
                    findings.problem("shard edited", shard_name(shard.unit), shard.damage)
                if merged.get(shard.unit, shard.sha256) != shard.sha256:
                    text = "the merged files were made of another shard of this name; merge again"
                    findings.problem("merge older than shard", shard_name(shard.unit), text)
                _check_unit(recorded, manifest, shard.unit, shard.table, verdict)
            on_unit(done, len(shards))
        image_ids = (lambda _: None) if manifest is None else manifest.image_ids
        check_boxes(config.output, store, recorded, image_ids, findings)
        check_proposals(
            *(config.output, store, recorded, shards, image_ids),
            *([name for name in names if not is_left(name)], findings),
        )
    if merge is not None:
        check_files(target, store, merge, of_merge, findings)
    if to is None:  # metrics and report are of the first files
        check_reports(config.output, store, recorded, merge, names, findings)
    _say_what_failed(config, verdict)
    return verdict


class _Manifest:
    """The open manifest: the images of each unit, and the unit of an image."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._file = pq.ParquetFile(stream)
        schema = self._file.schema_arrow
        if not schema.equals(schema_of(schema)):
            raise ValueError("it has other columns than a manifest")
        self._units = Units.of(self._file.metadata)
        self.sizes = self._units.sizes()
        self._firsts: dict[int, int] = {}  # first image of the units that were asked for

    def unit(self, unit: int) -> list[ImageEntry]:
        """The images of a unit.

        Raises:
            InputError: its part of the file is damaged.
        """
        try:
            return entries_of(self._units.read(self._file, unit))
        except (ValueError, OSError, pa.ArrowException) as error:
            raise InputError(f"the images of unit {unit} cannot be read ({error})") from None

    def image_ids(self, unit: int) -> list[int] | None:
        """Ids of the images of a unit; None where its part of the file is damaged."""
        try:
            return [entry.image_id for entry in self.unit(unit)]
        except InputError:
            return None

    def unit_of(self, image_id: int) -> int | None:
        """The unit that holds an image, if one does."""
        unit = bisect.bisect_right(range(len(self.sizes)), image_id, key=self._first) - 1
        if unit < 0:
            return None
        return unit if any(e.image_id == image_id for e in self.unit(unit)) else None

    def _first(self, unit: int) -> int:
        if unit not in self._firsts:
            self._firsts[unit] = self.unit(unit)[0].image_id
        return self._firsts[unit]


def _check_record(recorded: RunRecord, out: Findings) -> None:
    if recorded.identity.digest() != recorded.labels_hash:
        text = "its labels_hash is not that of its identity: it was edited"
        out.problem("run record edited", RECORD_FILE, text)


def _check_digest(config: Config, store: Storage, name: str, wanted: str, out: Findings) -> None:
    """Whether a file is the one that the run record speaks of."""
    try:
        digest = digest_of_file(storage.join(config.output, name), store).sha256
    except FileNotFoundError:
        out.problem("file missing", name, "it belongs to the run")
        return
    if digest != wanted:
        text = f"its SHA-256 is {digest[:12]}, in {RECORD_FILE} {wanted[:12]}"
        out.problem("file edited", name, text)


def _open_manifest(
    config: Config, store: Storage, recorded: RunRecord, out: Findings, stack: ExitStack
) -> _Manifest | None:
    name, plan = MANIFEST_FILE, recorded.plan
    _check_digest(config, store, name, recorded.identity.manifest, out)
    try:
        uri = storage.join(config.output, name)
        manifest = _Manifest(stack.enter_context(store.open_read(uri)))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, pa.ArrowException) as error:
        out.problem("file damaged", name, str(error))
        return None
    found = (len(manifest.sizes), sum(manifest.sizes))
    if found != (plan.units, plan.images):
        text = f"{found[0]} units of {found[1]} images, in {RECORD_FILE} {plan.units} of "
        out.problem("wrong plan", name, f"{text}{plan.images}")
    return manifest


def _check_names(names: Sequence[str], units: int, out: Findings) -> list[int]:
    """The units whose shard is there; whatever else lies among the shards is reported."""
    planned = {f"{LABELS_FOLDER}/{shard_name(unit)}": unit for unit in range(units)}
    found = sorted(planned[name] for name in names if name in planned)
    for unit in sorted(set(range(units)) - set(found)):
        out.problem("shard missing", shard_name(unit), "not labelled yet, or deleted")
    for name in names:
        below = name.startswith(f"{LABELS_FOLDER}/")
        if name in (LOCK_FILE, MERGE_LOCK_FILE) or part_of_lock(name):
            out.notes.append(f"{name}: a driver is at work here, or ended without a word")
        elif is_left(name):
            out.notes.append(f"{name}: left by a write that did not end; may be deleted")
        elif below and name.endswith(JOURNAL_SUFFIX):
            out.notes.append(f"{name}: notes on a unit at work, or left by a worker that died")
        elif below and name.endswith(AGAIN_SUFFIX):
            out.notes.append(f"{name}: images of this shard are to be tried again")
        elif below and name not in planned:
            out.problem("stray file", name, f"is no shard of a run of {units} units")
    return found


@dataclass(frozen=True)
class _Shard:
    """A shard as it was read.

    Attributes:
        unit: the unit of the shard.
        sha256: SHA-256 of the file, in hex.
        table: the rows; None: it cannot be read.
        damage: why it cannot be read, or that its rows are not those that were written.
    """

    unit: int
    sha256: str = ""
    table: pa.Table | None = None
    damage: str = ""


def _read_shards(output: str, store: Storage, units: Sequence[int]) -> Iterator[_Shard]:
    """The shards in order, a few of them read ahead."""

    def read(unit: int) -> _Shard:
        try:
            data = read_shard_bytes(output, unit, store)
            table = read_shard(output, unit, store, data)
        except InputError as error:
            return _Shard(unit, damage=str(error))
        shard = _Shard(unit, digest_of_bytes(data).sha256, table)
        try:
            check_body(table.schema, data, shard_name(unit))
        except InputError as error:
            return replace(shard, damage=str(error).removeprefix(f"{shard_name(unit)}: "))
        return shard

    reading: deque[Future[_Shard]] = deque()
    with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="verify") as pool:
        for unit in units:
            reading.append(pool.submit(read, unit))
            if len(reading) == READ_AHEAD:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()


def _check_unit(
    recorded: RunRecord, manifest: _Manifest | None, unit: int, table: pa.Table, verdict: Verdict
) -> None:
    name, out = shard_name(unit), verdict.findings
    check_provenance(table.schema.metadata, recorded.identity.provenance(), name, out)
    if manifest is not None and unit < len(manifest.sizes):
        images = table.select(["image_id", "file_name"]).to_pylist()
        try:
            check_images(images, manifest.unit(unit), manifest.unit_of, name, out)
        except InputError as error:
            out.problem("file damaged", MANIFEST_FILE, str(error))
    category_ids = {item.id for item in recorded.classes}
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        for row in batch.to_pylist():
            verdict.count(row)
            check_row(row, category_ids, f"{name}, image {row['image_id']}", out)


def _say_what_failed(config: Config, verdict: Verdict) -> None:
    failed, allowed = verdict.statuses.get("failed", 0), config.job.max_failed_fraction
    if failed:
        over = failed > allowed * verdict.rows
        more = f", more than job.max_failed_fraction {allowed:g} allows" if over else ""
        text = f"{failed} of {verdict.rows} images failed{more}; they have rows"
        verdict.findings.notes.append(text)
