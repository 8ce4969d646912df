"""What a review of the demo says, and what its references and negatives do to a second run.

``python -m benchmarks.review_demo FOLDER`` renders 64 scenes, labels them, reviews a sample with
verdicts made from the ground truth, and labels again with what the review gave: references,
negatives, both. Each is measured on all images, and with what lies in the first half of the images
on the other half, which no reference was taken from; that with three draws. It also says how many
of the labels that an order puts first are not right, and how near near-duplicates must be. 14 runs
on the CPU take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.review_truth import judged, objects_of, verdicts_of
from ntt_ray.cli.run import run_steps
from ntt_ray.config import Config, load_config
from ntt_ray.demo.example import render_example
from ntt_ray.json_input import read_json
from ntt_ray.masks import decode_rle
from ntt_ray.review.descriptors import ALIKE, look_of
from ntt_ray.review.draw import draw
from ntt_ray.review.importing import import_run
from ntt_ray.review.job import draw_run, estimate_run, population_of
from ntt_ray.review.look_job import Wanted, look_run
from ntt_ray.review.publish import publish_review
from ntt_ray.review.records import Draw
from ntt_ray.review.references import references_run
from ntt_ray.review.summary import summarise
from ntt_ray.run.layout import BANK_FILE, METRICS_FILE, REVIEW_FOLDER
from ntt_ray.storage import Storage

SCENES, LABELS, IMAGES, SEEDS, SHOTS = 64, 200, 40, (0, 1, 2), 30
LOOKED_AT = (25, 50, 100)
STORE = Storage()


def main() -> None:
    """Print the estimate beside the truth, the mask AP of every run, the worth of the orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    path, paths = render_example(folder, images=SCENES)
    base = load_config(str(path), paths)
    run_steps(base, brief=True)
    truth = read_json(str(folder / "scenes/targets/annotations.json"), STORE)
    every = _every_label(base, images=SCENES)
    said = summarise(every, [verdicts_of(every, objects_of(truth))])
    print("truth", said["precision"]["share"], said["recall"]["share"], said["verdicts"])
    other = folder / "other_half.json"
    other.write_text(json.dumps(_part(truth, first=False)))
    half = [f"images={other}", f"ground_truth={other}"]
    for seed in SEEDS:
        reviewed = folder / f"reviewed-{seed}.json"
        _review(base, truth, seed, reviewed)
        part = folder / f"half-{seed}.json"
        for kind in ("", "-negatives"):
            source = reviewed.with_name(f"{reviewed.stem}{kind}.json")
            coco = _part(read_json(str(source), STORE), first=True)
            part.with_name(f"{part.stem}{kind}.json").write_text(json.dumps(coco))
        works = [(part, half)] + ([] if seed else [(reviewed, [])])
        for file, more in works:
            for name, given in _variants(base, file).items():
                if name == "as before" and seed:
                    continue
                output = folder / f"{file.stem}-{name.replace(' ', '-')}"
                done = load_config(str(path), [*paths, *more, f"output={output}", *given])
                run_steps(done, brief=True)
                print(file.stem, name, _measured(done, truth), flush=True)
    for order, against in (("outliers", None), ("disagreement", f"{folder}/reviewed-0-both")):
        _print_order(base, truth, Wanted(order, SCENES * 100, against=against))
    _print_copies(base)


