"""The merge record ``merge.json``: what a merge was made with and what it wrote. Defines it.

It has the settings of the merge, size and SHA-256 of every file, one digest for each folder with a
file for every image (`digests`), and the SHA-256 of every shard that was merged and of the run
record, so that files that are damaged or no longer of the shards are found. At 10 million images
it has some megabytes: 70 bytes a shard, 170 a file. No clocks in it.

Version 1 had no digests; it is read, and `verify` asks for another merge. A record has version 3
only where a file was written in parts, whose digest the versions before would not understand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    model_validator,
)

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.digests import FileDigest, FolderDigest, digest_of_json, json_file
from ntt_ray.merge.rendering import Loss
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.run.layout import MERGE_FILE, RESULTS_FILE, split_pattern
from ntt_ray.storage import Storage

FORMAT_VERSION: Literal[2] = 2
WITH_PARTS: Literal[3] = 3
SHOWN = 20  # problems of a damaged record


class MergeRecord(BaseModel):
    """How the merged files were made, and what they must be.

    Attributes:
        format_version: 1 for a record without digests, 3 where a file was written in parts.
        labels_hash: the labels hash of the run.
        run_sha256: SHA-256 of ``run.json`` when the files were made.
        min_score: ``annotations.json`` has detections of at least this score, where a
            class has no threshold of its own.
        class_scores: category ids with a threshold of their own, and that score, by rising id.
        classes: where classes were left out or renamed: for each class that was kept its category
            id in the run, its id in the files and its name in the files.
        settings: the block `merge` of the config, without secrets; empty in older records.
        profiles: the profiles that were written.
        images_per_file: how many images each part of a split file has; None: nothing was split.
        units: the shards that were merged, as ``(first, last)`` of each gapless stretch.
        shards: SHA-256 of each of these shards, in their order.
        files: what each file must be, by its name relative to the output; None: not known.
        folders: what each folder with a file for every image must hold, by its name relative to
            the output, with a slash at the end; None: not known.
        losses: how far the masks in the files are from ours, by profile.
        record_sha256: SHA-256 of all other fields, so that an edit of this record is found.
    """

    # fields that a later version adds stay, and so does the digest over all of them
    model_config = ConfigDict(frozen=True, extra="allow")

    format_version: Literal[1, 2, 3] = FORMAT_VERSION
    labels_hash: str
    run_sha256: str = ""
    min_score: float
    class_scores: tuple[tuple[int, float], ...] = ()
    classes: tuple[tuple[int, int, str], ...] | None = None
    settings: dict[str, Any] = {}
    profiles: tuple[str, ...]
    images_per_file: Annotated[int, Field(strict=True, ge=1)] | None
    units: tuple[tuple[int, int], ...]
    shards: tuple[str, ...] = ()
    files: dict[str, FileDigest | None]
    folders: dict[str, FolderDigest | None] = {}
    losses: dict[str, Loss] = {}
    record_sha256: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_version_1(cls, data: Any) -> Any:
        """Names of files and counts of folders, which had no digests."""
        if not isinstance(data, dict) or data.get("format_version") != 1:
            return data
        return {**data, "files": dict.fromkeys(data["files"]), "folders": {}}

    @field_serializer("files")
    def _plain_files(self, files: dict[str, FileDigest | None]) -> dict[str, Any]:
        return {name: None if file is None else file.plain() for name, file in files.items()}

    @property
    def has_digests(self) -> bool:
        """Whether the record says what the files must be."""
        return self.format_version > 1

    @property
    def thresholds(self) -> Thresholds:
        """Which instances are in ``annotations.json``."""
        categories = None if self.classes is None else {c[0]: c[1] for c in self.classes}
        return Thresholds(self.min_score, dict(self.class_scores), categories)

    def missing(self, units: int) -> list[int]:
        """The units of a run, of so many in all, whose shard did not go into the merge."""
        spans = [range(max(0, first), min(last + 1, units)) for first, last in self.units]
        merged = set(chain.from_iterable(spans))
        return [unit for unit in range(units) if unit not in merged]

    def shard_digests(self) -> dict[int, str]:
        """The SHA-256 of each merged shard, by its unit; empty where they are not known."""
        units = chain.from_iterable(range(first, last + 1) for first, last in self.units)
        return dict(zip(units, self.shards, strict=False))

    def results(self) -> dict[str, FileDigest | None]:
        """The files that ``results.json`` may be split into, in order; none without the profile."""
        named = re.compile(split_pattern(RESULTS_FILE))
        return {name: self.files[name] for name in sorted(self.files) if named.fullmatch(name)}

    def digest(self) -> str:
        """What `record_sha256` must be."""
        # a record of a version without settings has a digest without them
        others = {"record_sha256"} if self.settings else {"record_sha256", "settings"}
        return digest_of_json(self.model_dump(mode="json", exclude=others))


def version_of(files: Iterable[FileDigest]) -> Literal[2, 3]:
    """The format that a record of such files needs."""
    return WITH_PARTS if any(file.parts for file in files) else FORMAT_VERSION


def results_digest(files: Mapping[str, FileDigest]) -> str:
    """SHA-256 of ``results.json``; where it is split, that of a JSON object of those of its files.

    `files` are the digests of its files by name.
    """
    if len(files) == 1:
        return next(iter(files.values())).sha256
    return digest_of_json({name: file.sha256 for name, file in files.items()})


def stretches(units: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Rising numbers as ``(first, last)`` of each gapless stretch."""
    found: list[tuple[int, int]] = []
    for unit in units:
        if found and unit == found[-1][1] + 1:
            found[-1] = (found[-1][0], unit)
        else:
            found.append((unit, unit))
    return tuple(found)


def write_merge_record(output: str, record: MergeRecord, store: Storage) -> None:
    """Publish the record, after the files it speaks of."""
    store.publish_bytes(storage.join(output, MERGE_FILE), record_file(record))


def record_file(record: MergeRecord) -> bytes:
    """The file of a record, with the digest of its fields."""
    data = record.model_copy(update={"record_sha256": record.digest()}).model_dump(mode="json")
    return json_file(data)


def read_merge_record(output: str, store: Storage) -> MergeRecord | None:
    """The record of the last merge, or None where there is none.

    Raises:
        InputError: there is one that cannot be read.
    """
    uri = storage.join(output, MERGE_FILE)
    try:
        return MergeRecord.model_validate(json.loads(store.read_bytes(uri)))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:SHOWN]]
        text = "; ".join(problems)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        text = f"{type(error).__name__}: {error}"
    raise InputError(f"{storage.redact(uri)}: not a merge record ({text}); merge again")
