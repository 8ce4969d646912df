"""What a review of the demo says, and what its references and negatives do to a second run.

``python -m benchmarks.review_demo FOLDER`` renders 64 scenes, labels them, reviews a sample with
verdicts made from the ground truth, and labels again with what the review gave: references,
negatives, both. Each is measured on all images, and with what lies in the first half of the images
on the other half, which no reference was taken from. Eight runs on the CPU take a quarter of an
hour.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.review_truth import judged, objects_of, verdicts_of
from ntt_ray.cli.run import run_steps
from ntt_ray.config import Config, load_config
from ntt_ray.demo.example import render_example
from ntt_ray.json_input import read_json
from ntt_ray.review.importing import import_run
from ntt_ray.review.job import draw_run, estimate_run
from ntt_ray.review.publish import publish_review
from ntt_ray.review.references import references_run
from ntt_ray.run.layout import BANK_FILE, METRICS_FILE
from ntt_ray.storage import Storage

SCENES, LABELS, IMAGES, SEED, SHOTS = 64, 200, 40, 0, 30
STORE = Storage()


def main() -> None:
    """Print the estimate beside the truth, and the mask AP of every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    path, paths = render_example(folder, images=SCENES)
    base = load_config(str(path), paths)
    run_steps(base, brief=True)
    truth = read_json(str(folder / "scenes/targets/annotations.json"), STORE)
    _review(base, truth, folder)
    files = {"all": folder / "reviewed.json"} | {"half": folder / "half.json"}
    _print_counts(files["all"])
    for kind in ("", "-negatives"):
        _first_half(folder / f"reviewed{kind}.json", folder / f"half{kind}.json", truth)
    other = folder / "other_half.json"
    other.write_text(json.dumps(_part(truth, first=False)))
    half = [f"images={other}", f"ground_truth={other}"]
    for part, more in (("all", []), ("half", half)):
        for name, given in _variants(base, files[part]).items():
            output = folder / f"{part}-{name}"
            done = load_config(str(path), [*paths, *more, f"output={output}", *given])
            run_steps(done, brief=True)
            print(part, name, _measured(done, truth), flush=True)


def _review(config: Config, truth: dict[str, Any], folder: Path) -> None:
    drawn = draw_run(config, labels=LABELS, images=IMAGES, seed=SEED, publish=publish_review).draw
    verdicts = folder / "verdicts.json"
    verdicts.write_bytes(verdicts_of(drawn, objects_of(truth)).to_bytes())
    import_run(config, str(verdicts), None)
    found = estimate_run(config)
    print("estimate", found["precision"], found["recall"], found["promise"]["score"], flush=True)
    for line in references_run(config, str(folder / "reviewed.json"), SHOTS):
        print(" ", line)


def _variants(base: Config, reviewed: Path) -> dict[str, list[str]]:
    """Overrides of the configuration: as it was, with references, with negatives, with both."""
    root = f"{base.image_root}"
    negatives = {
        "annotations": str(reviewed.with_name(f"{reviewed.stem}-negatives.json")),
        "image_root": root,
    }
    rejected = [f"references.negatives={json.dumps(negatives)}"]
    references = [
        f"references.annotations={reviewed}",
        f"references.image_root={root}",
        f"references.extends={base.output}/{BANK_FILE}",
    ]
    return {
        "as before": [],
        "references": references,
        "negatives": rejected,
        "both": references + rejected,
    }


def _part(coco: dict[str, Any], *, first: bool) -> dict[str, Any]:
    """The images of one half, with what is annotated in them."""
    ids = {i["id"] for i in coco["images"] if (i["id"] <= SCENES // 2) == first}
    return coco | {
        "images": [i for i in coco["images"] if i["id"] in ids],
        "annotations": [a for a in coco["annotations"] if a["image_id"] in ids],
    }


def _first_half(source: Path, target: Path, truth: dict[str, Any]) -> None:
    coco, ids = read_json(str(source), STORE), {i["file_name"]: i["id"] for i in truth["images"]}
    assert all(ids[i["file_name"]] == i["id"] for i in coco["images"])
    part = _part(coco, first=True)
    target.write_text(json.dumps(part))
    _print_counts(target)


def _print_counts(path: Path) -> None:
    print(path.name, len(read_json(str(path), STORE)["annotations"]), flush=True)


def _measured(config: Config, truth: dict[str, Any]) -> dict[str, Any]:
    """Mask AP, and what the labels that are kept are."""
    segm = read_json(f"{config.output}/{METRICS_FILE}", STORE)["segm"]
    every = draw_run(config, labels=10**6, images=0, seed=SEED, publish=lambda _: None).draw
    objects, pictures = objects_of(truth), every.by_image
    kinds = Counter(
        judged(label, every.names, pictures[label.image_id], objects)[0] for label in every.labels
    )
    return {"AP": round(segm["AP"], 4), "AP50": round(segm["AP50"], 4), **dict(kinds.most_common())}


if __name__ == "__main__":
    main()
