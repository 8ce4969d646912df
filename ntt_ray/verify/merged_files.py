"""The merged files of an output beside its shards: what they should hold, and whether they do.

How one file is compared with its rows is in `quality.coco_check`; here is which files there should
be, of which shards, and with which settings they were made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.merge.job import merge_info
from ntt_ray.merge.profiles.coco import coco_file_names
from ntt_ray.merge.record import MergeRecord, read_merge_record, stretches
from ntt_ray.run.layout import COCO_FILE, MERGE_FILE, RESULTS_FILE
from ntt_ray.run.record import RunRecord
from ntt_ray.storage import Storage
from ntt_ray.verify.coco_check import CocoCheck, ResultsCheck
from ntt_ray.verify.problems import Findings

_MERGED_STEM = COCO_FILE.removesuffix(".json")


def find_merge(
    config: Config,
    store: Storage,
    recorded: RunRecord,
    shards: Sequence[int],
    names: Sequence[str],
    out: Findings,
) -> MergeRecord | None:
    """What the merged files of a run were made with, with the problems and notes on that.

    Args:
        config: the run.
        store: access to files.
        recorded: the run record.
        shards: units whose shard is there.
        names: of all files of the output.
        out: takes problems and notes.

    Returns:
        None where there are no merged files, or nobody can say what they should hold.
    """
    files = [n for n in names if n == RESULTS_FILE or _is_annotations(n)]
    settings = config.merge
    try:
        merge = read_merge_record(config.output, store)
    except InputError as error:
        out.problem("file damaged", MERGE_FILE, str(error))
        return None
    if merge is None:
        if not files:
            out.problem("not merged", config.output, "there are no merged files yet")
            return None
        out.note(f"there is no {MERGE_FILE}: compared by the merge settings of the config")
        return MergeRecord(
            recorded.labels_hash,
            settings.min_score,
            settings.profiles,
            settings.images_per_file,
            stretches(shards),
            tuple(files),
        )
    if merge.labels_hash != recorded.labels_hash:
        out.problem("merge of another run", MERGE_FILE, "merge again")
    for name in files:
        if name not in merge.files:
            out.problem("stray file", name, "is not of the last merge")
    _check_folders(merge, names, out)
    for key in ("min_score", "profiles", "images_per_file"):
        then, now = getattr(merge, key), getattr(settings, key)
        if then != now:
            out.note(f"merged with {key} {_shown(then)}, the config now says {_shown(now)}")
    missing = recorded.plan.units - sum(1 for _ in _units(merge, recorded.plan.units))
    if missing:
        text = f"made without {missing} of {recorded.plan.units} shards; merge again"
        if len(shards) == recorded.plan.units:
            out.problem("partial merge", MERGE_FILE, text)
        else:
            out.note(f"the merged files were {text} when all are there")
    return merge


class MergedFiles:
    """The merged files beside the shards they were made of, as the units come by.

    Args:
        config: the run.
        store: access to files.
        recorded: the run record.
        merge: how the files were made, if they were.
        sizes: images of each unit, if they are known.
        out: takes the problems.
    """

    def __init__(
        self,
        config: Config,
        store: Storage,
        recorded: RunRecord,
        merge: MergeRecord | None,
        sizes: Sequence[int] | None,
        out: Findings,
    ) -> None:
        self._merge, self._out = merge, out
        self._checks: list[CocoCheck | ResultsCheck] = []
        self._left = deque(_units(merge, recorded.plan.units))
        if merge is None or sizes is None:
            return
        images = sum(sizes[unit] for unit in self._left if unit < len(sizes))
        names = coco_file_names(images, merge.images_per_file)
        _check_merged_names(merge, names, out)

        def open_file(name: str) -> Any:
            return store.open_read(storage.join(config.output, name))

        if "coco" in merge.profiles:
            missing = recorded.plan.units - len(self._left)
            self._checks.append(
                CocoCheck(
                    names,
                    open_file,
                    head=_head(recorded, merge, missing),
                    thresholds=merge.thresholds,
                    images_per_file=merge.images_per_file,
                    out=out,
                )
            )
        if "coco-results" in merge.profiles:
            self._checks.append(ResultsCheck(open_file, merge.thresholds, out))

    def start_unit(self, unit: int) -> bool:
        """Whether the rows of a unit are to be compared."""
        if self._left and unit > self._left[0]:
            self._give_up(self._left[0])
        if not self._left or unit != self._left[0]:
            return False
        self._left.popleft()
        return bool(self._checks)

    def row(self, row: Mapping[str, Any]) -> None:
        """Compare one image."""
        for check in self._checks:
            check.row(row)

    def finish(self) -> None:
        """Report what is left over."""
        if self._left and self._checks:
            self._give_up(self._left[0])
        for check in self._checks:
            check.finish_file()

    def _give_up(self, unit: int) -> None:
        if self._checks:
            self._out.note(
                f"the merged files were compared up to unit {unit} only, whose shard is not there "
                "or cannot be read"
            )
        self._left.clear()
        self._checks.clear()


def _check_merged_names(merge: MergeRecord, names: Sequence[str], out: Findings) -> None:
    wanted = [*(names if "coco" in merge.profiles else ())]
    wanted += [RESULTS_FILE] if "coco-results" in merge.profiles else []
    found = [name for name in merge.files if name == RESULTS_FILE or _is_annotations(name)]
    if sorted(found) != sorted(wanted):
        text = f"names {len(found)} files, a merge of its shards has {len(wanted)}"
        out.problem("wrong merged files", MERGE_FILE, text)


def _check_folders(merge: MergeRecord, names: Sequence[str], out: Findings) -> None:
    """Whether the files of other profiles are there; what they hold is not looked at."""
    there = set(names)
    for name in merge.files:
        if not (name == RESULTS_FILE or _is_annotations(name)) and name not in there:
            out.problem("merged file missing", name, "merge again")
    for folder, wanted in merge.folders.items():
        inside = (name for name in names if name.startswith(folder))
        found = sum(not name.rsplit("/", 1)[-1].startswith(".") for name in inside)
        if found < wanted:
            out.problem(
                "merged file missing", folder, f"has {found} files of {wanted}; merge again"
            )


def _units(merge: MergeRecord | None, units: int) -> Iterator[int]:
    """The units that were merged."""
    for first, last in merge.units if merge is not None else ():
        yield from range(max(0, first), min(last + 1, units))


def _head(recorded: RunRecord, merge: MergeRecord, missing: int) -> dict[str, Any]:
    classes = {item.id: item.name for item in recorded.classes}
    if merge.classes is not None:
        classes = {number: name for _, number, name in merge.classes}
    return {
        "info": merge_info(recorded, missing),
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in sorted(classes.items())
        ],
    }


def _is_annotations(name: str) -> bool:
    return "/" not in name and name.startswith(_MERGED_STEM) and name.endswith(".json")


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
