"""Every figure against pycocotools' own summaries, on seeded random and on degenerate inputs.

`test_average_precision` searches with hypothesis for what we did not think of; here are the cases
we did think of, mixed at random, and every figure of `metrics.json` that COCO defines: of all
classes, of each class, of some classes only; boxes and masks; by either evaluator.
"""

import numpy as np
import pytest

from ntt_ray.evaluate.evaluation import evaluate
from ntt_ray.masks import encode_mask
from ntt_ray.records import ClassLabel
from tests.support.ellipses import official

SEEDS = 48
SIDE = 128
CLASSES = {3: "nut", 7: "bolt", 8: "screw", 90: "never there"}


def rectangle(box):
    x, y, width, height = (round(v) for v in box)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[max(0, y) : y + height, max(0, x) : x + width] = True
    return encode_mask(mask)


def some_box(rng):
    """Small, medium, large, thin, of no area, or beyond the image's border."""
    least, most = [(1, 30), (33, 90), (97, 120), (1, 3), (0, 1), (40, 127)][rng.integers(6)]
    width, height = rng.integers(least, most, 2)
    x, y = rng.integers(0, SIDE - min(width, SIDE - 1)), rng.integers(0, SIDE - 40)
    return [float(x), float(y), float(width), float(height)]


def moved(rng, box):
    return [float(max(0, v + rng.integers(-3, 4))) for v in box]


def some_truth(rng, images, kinds):
    annotations = []
    for image in images:
        for _ in range(rng.integers(0, 7)):
            box = some_box(rng)
            mask_area = int(box[2] * box[3])
            annotations.append(
                {
                    "image_id": image["id"],
                    "category_id": int(rng.choice(kinds)),
                    "bbox": box,
                    "segmentation": rectangle(box),
                    # as in COCO, an area is what the file says it is
                    "area": float(mask_area * rng.choice([1.0, 0.7])),
                    "iscrowd": int(rng.random() < 0.2),
                }
                | ({"ignore": 1} if rng.random() < 0.1 else {})
            )
    rng.shuffle(annotations)
    return [{"id": n, **a} for n, a in enumerate(annotations, start=1)]


def some_results(rng, images, annotations, *, many):
    """Objects found, nearly found, found twice and found in another class; and pure noise."""
    scores = rng.choice([0.0, 0.25, 0.5, 0.5, 0.75, 1.0], 4)

    def result(image_id, category_id, box):
        score = float(rng.choice(scores)) if rng.random() < 0.5 else float(rng.random())
        return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}

    found = []
    for annotation in annotations:
        for _ in range(rng.integers(0, 3)):
            own = rng.random() < 0.8
            kind = annotation["category_id"] if own else int(rng.choice(list(CLASSES)))
            exact = rng.random() < 0.3
            box = annotation["bbox"] if exact else moved(rng, annotation["bbox"])
            found.append(result(annotation["image_id"], kind, list(box)))
    for image in images:
        for _ in range(rng.integers(0, 4)):
            found.append(result(image["id"], int(rng.choice(list(CLASSES))), some_box(rng)))
    if many:  # more than count in one image
        crowded = [result(images[0]["id"], 7, some_box(rng)) for _ in range(115)]
        found += crowded
    rng.shuffle(found)
    return [{**r, "segmentation": rectangle(r["bbox"])} for r in found]


def scene(seed):
    """A random case; its seed decides which kinds of oddity it has."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": int(i), "file_name": f"{i}.png", "width": SIDE, "height": SIDE}
        for i in rng.choice(1000, rng.integers(1, 6), replace=False)
    ]
    kinds = [3, 7, 8] if seed % 3 else [7]  # in every third case one class only has objects
    annotations = [] if seed % 8 == 5 else some_truth(rng, images, kinds)
    results = [] if seed % 8 == 6 else some_results(rng, images, annotations, many=seed % 8 == 7)
    if seed % 8 == 4:
        annotations = [{**a, "iscrowd": 1} for a in annotations]
    truth = {
        "images": images,
        "categories": [{"id": i, "name": name} for i, name in CLASSES.items()],
        "annotations": annotations,
    }
    return truth, results


def ours(truth, results, names, evaluator):
    """`evaluate` as a run calls it; the run has ids of its own."""
    ids = {name: 100 + n for n, name in enumerate(CLASSES.values())}
    own = {category_id: ids[name] for category_id, name in CLASSES.items()}
    found = [{**r, "category_id": own[r["category_id"]]} for r in results]
    found = [{**r, "image_id": r["image_id"] + 5000} for r in found]
    file_names = {image["id"] + 5000: image["file_name"] for image in truth["images"]}
    classes = [ClassLabel(ids[name], name) for name in names]
    return evaluate(truth, found, file_names, classes, evaluator=evaluator)


def assert_same(found, expected, what):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (value == -1) == (found[name] is None), (what, name, found[name], value)
        if found[name] is not None:
            assert abs(found[name] - value) <= 1e-6, (what, name, found[name], value)


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, SEEDS))]
)
def test_all_figures_of_all_classes_and_of_each(seed):
    truth, results = scene(seed)
    by_evaluator = {
        evaluator: ours(truth, results, list(CLASSES.values()), evaluator)
        for evaluator in ("pycocotools", "faster-coco-eval")
    }
    for kind in ("bbox", "segm"):
        expected = {None: official(truth, results, kind)}
        expected |= {n: official(truth, results, kind, [i]) for i, n in CLASSES.items()}
        for evaluator, metrics in by_evaluator.items():
            assert_same(metrics[kind], expected[None], (seed, kind, evaluator))
            for name in CLASSES.values():
                own = metrics["per_class"][name][kind]
                assert_same(own, expected[name], (seed, kind, evaluator, name))


@pytest.mark.parametrize("seed", range(0, SEEDS, 4))
def test_some_classes_are_judged_as_if_there_were_no_others(seed):
    truth, results = scene(seed)
    metrics = ours(truth, results, ["bolt", "never there"], "pycocotools")
    assert set(metrics["per_class"]) == {"bolt", "never there"}
    assert metrics["images"] == len(truth["images"])  # those without the classes too
    for kind in ("bbox", "segm"):
        assert_same(metrics[kind], official(truth, results, kind, [7, 90]), (seed, kind))


def test_the_cases_hold_what_they_promise():
    scenes = [scene(seed) for seed in range(SEEDS)]
    annotations = [a for truth, _ in scenes for a in truth["annotations"]]
    results = [r for _, found in scenes for r in found]
    assert any(not truth["annotations"] for truth, _ in scenes)
    assert any(not found for _, found in scenes)
    assert any(truth["annotations"] and all(a["iscrowd"] for a in truth["annotations"])
               for truth, _ in scenes)  # fmt: skip
    assert any(a["iscrowd"] for a in annotations)
    assert any(a.get("ignore") for a in annotations)
    assert any(a["bbox"][2] * a["bbox"][3] == 0 for a in annotations)
    assert any(r["bbox"][2] * r["bbox"][3] == 0 for r in results)
    assert any(len({r["score"] for r in found}) < len(found) for _, found in scenes)
    per_image = [
        sum(r["image_id"] == image["id"] and r["category_id"] == 7 for r in found)
        for truth, found in scenes
        for image in truth["images"]
    ]
    assert max(per_image) > 100
    assert min(per_image) == 0
    for low, high in ((0, 32**2), (32**2, 96**2), (96**2, SIDE**2)):
        assert any(low < a["area"] < high for a in annotations)
