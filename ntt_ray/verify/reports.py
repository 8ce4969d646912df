"""Metrics and report of an output: whether they are as they were written, of this run and merge.

By the digests that are in them, see `merge.digests`. An output without them is whole, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ntt_ray import storage
from ntt_ray.merge.digests import SEAL, digest_of_file, seal_problem
from ntt_ray.merge.record import MergeRecord, results_digest
from ntt_ray.run.layout import METRICS_FILE, REPORT_FILE, REPORT_PAGE, RESULTS_FILE
from ntt_ray.run.record import RunRecord
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings


def check_reports(
    output: str,
    store: Storage,
    recorded: RunRecord,
    merge: MergeRecord | None,
    names: Sequence[str],
    out: Findings,
) -> None:
    """Check those of the files that are there.

    `merge` is the merge record, if there is a usable one; `names` are those of all files of the
    output, relative to it.
    """
    there = set(names)
    if METRICS_FILE in there:
        metrics = _sealed_file(output, store, METRICS_FILE, "evaluate", out)
        known = merge.results().items() if merge is not None else ()
        results = {name: file for name, file in known if file is not None}
        said = metrics.get("results_sha256")
        if merge is not None and merge.has_digests and not known:
            out.notes.append(
                f"{METRICS_FILE}: of a {RESULTS_FILE} that the last merge did not write, so "
                "nothing says whether it is of these labels; the profile coco-results writes one"
            )
        if results and said is not None and said != results_digest(results):
            text = f"was made of another {RESULTS_FILE} than the one of the last merge"
            out.problem("metrics older than merge", METRICS_FILE, f"{text}; evaluate again")
    if REPORT_FILE in there:
        report = _sealed_file(output, store, REPORT_FILE, "report", out)
        if report and report.get("labels_hash") != recorded.labels_hash:
            out.problem("report of another run", REPORT_FILE, "report again")
        _check_page(output, store, report.get("page_sha256"), there, out)
    elif REPORT_PAGE in there:
        text = f"is missing, so {REPORT_PAGE} cannot be checked; report again"
        out.problem("file missing", REPORT_FILE, text)


def _sealed_file(
    output: str, store: Storage, name: str, command: str, out: Findings
) -> dict[str, Any]:
    """What a sealed file holds; empty where it cannot be relied upon."""
    text = store.read_bytes(storage.join(output, name))
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        out.problem("file damaged", name, f"is not JSON ({error}); {command} again")
        return {}
    if (problem := seal_problem(text, data)) is not None:
        out.problem("file edited", name, f"{problem}; {command} again")
        return {}
    if SEAL not in data:
        out.notes.append(f"{name}: of an earlier version, without a digest; {command} again")
    return dict(data)


def _check_page(
    output: str, store: Storage, wanted: str | None, there: set[str], out: Findings
) -> None:
    if wanted is None:  # an earlier version, or damage that was reported
        return
    if REPORT_PAGE not in there:
        out.problem("file missing", REPORT_PAGE, f"belongs to {REPORT_FILE}; report again")
        return
    found = digest_of_file(storage.join(output, REPORT_PAGE), store).sha256
    if found != wanted:
        text = f"its SHA-256 is {found[:12]}, in {REPORT_FILE} {wanted[:12]}; report again"
        out.problem("file edited", REPORT_PAGE, text)
