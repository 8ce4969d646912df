"""The merged files of an output: whether they are what the merge wrote, and of the shards there.

By the digests of the merge record alone; what the files hold is not looked at, so that every
format is checked in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.merge.digests import FileDigest, FolderDigest, digest_of_bytes, digest_of_file
from ntt_ray.merge.image_files import THREADS
from ntt_ray.merge.record import MergeRecord, read_merge_record, record_file
from ntt_ray.run.layout import CLASS_MAPS, MERGE_FILE, MERGED_FILE, RECORD_FILE, YOLO_LABELS
from ntt_ray.run.record import RunRecord
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings

AT_ONCE = 4  # large files that are read at the same time
SHOWN = 12  # digits of a digest
NAMES_AT_ONCE = 1024  # files of images that wait to be read


def find_merge(
    config: Config,
    store: Storage,
    recorded: RunRecord,
    shards: Sequence[int],
    names: Sequence[str],
    out: Findings,
    target: str,
) -> MergeRecord | None:
    """The record of the merge, with the problems and notes on it.

    `target` is the prefix that was merged to: the output, or that of
    ``merge --to``. `shards` are the units whose shard is there; `names` as in `check_files`.

    Returns:
        None where there are no merged files, or nobody can say what they should hold.
    """
    files = [name for name in names if MERGED_FILE.fullmatch(name)]
    try:
        merge = read_merge_record(target, store)
    except InputError as error:
        out.problem("file damaged", MERGE_FILE, str(error))
        return None
    if merge is None:
        if files:
            text = f"is missing, so {len(files)} merged files cannot be checked; merge again"
            out.problem("file missing", MERGE_FILE, text)
        else:
            out.problem("not merged", target, "there are no merged files yet")
        return None
    _check_record(merge, config, target, store, recorded, out)
    for name in files:
        if name not in merge.files:
            out.problem("stray file", name, "is not of the last merge; delete it")
    for folder in (YOLO_LABELS, CLASS_MAPS) if merge.has_digests else ():
        if folder not in merge.folders and any(name.startswith(folder) for name in names):
            out.problem("stray file", folder, "is not of the last merge; delete it")
    block = config.merge
    now_of = {
        "min_score": block.min_score,
        "profiles": config.profiles,
        "images_per_file": block.images_per_file,
    }
    for key, now in now_of.items():
        then = getattr(merge, key)
        if then != now:
            out.notes.append(f"merged with {key} {_shown(then)}, the config now says {_shown(now)}")
    units = recorded.plan.units
    if missing := merge.missing(units):
        text = f"made without {len(missing)} of {units} shards; merge again"
        if len(shards) == units:
            out.problem("partial merge", MERGE_FILE, text)
        else:
            out.notes.append(f"the merged files were {text} when all are there")
    return merge


def _check_record(
    merge: MergeRecord,
    config: Config,
    target: str,
    store: Storage,
    recorded: RunRecord,
    out: Findings,
) -> None:
    """Whether the record is of this run, and as the merge wrote it."""
    if merge.labels_hash != recorded.labels_hash:
        out.problem("merge of another run", MERGE_FILE, "merge again")
    if not merge.has_digests:
        text = "was written by an earlier version, without digests: the merged files cannot be "
        out.problem("merged files not checked", MERGE_FILE, f"{text}checked; merge again")
        return
    if store.read_bytes(storage.join(target, MERGE_FILE)) != record_file(merge):
        out.problem("file edited", MERGE_FILE, "it is not as the merge wrote it; merge again")
    found = digest_of_file(storage.join(config.output, RECORD_FILE), store).sha256
    if merge.run_sha256 != found:
        text = f"its SHA-256 is {found[:SHOWN]}, when merging it was {merge.run_sha256[:SHOWN]}"
        out.problem("run record edited", RECORD_FILE, f"{text}; restore it, or merge again")


def check_files(
    output: str, store: Storage, merge: MergeRecord, names: Sequence[str], out: Findings
) -> None:
    """Whether every merged file is there, as it was written, and no more are in their folders.

    `names` are those of all files of the output, relative to it.
    """
    there = set(names)
    for name in merge.files:
        if name not in there:
            out.problem("merged file missing", name, "merge again")
    known = [(name, wanted) for name, wanted in merge.files.items() if name in there and wanted]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="verify") as pool:
        found = pool.map(lambda item: _digest_as(item, output, store), known)
        for (name, wanted), digest in zip(known, found, strict=True):
            _compare(name, digest, wanted, out)
    for folder, wanted_folder in merge.folders.items():
        if wanted_folder is not None:
            inside = (name for name in names if name.startswith(folder) and not is_left(name))
            images = (name for name in inside if name not in merge.files)
            _compare_folder(folder, _folder_digest(output, store, images), wanted_folder, out)


def _digest_as(known: tuple[str, FileDigest], output: str, store: Storage) -> FileDigest:
    """The digest of a file, by its name, taken by the parts that it was written in."""
    name, wanted = known
    return digest_of_file(storage.join(output, name), store, wanted.parts)


def _compare(name: str, found: FileDigest, wanted: FileDigest, out: Findings) -> None:
    if found == wanted:
        return
    text = f"has {found.size} bytes, {wanted.size} were written"
    if found.size == wanted.size:
        then, now = wanted.sha256[:SHOWN], found.sha256[:SHOWN]
        text = f"its SHA-256 is {now}, when it was written {then}"
    out.problem("merged file edited", name, f"{text}; merge again")


def _compare_folder(folder: str, found: FolderDigest, wanted: FolderDigest, out: Findings) -> None:
    if found == wanted:
        return
    kind = "merged file edited"
    if found.files != wanted.files:
        kind = "stray file" if found.files > wanted.files else "merged file missing"
        text = f"has {found.files} files, {wanted.files} were written"
    elif found.size != wanted.size:
        text = f"its files have {found.size} bytes together, {wanted.size} were written"
    else:
        text = "its files are not those that were written, by their SHA-256"
    out.problem(kind, folder, f"{text}; merge again")


def _folder_digest(output: str, store: Storage, names: Iterator[str]) -> FolderDigest:
    def digest(name: str) -> FolderDigest:
        return FolderDigest.of(name, digest_of_bytes(store.read_bytes(storage.join(output, name))))

    total = FolderDigest()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
        while some := list(islice(names, NAMES_AT_ONCE)):
            total = sum(pool.map(digest, some), total)
    return total


def is_left(name: str) -> bool:
    """Whether a file was left by a write that did not end, or lies in a folder that was."""
    return any(part.startswith(".") and part.endswith(".tmp") for part in name.split("/"))


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
