import json
import re
from dataclasses import replace

import pytest

from ntt_ray.config import build_config
from ntt_ray.evaluate.summary import summary_of
from ntt_ray.models.published import PUBLISHED
from ntt_ray.reproduce.catalogue import PROTOCOLS
from ntt_ray.reproduce.comparison import compare, comparison_json
from ntt_ray.reproduce.runner import Measured
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
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
    assert (box.published, mask.published) == (0.370, 0.344)
    assert box.note == "mean of 10 draws; ± 0.2 over draws; ours: 3 of 10 draws"
    assert (box.comparable, box.within, box.tolerance) == (True, None, 0.003)


def test_one_draw_stands_beside_one_draw():
    rows = rows_of(COCO, [coco_run(33, 0.3735, 0.335)])
    box, mask = rows["novel", 30, "nAP box"], rows["novel", 30, "nAP mask"]
    assert (box.published, box.within, box.note) == (0.368, True, "")
    assert (mask.published, mask.within) == (0.342, False)


def test_as_many_draws_as_published_are_judged():
    for ours, within in ((0.372, True), (0.366, False)):
        runs = [coco_run(seed, ours) for seed in range(10)]
        box = rows_of(COCO, runs)["novel", 30, "nAP box"]
        assert (box.published, box.within) == (0.370, within)
        assert box.note == "mean of 10 draws; ± 0.2 over draws"


def test_a_mean_over_draws_is_all_that_is_known_of_few_shots():
    box = rows_of(COCO, [coco_run(33, 0.25, shots=1)])["novel", 1, "nAP box"]
    assert (box.published, box.within) == (0.245, None)
    assert box.note == "mean of 10 draws; ours: 1 of 10 draws"


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
    assert (mean.within, part.within) == (False, None)


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
    content = json.loads(comparison_json(COCO, runs, {"method": {"nms_iou": 0.5}}, summary_of))
    assert content["protocol"] == "coco-novel"
    assert content["rows"][0]["ours"] == pytest.approx(0.36)
    assert content["runs"] == [
        {"part": "novel", "shots": 30, "seed": 33, "figures": {"nAP box": 0.36, "nAP mask": 0.3}}
    ]
    assert content["settings"] == {"method": {"nms_iou": 0.5}}
    assert content["summaries"] == [{"part": "novel", "shots": 30, "metrics": {}}]
    again = comparison_json(COCO, [replace(runs[0])], {}, summary_of)
    assert comparison_json(COCO, runs, {}, summary_of) == again


def test_all_metrics_are_summarised_over_seeds():
    metrics = [{"segm": {"AP": value, "APs": None}} for value in (0.3, 0.4)]
    runs = [
        replace(coco_run(seed, 0.3), metrics=m) for seed, m in zip((33, 34), metrics, strict=True)
    ]
    content = json.loads(comparison_json(COCO, runs, {}, summary_of))
    (summary,) = content["summaries"]
    assert summary["metrics"]["segm"] == {
        "AP": {"mean": 0.35, "deviation": pytest.approx(0.0707, abs=1e-4), "runs": 2},
        "APs": {"mean": None, "deviation": None, "runs": 0},
    }


# what the paper says, in per cent, and where it says it for one draw or for ten
PAPER = {
    ("coco-novel", "nAP box", 1, 10): 24.5,
    ("coco-novel", "nAP box", 2, 10): 29.5,
    ("coco-novel", "nAP box", 3, 10): 32.3,
    ("coco-novel", "nAP box", 5, 10): 34.4,
    ("coco-novel", "nAP box", 10, 1): 36.6,
    ("coco-novel", "nAP box", 30, 1): 36.8,
    ("coco-novel", "nAP box", 30, 10): 37.0,
    ("coco-novel", "nAP mask", 30, 1): 34.2,  # its authors' README
    ("coco-novel", "nAP mask", 30, 10): 34.4,
    ("voc", "nAP50 box", None, 1): 71.2,
    ("cd-fsod", "nAP box", 1, 1): 18.0,
    ("cd-fsod", "nAP box", 5, 1): 22.4,
    ("cd-fsod", "nAP box", 10, 1): 21.4,
}


def test_published_figures_are_the_papers():
    ours = {
        (protocol.name, p.figure, p.shots, p.seeds): p.value
        for protocol in PROTOCOLS.values()
        for p in protocol.published
    }
    assert ours == {key: pytest.approx(value / 100) for key, value in PAPER.items()}


def test_the_page_has_the_same_figures_and_bands_checkpoints_and_addresses():
    rows = {tuple(re.split(r" *\| *", line)[1:-1]) for line in PAGE.splitlines()}
    for protocol in PROTOCOLS.values():
        for p in protocol.published:
            figures = (str(p.seeds), f"{100 * p.value:.1f}", f"± {100 * p.tolerance:.1f}")
            shots = "mean" if p.shots is None else str(p.shots)
            assert any(
                row[:2] == (f"`{protocol.name}`", p.figure)
                and re.split("[ ,]", row[2])[0] == shots
                and row[3:] == figures
                for row in rows
            ), (protocol.name, p)
        needed = (
            n for part in protocol.parts for shots in protocol.shots for n in part.needed(shots)
        )
        for text in (protocol.images_from, *(n.source for n in needed)):
            for address in re.findall(r"https?://[^\s:]+", text):
                assert address in PAGE
    models = build_config({"images": "any", "bank": "any", "output": "any"}).models
    for block in (models.encoder, models.proposer):
        assert (f"`{block.name}`", PUBLISHED[block.name].url, PUBLISHED[block.name].sha256) in rows


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_declarations_fit_together(protocol):
    names = {figure.name for figure in protocol.figures}
    assert len({part.name for part in protocol.parts}) == len(protocol.parts)
    for published in protocol.published:
        assert published.figure in names
        assert published.shots is None or published.shots in protocol.shots
        assert 0 < published.tolerance < published.value < 1
