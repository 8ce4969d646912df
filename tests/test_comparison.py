import json
from dataclasses import replace

import pytest

from ntt_ray.protocols.catalogue import PROTOCOLS
from ntt_ray.protocols.comparison import compare, comparison_json
from ntt_ray.protocols.runner import Measured

COCO, VOC, CD = (PROTOCOLS[name] for name in ("coco-novel", "voc", "cd-fsod"))


def rows_of(protocol, measured):
    return {(r.part, r.shots, r.figure): r for r in compare(protocol, measured)}


def coco_run(seed, box, mask=None, shots=30):
    return Measured("novel", shots, seed, {"nAP box": box, "nAP mask": mask})


def test_mean_and_deviation_over_seeds():
    rows = rows_of(COCO, [coco_run(33, 0.36, 0.3), coco_run(34, 0.38, 0.3), coco_run(35, 0.40)])
    box, mask = rows["novel", 30, "nAP box"], rows["novel", 30, "nAP mask"]
    assert (box.ours, box.deviation, box.seeds) == (pytest.approx(0.38), pytest.approx(0.02), 3)
    assert (mask.ours, mask.deviation, mask.seeds) == (pytest.approx(0.3), 0.0, 2)
    assert (box.published, mask.published) == (0.368, 0.344)
    assert box.note == "10 seeds: 37.0 ± 0.2"


def test_one_seed_has_no_deviation_and_no_value_is_no_value():
    rows = rows_of(COCO, [coco_run(33, 0.36, shots=10)])
    assert rows["novel", 10, "nAP box"].deviation is None
    mask = rows["novel", 10, "nAP mask"]
    assert (mask.ours, mask.deviation, mask.seeds, mask.published) == (None, None, 0, None)


def test_nothing_measured():
    assert compare(COCO, []) == []


def test_published_means_stand_beside_means_over_parts():
    runs = [Measured(p.name, 5, 33, {"nAP box": 0.1 * n, "nAP50 box": None})
            for n, p in enumerate(CD.parts)]  # fmt: skip
    rows = rows_of(CD, runs)
    mean = rows["mean", 5, "nAP box"]
    assert (mean.ours, mean.published) == (pytest.approx(0.25), 0.224)
    assert mean.note == "mean over the six"
    assert rows["UODD", 5, "nAP box"].published is None
    part = rows_of(CD, runs[:2])["mean", 5, "nAP box"]
    assert part.note == "mean over the six; ours: 2 of 6 parts"
    assert (mean.comparable, part.comparable) == (True, False)


def test_voc_is_published_as_one_mean():
    runs = [Measured(f"split {n}", k, 33, {"nAP50 box": 0.5 + 0.1 * n})
            for n in (1, 2, 3) for k in (1, 2)]  # fmt: skip
    mean = rows_of(VOC, runs)["mean", None, "nAP50 box"]
    assert (mean.ours, mean.published) == (pytest.approx(0.7), 0.712)
    assert mean.note == "mean over splits and shots; ours: 2 of 5 shots"


def test_a_mean_over_parts_is_taken_seed_by_seed():
    runs = [
        Measured(f"split {n}", 1, seed, {"nAP50 box": value})
        for n, seed, value in ((1, 33, 0.2), (2, 33, 0.6), (1, 34, 0.4), (2, 34, 0.8))
    ]
    mean = rows_of(VOC, runs)["mean", 1, "nAP50 box"]  # fmt: skip
    assert (mean.ours, mean.seeds) == (pytest.approx(0.5), 2)
    assert mean.deviation == pytest.approx(0.1414, abs=1e-4)


def test_the_file_holds_rows_and_runs():
    runs = [coco_run(33, 0.36, 0.3)]
    content = json.loads(comparison_json(COCO, runs, {"method": {"nms_iou": 0.5}}))
    assert content["protocol"] == "coco-novel"
    assert content["rows"][0]["ours"] == pytest.approx(0.36)
    assert content["runs"] == [
        {"part": "novel", "shots": 30, "seed": 33, "figures": {"nAP box": 0.36, "nAP mask": 0.3}}
    ]
    assert content["settings"] == {"method": {"nms_iou": 0.5}}
    assert comparison_json(COCO, runs, {}) == comparison_json(COCO, [replace(runs[0])], {})


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_declarations_fit_together(protocol):
    names = {figure.name for figure in protocol.figures}
    assert len({part.name for part in protocol.parts}) == len(protocol.parts)
    for published in protocol.published:
        assert published.figure in names
        assert published.shots is None or published.shots in protocol.shots
        assert 0 < published.value < 1
