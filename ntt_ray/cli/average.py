"""``ntt-ray average``: the metrics of several runs as mean and standard deviation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from ntt_ray import storage
from ntt_ray.cli.app import Overrides, app, console, name_cell, say, start_logging
from ntt_ray.cli.place import access_settings, is_output, output_settings
from ntt_ray.errors import InputError
from ntt_ray.run.layout import METRICS_FILE

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "AR300")
KINDS = {"segm": "masks", "bbox": "boxes"}
ALARMS = {
    "share": "false alarms, images without objects",
    "class_share": "false alarms, images without the class",
}
CLASSES_SHOWN = 40
COMPARED = ("images", "instances")  # what was judged: the same for runs that differ in a seed


@app.command()
def average(
    outputs: Annotated[
        list[str],
        typer.Argument(metavar="OUTPUT...", help="Outputs, or configs, of two runs or more."),
    ],
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write every metric to this file.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Average the metrics.json of runs that differ in their seed: mean and standard deviation.

    Example: ntt-ray average runs/seed-1/ runs/seed-2/ runs/seed-3/
    """
    start_logging(verbose=False)
    if len(outputs) < 2 or len(set(outputs)) < len(outputs):
        raise InputError("name the outputs of two runs or more, each once")
    settings = access_settings("any", overrides, "average")
    from ntt_ray.evaluate.summary import summary_of
    from ntt_ray.storage import Storage

    store = Storage(settings.storage_options)
    found = [_metrics(_output(place), store) for place in outputs]
    for key in COMPARED:
        if len({metrics.get(key) for metrics in found}) > 1:
            values = ", ".join(str(metrics.get(key)) for metrics in found)
            say(f"these runs were not judged on the same ground truth: {key} {values}", "yellow")
    summary = summary_of(found)
    _print_table(summary, len(found))
    if json_path is not None:
        text = json.dumps({"outputs": outputs, "metrics": summary}, indent=1, sort_keys=True)
        store.publish_bytes(storage.absolute(json_path), f"{text}\n".encode())
        say(f"wrote {storage.redact(json_path)}")


def _output(place: str) -> str:
    """The output that is named, or that of the config that is named."""
    if is_output(place) or not place.endswith((".yaml", ".yml")):
        return storage.absolute(place)
    return output_settings(place, (), "average").output


def _metrics(output: str, store: storage.Storage) -> Mapping[str, Any]:
    from ntt_ray.json_input import read_json

    uri = storage.join(output, METRICS_FILE)
    if not store.exists(uri):
        raise InputError(
            f"{storage.redact(uri)}: no such file; run `ntt-ray evaluate` on that run first"
        )
    metrics = read_json(uri, store)
    if not isinstance(metrics, dict) or not isinstance(metrics.get("per_class"), dict):
        raise InputError(f"{storage.redact(uri)}: not the metrics of a run; evaluate it again")
    return metrics


def _print_table(summary: Mapping[str, Any], runs: int) -> None:
    table = Table(title=f"{runs} runs, mean ± standard deviation, in per cent")
    kinds = [kind for kind in KINDS if summary.get(kind)]
    table.add_column("")
    for kind in kinds:
        table.add_column(KINDS[kind], justify="right")
    for name in METRICS:
        if any(name in summary[kind] for kind in kinds):
            table.add_row(name, *(_shown(summary[kind].get(name)) for kind in kinds))
    names = sorted(summary["per_class"])
    for name in names[:CLASSES_SHOWN]:
        own = summary["per_class"][name]
        table.add_row(
            name_cell(f"AP of {name}"), *(_shown(own.get(k, {}).get("AP")) for k in kinds)
        )
    console.print(table)
    if len(names) > CLASSES_SHOWN:
        say(f"and {len(names) - CLASSES_SHOWN} more classes: --json FILE holds them")
    for key, words in ALARMS.items():
        say(f"{words}: {_shown(summary.get('false_alarms', {}).get(key))}")


def _shown(metric: Mapping[str, Any] | None) -> str:
    """A metric in per cent; says so where only one run has it."""
    if metric is None or metric.get("mean") is None:
        return "-"
    deviation = metric["deviation"]
    spread = "one run" if deviation is None else f"{100 * deviation:.1f}"
    return f"{100 * metric['mean']:.1f} ± {spread}"
