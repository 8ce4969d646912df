"""Does `review draw --order novelties` choose better references than a random draw of as many?

    python -m benchmarks.novelties --json novelties.json      # three seeds; some twenty minutes

Scenes of families that the demo weights never saw. Half of the images are reviewed: a number of
labels, chosen by novelty or drawn at random (three draws), with verdicts made from the ground
truth. What is right, or was corrected, joins the references (`review references`,
`references.extends`), and the kept proposals of the other half are matched again. Prints mask AP
and the best F1 there, before and after, from one reference of a class and from five.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import machine, write_json
from benchmarks.review_truth import objects_of, verdicts_of
from ntt_ray.config import Config, load_config
from ntt_ray.demo.example import render_example
from ntt_ray.demo.families import NOVEL_FAMILIES
from ntt_ray.demo.scenes import write_references, write_scenes
from ntt_ray.evaluate.job import evaluate_run
from ntt_ray.json_input import read_json
from ntt_ray.merge.job import merge
from ntt_ray.review.importing import import_run
from ntt_ray.review.job import draw_run
from ntt_ray.review.look_job import Wanted, look_run
from ntt_ray.review.publish import publish_review
from ntt_ray.review.records import Draw
from ntt_ray.review.references import references_run
from ntt_ray.run.label import label
from ntt_ray.run.layout import BANK_FILE, METRICS_FILE, REVIEW_FOLDER
from ntt_ray.run.rematch import rematch
from ntt_ray.storage import Storage

SEEDS, DRAWS, IMAGES, LABELS, SHOTS = (7, 21, 31), 3, 64, (8, 16, 32), (1, 5)
STORE = Storage()
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="novelties-") as name:
        for seed in arguments.seeds:
            for shots in SHOTS:
                for run in compared(Path(name) / f"{seed}-{shots}", seed, shots):
                    runs.append({"seed": seed, "shots": shots, **run})
                    print(json.dumps(runs[-1]), flush=True)
    print(table(runs))
    if arguments.json:
        write_json(arguments.json, {"runs": runs, "machine": machine(torch.device("cpu"))})


def compared(folder: Path, seed: int, shots: int) -> Iterator[dict[str, Any]]:
    """The figures before, and after each review; they are of the images that were not reviewed."""
    path, overrides = scenes(folder, seed, shots)
    reviewed, other = (_config(path, overrides, folder, half) for half in ("first", "second"))
    for config in (reviewed, other):
        label(config, lambda *_: None)
    merge(other)
    yield {"how": "before", "labels": 0, **measured(other)}
    truth = objects_of(read_json(str(folder / "first.json"), STORE))
    for labels in LABELS:
        for draw in range(DRAWS):
            yield {
                "how": "random",
                "labels": labels,
                **_after(folder, reviewed, other, truth, labels, draw),
            }
        yield {
            "how": "novelties",
            "labels": labels,
            **_after(folder, reviewed, other, truth, labels, None),
        }


def scenes(folder: Path, seed: int, shots: int) -> tuple[str, list[str]]:
    """Render references and images; the annotations of each half are in a file of their own."""
    path, overrides = render_example(folder, images=1)
    for part in ("targets", "references"):
        shutil.rmtree(folder / "scenes" / part)
    targets = folder / "scenes" / "targets"
    write_scenes(targets, families=NOVEL_FAMILIES, images=IMAGES, seed=seed)
    references = folder / "scenes" / "references"
    write_references(references, families=NOVEL_FAMILIES, shots=shots, seed=seed)
    coco = json.loads((targets / "annotations.json").read_text())
    for name, images in (
        ("first", coco["images"][: IMAGES // 2]),
        ("second", coco["images"][IMAGES // 2 :]),
    ):
        ids = {image["id"] for image in images}
        own = [a for a in coco["annotations"] if a["image_id"] in ids]
        part = {**coco, "images": images, "annotations": own}
        (folder / f"{name}.json").write_text(json.dumps(part))
    return str(path), overrides


def _config(path: str, overrides: list[str], folder: Path, half: str, *more: str) -> Config:
    file = folder / f"{half}.json"
    own = [f"images={file}", f"ground_truth={file}", f"output={folder / half}"]
    kept = ["proposals.keep=true", "proposals.embeddings=true"]
    return load_config(path, [*overrides, *own, *kept, *more])


def _after(
    folder: Path, reviewed: Config, other: Config, truth: Any, labels: int, draw: int | None
) -> dict[str, Any]:
    shutil.rmtree(Path(reviewed.output) / REVIEW_FOLDER, ignore_errors=True)
    chosen = _chosen(reviewed, labels, draw)
    verdicts, file = folder / "verdicts.json", folder / "reviewed.json"
    verdicts.write_bytes(verdicts_of(chosen, truth).to_bytes())
    import_run(reviewed, str(verdicts), None)
    references_run(reviewed, str(file), labels)
    assert other.references is not None
    again = other.model_copy(
        update={
            "output": str(folder / "again"),
            "references": other.references.model_copy(
                update={
                    "annotations": str(file),
                    "image_root": reviewed.image_root,
                    "extends": str(Path(other.output) / BANK_FILE),
                }
            ),
        }
    )
    shutil.rmtree(again.output, ignore_errors=True)
    rematch(again, other.output, lambda *_: None)
    merge(again)
    added = len(read_json(str(file), STORE)["annotations"])
    return {"references_added": added, **measured(again)}


def _chosen(config: Config, labels: int, draw: int | None) -> Draw:
    if draw is not None:
        return draw_run(config, labels=labels, images=0, seed=draw, publish=publish_review).draw
    return look_run(config, Wanted("novelties", labels), publish=publish_review).draw


def measured(config: Config) -> Figures:
    """Mask AP and the best F1 of a run that was merged."""
    evaluate_run(config)
    found = read_json(f"{config.output}/{METRICS_FILE}", STORE)
    return {"mask_ap": found["segm"]["AP"], "f1": found["false_alarms"]["best_f1"]}


def table(runs: list[dict[str, Any]]) -> str:
    """Means over the seeds, and in how many of them novelties were better than the mean draw."""
    lines = [
        "| references before | reviewed | mask AP: random | novelties | F1: random | novelties |",
        "|---|---|---|---|---|---|",
    ]
    for shots in SHOTS:
        before = [run for run in runs if run["shots"] == shots and run["how"] == "before"]
        figures = " | | ".join(f"{_mean(before, key):.3f}" for key in ("mask_ap", "f1"))
        lines.append(f"| {shots} of a class | 0 | {figures} | |")
        for labels in LABELS:
            own = [run for run in runs if (run["shots"], run["labels"]) == (shots, labels)]
            kinds = {how: [r for r in own if r["how"] == how] for how in ("random", "novelties")}
            cells = []
            for key in ("mask_ap", "f1"):
                better = sum(
                    _mean([r], key)
                    > _mean([x for x in kinds["random"] if x["seed"] == r["seed"]], key)
                    for r in kinds["novelties"]
                )
                cells.append(f"{_mean(kinds['random'], key):.3f}")
                seeds = len(kinds["novelties"])
                cells.append(
                    f"{_mean(kinds['novelties'], key):.3f} (better in {better} of {seeds})"
                )
            lines.append(f"| {shots} of a class | {labels} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.fmean(run[key] for run in runs)


if __name__ == "__main__":
    main()