def _review(config: Config, truth: dict[str, Any], seed: int, output: Path) -> None:
    shutil.rmtree(f"{config.output}/{REVIEW_FOLDER}", ignore_errors=True)
    drawn = draw_run(config, labels=LABELS, images=IMAGES, seed=seed, publish=publish_review).draw
    verdicts = output.with_name("verdicts.json")
    verdicts.write_bytes(verdicts_of(drawn, objects_of(truth)).to_bytes())
    import_run(config, str(verdicts), None)
    found = estimate_run(config)
    print("seed", seed, "precision", found["precision"], "promise", found["promise"]["score"])
    print("seed", seed, "recall", found["recall"], flush=True)
    for line in references_run(config, str(output), SHOTS):
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
    """The images of one half, with what is annotated in them; ids are those of the scenes."""
    ids = {i["id"] for i in coco["images"] if (i["id"] <= SCENES // 2) == first}
    return coco | {
        "images": [i for i in coco["images"] if i["id"] in ids],
        "annotations": [a for a in coco["annotations"] if a["image_id"] in ids],
    }


def _every_label(config: Config, images: int = 0) -> Draw:
    return draw(population_of(config), labels=10**6, images=images, seed=0)


def _kinds(found: Draw, truth: dict[str, Any]) -> list[str]:
    objects, pictures = objects_of(truth), found.by_image
    return [judged(own, found.names, pictures[own.image_id], objects)[0] for own in found.labels]


def _measured(config: Config, truth: dict[str, Any]) -> dict[str, Any]:
    """Mask AP, and what the labels that are kept are."""
    segm = read_json(f"{config.output}/{METRICS_FILE}", STORE)["segm"]
    kinds = Counter(_kinds(_every_label(config), truth))
    return {"AP": round(segm["AP"], 4), "AP50": round(segm["AP50"], 4), **dict(kinds.most_common())}


def _print_order(config: Config, truth: dict[str, Any], wanted: Wanted) -> None:
    kinds = _kinds(look_run(config, wanted, publish=lambda _: None).draw, truth)
    for count in (*LOOKED_AT, len(kinds)):
        wrong = sum(kind != "right" for kind in kinds[:count])
        print(wanted.order, "not right:", wrong, "of", len(kinds[:count]))


def _print_copies(config: Config) -> None:
    """How many labels are known again as near-duplicates in a changed copy of their image."""
    found, differences = _every_label(config), dict[str, list[float]]()
    for own in found.labels:
        picture = found.by_image[own.image_id]
        image = Image.open(Path(str(config.image_root)) / picture.file_name).convert("RGB")
        pixels, mask = np.asarray(image), decode_rle(own.rle(picture))
        whole = look_of(pixels, mask, own.bbox).picture
        for name, changed, box in _copies(pixels, own.bbox):
            part = np.zeros(changed.shape[:2], bool)
            part[: mask.shape[0], : mask.shape[1]] = mask[: part.shape[0], : part.shape[1]]
            look = look_of(changed, part | (part.sum() == 0), box).picture
            rms = float(np.sqrt(((whole - look) ** 2).mean()))
            differences.setdefault(name, []).append(rms)
    for name, own_differences in differences.items():
        known = sum(rms <= ALIKE for rms in own_differences)
        print("copies,", name, "known again:", known, "of", len(own_differences))


def _copies(
    pixels: npt.NDArray[np.uint8], box: tuple[float, ...]
) -> list[tuple[str, npt.NDArray[np.uint8], tuple[float, ...]]]:
    image, (x, y, width, height) = Image.fromarray(pixels), box
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=50)
    smaller = image.resize((image.width * 3 // 4, image.height * 3 // 4))
    grown = [(x - by, y - by, width + 2 * by, height + 2 * by) for by in (1, 3)]
    inside = [(max(0.0, a), max(0.0, b), c, d) for a, b, c, d in grown]
    brighter = [np.clip(pixels * by, 0, 255).astype(np.uint8) for by in (1.1, 1.2)]
    return [
        ("JPEG of quality 50", np.asarray(Image.open(stored).convert("RGB")), box),
        ("three quarters of the size", np.asarray(smaller), tuple(v * 0.75 for v in box)),
        ("box wider by a pixel", pixels, inside[0]),
        ("box wider by three", pixels, inside[1]),
        ("brighter by a tenth", brighter[0], box),
        ("brighter by a fifth", brighter[1], box),
    ]


if __name__ == "__main__":
    main()
