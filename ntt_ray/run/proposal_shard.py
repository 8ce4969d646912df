"""The proposal shard: one Parquet file of kept proposals per work unit, beside its shard of labels.

It has a row for each image of the unit in the order of the manifest, and is published before the
labels that are made of it. What it was made of is the run's identity without bank and classes: its
digest, the `proposals_hash`, is the same for all runs that would keep the same. The columns are
defined in `proposals.table`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.proposals.table import ROWS_AT_ONCE, channels_of
from ntt_ray.run.layout import PROPOSALS_FOLDER, SHARD_SUFFIX, proposals_uri, shard_ids
from ntt_ray.run.record import Identity, RunRecord, installed_versions
from ntt_ray.run.shard import BODY_KEY, NAMES_BETWEEN, ids_digest, sha256_before_footer

FORMAT_VERSION = "1"
HASH_KEY = "proposals_hash"
# of the method's settings those that decide what is proposed; the others are for matching
PROPOSING = ("points_per_side", "min_predicted_iou", "tiles", "all_outputs", "refinement")


def made_of(identity: Identity) -> dict[str, Any]:
    """What decides which proposals a run keeps: its identity without bank and classes."""
    plain = identity.plain()
    method = {key: value for key, value in plain["method"].items() if key in PROPOSING}
    proposals = plain.get("proposals", {})
    kept = {key: value for key, value in proposals.items() if key != "embeddings"}
    rest = {key: value for key, value in plain.items() if key not in ("bank", "method")}
    return {**rest, **({"proposals": kept} if kept else {}), "method": method}


def keeps_proposals(recorded: RunRecord) -> bool:
    """Whether a run has proposals of its own: it keeps them, and did not match those of another."""
    proposals = recorded.identity.plain().get("proposals", {})
    return bool(proposals.get("keep")) and recorded.rematched_from is None


def proposals_hash(identity: Identity) -> str:
    """SHA-256 over what decides which proposals a run keeps, in hex."""
    return _digest(made_of(identity))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def metadata_of(identity: Identity) -> dict[str, str]:
    """What the metadata of every proposal shard of a run say."""
    return metadata_made_of(made_of(identity))


def metadata_made_of(content: Mapping[str, Any]) -> dict[str, str]:
    """What the metadata of a file of proposals say that were made of something, as plain data."""
    return {
        "format_version": FORMAT_VERSION,
        HASH_KEY: _digest(content),
        "made_of": json.dumps(content, sort_keys=True),
        "versions": json.dumps(installed_versions(), sort_keys=True),
    }


def to_bytes(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """The file of a table of proposals; same table and metadata, same bytes.

    As a shard of labels it has the digest of all that stands before the metadata in the file.
    """
    sink = io.BytesIO()
    table = table.replace_schema_metadata(dict(sorted(metadata.items())))
    with pq.ParquetWriter(sink, table.schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, len(table), ROWS_AT_ONCE):
            writer.write_table(table.slice(start, ROWS_AT_ONCE).combine_chunks())
        writer.add_key_value_metadata({BODY_KEY: hashlib.sha256(sink.getbuffer()).hexdigest()})
    return sink.getvalue()


def unit_metadata(shard_id: int, table: pa.Table) -> dict[str, str]:
    """What the metadata say of the unit: its number, and a digest of its image ids."""
    return {"unit": str(shard_id), "images": ids_digest(table["image_id"])}


def existing_proposals(output: str, store: storage.Storage) -> set[int]:
    """Ids of the units that have their proposals."""
    folder = storage.join(output, PROPOSALS_FOLDER)
    return shard_ids(store.list_files(folder, (SHARD_SUFFIX,), divide_at=NAMES_BETWEEN))


def open_proposals(
    output: str, shard_id: int, store: storage.Storage, data: bytes | None = None
) -> AbstractContextManager[pq.ParquetFile]:
    """Open the proposals of a unit, and check their format.

    Args:
        output: the run's prefix.
        shard_id: the unit.
        store: access to files.
        data: the file where it was read before; else only what is needed is read.

    Raises:
        InputError: missing, truncated or of another format; also for what is read in the block.
    """
    return open_proposal_file(proposals_uri(output, shard_id), store, data)


@contextmanager
def open_proposal_file(
    uri: str, store: storage.Storage, data: bytes | None = None
) -> Iterator[pq.ParquetFile]:
    """Open a file of proposals by its address; see `open_proposals`."""
    opened = store.open_read(uri) if data is None else io.BytesIO(data)
    try:
        with opened as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
            version = (file.schema_arrow.metadata or {}).get(b"format_version", b"").decode()
            if version != FORMAT_VERSION:
                raise ValueError(f"format {version or 'unknown'!r}, not {FORMAT_VERSION!r}")
            channels_of(file.schema_arrow)
            yield file
    except FileNotFoundError:
        raise InputError(f"{storage.redact(uri)}: the proposals are missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{storage.redact(uri)}: damaged proposals ({error})") from None


def misfit(
    file: pq.ParquetFile, shard_id: int, wanted_hash: str, image_ids: Sequence[int] | None
) -> str | None:
    """Why open proposals are not those of a unit of a run; None where they are.

    Args:
        file: what `open_proposals` gave.
        shard_id: the unit.
        wanted_hash: the `proposals_hash` of the run.
        image_ids: ids of the unit's images in the order of the manifest; None: as the file says.
    """
    said = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
    if said.get(HASH_KEY) != wanted_hash:
        return "they are proposals of another run"
    if said.get("unit") != str(shard_id):
        return f"they are the proposals of unit {said.get('unit')}"
    digests = [said.get("images")]
    digests += [] if image_ids is None else [ids_digest(pa.array(image_ids, pa.int64()))]
    found = file.read(["image_id"])["image_id"]
    if any(digest != ids_digest(found) for digest in digests):
        return f"their {len(found)} rows are not those of the unit"
    return None


def check_body(file: pq.ParquetFile, data: bytes) -> str | None:
    """Why the rows of a file are not those that were written; None where they are."""
    wanted = (file.metadata.metadata or {}).get(BODY_KEY.encode(), b"").decode("ascii", "replace")
    return None if wanted == sha256_before_footer(data) else "its rows are not those written"
