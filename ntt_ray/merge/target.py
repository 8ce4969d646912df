"""Where the files of another merge of a run go, and whether they may go there.

``ntt-ray merge --to PREFIX`` writes another choice of classes, scores or profiles beside the first,
with a ``merge.json`` of its own. What it must not do is write over files that it did not make.
"""

from __future__ import annotations

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.record import MergeRecord
from ntt_ray.run.layout import FILES, MERGE_LOCK_FILE, MERGED_FILE, RECORD_FILE
from ntt_ray.storage import Storage

# names in an output that are taken, so that no prefix inside of it may begin with them
_TAKEN = {name.split("/")[0] for name in FILES}


def target_of(output: str, to: str | None) -> str:
    """The prefix that merged files go to: the output, or another that may lie in it.

    Raises:
        InputError: `to` is the output, or one of its own files or folders.
    """
    if to is None:
        return output
    target, root = storage.absolute(to).rstrip("/"), output.rstrip("/")
    if not to.strip() or target == root:
        raise InputError(
            f"--to {storage.redact(to)}: is the output itself; name another prefix, or leave --to "
            "out to write the first files again"
        )
    inside = target.removeprefix(f"{root}/")
    if inside != target and inside.split("/")[0] in _TAKEN:
        raise InputError(
            f"--to {storage.redact(to)}: {inside.split('/')[0]} in the output holds files of the "
            f"run; name another prefix, such as {storage.redact(root)}/merged/mine"
        )
    return target


def check_target(target: str, before: MergeRecord | None, labels_hash: str, store: Storage) -> None:
    """Whether a prefix beside the first files is free, or has a merge of this run.

    Args:
        target: the prefix.
        before: the record of the merge that lies there.
        labels_hash: that of the run.
        store: access to files.

    Raises:
        InputError: a run lies there, or merged files of another run, or of nobody knows what.
    """
    names = store.list_folder(target)
    where = f"--to {storage.redact(target)}"
    if RECORD_FILE in names:
        raise InputError(f"{where}: is the output of a run; name another prefix")
    if before is not None:
        if before.labels_hash != labels_hash:
            raise InputError(
                f"{where}: holds merged files of another run; name another prefix, or delete them"
            )
        return
    found = sorted(name for name in names if MERGED_FILE.fullmatch(name))
    if found and MERGE_LOCK_FILE not in names:  # a merge that was killed left its lock
        raise InputError(
            f"{where}: holds {', '.join(found)}, which no merge.json there speaks of; name another "
            "prefix, or delete them"
        )
