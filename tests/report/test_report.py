"""The report: its counts are the shards', its page is safe, small and the same every time."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import ImageError, InputError, reason_of
from ntt_ray.masks import encode_mask
from ntt_ray.merge.rendering import Loss
from ntt_ray.pages.pictures import mask_to_path
from ntt_ray.records import ClassLabel, Detection, ImageEntry, ImageLabels
from ntt_ray.report import report as report_module
from ntt_ray.report.overlays import MASKS_PER_CLASS, MAX_MASKS
from ntt_ray.report.report import SIZES
from ntt_ray.report.statistics import MAX_REASONS, RunCounts, bin_of
from tests.support.report_run import (
    CLASSES,
    HOSTILE_CLASS,
    HOSTILE_FILE,
    MIN_SCORE,
    SIZE_HW,
    UNIT,
    Run,
    detection,
    example_run,
    references_of_example,
    truth_of_example,
    write_run,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return example_run(tmp_path)


class Page(HTMLParser):
    """Tags with their attributes, and the text of each kind of element."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.text.setdefault(self.tags[-1][0], []).append(data)

    def count(self, tag: str, css_class: str = "") -> int:
        return sum(
            name == tag and (not css_class or css_class in (attrs.get("class") or "").split())
            for name, attrs in self.tags
        )


class TestCounts:
    def test_counts_equal_the_shards(self, run: Run) -> None:
        report = run.report()
        found = [d for item in run.labels for d in item.detections]
        assert report["images"] == {"total": 7, "ok": 3, "empty": 2, "failed": 2}
        assert report["detections"] == {
            "total": len(found),
            "kept": sum(d.score >= MIN_SCORE for d in found),
        }
        assert sum(report["score_histogram"]["all"]) == len(found)
        for row in report["classes"]:
            own = [d for d in found if d.category_id == row["id"]]
            assert row["detections"] == sum(row["histogram"]) == len(own)
            assert row["kept"] == sum(d.score >= MIN_SCORE for d in own)
            assert row["images"] == sum(
                any(d.category_id == row["id"] for d in item.detections) for item in run.labels
            )

    def test_the_file_holds_what_is_returned(self, run: Run) -> None:
        report = run.report(ground_truth=truth_of_example(), images_per_s=2.5)
        text = (Path(run.output) / "report.json").read_text()
        assert json.loads(text) == report
        assert report["images_per_s"] == 2.5

    def test_right_and_wrong_against_the_truth(self, run: Run) -> None:
        report = run.report(ground_truth=truth_of_example())
        histogram = report["score_histogram"]
        assert sum(histogram["right"]) == 2
        assert sum(histogram["wrong"]) == 4
        judged = {image["file_name"]: image["at_threshold"] for image in report["gallery"]}
        assert judged["one.png"] == {"right": 2, "wrong": 0, "missed": 0}
        assert judged[HOSTILE_FILE] == {"right": 0, "wrong": 1, "missed": 1}
        assert judged["missed.png"] == {"right": 0, "wrong": 0, "missed": 1}

    def test_drift_is_said(self, run: Run) -> None:
        run.report()
        assert "Something changed" not in run.html
        alarms = [f"<b>score</b> fell {number}" for number in range(22)]
        assert run.report(drift=alarms)["drift"] == alarms
        assert "&lt;b&gt;score&lt;/b&gt; fell 19<" in run.html
        assert "fell 20<" not in run.html
        assert "and 2 more alarms, in report.json" in run.html

    def test_failures_by_reason(self, run: Run) -> None:
        (failure,) = run.report()["failures"]
        assert failure["reason"] == "there is no file …"
        assert failure["images"] == 2
        assert failure["examples"] == ["gone.png", "lost.png"]
        assert failure["error"] == "there is no file s3://bucket/gone-17.png"

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            ("", "no reason given"),
            ("the file is empty", "the file is empty"),
            ("there is no file /data/a 1.png", "there is no file … N.png"),
            (
                "not an image: the file starts with b'GIF\\'8'",
                "not an image: the file starts with …",
            ),
            ("800 x 600 pixels is more than 5.5", "N x N pixels is more than N"),
        ],
    )
    def test_reason_of(self, error: str, reason: str) -> None:
        assert reason_of(error) == reason

    def test_reasons_are_bounded(self) -> None:
        counts = RunCounts.of_classes(CLASSES, 0.4)
        for number in range(2 * MAX_REASONS):
            error = "reason " + "x" * (number + 1)
            counts.add(ImageLabels.failed(ImageEntry(number, "a", ""), error), None)
        assert len(counts.failures) == MAX_REASONS + 1
        assert counts.failures["other reasons"].images == MAX_REASONS

    @pytest.mark.parametrize(("score", "expected"), [(0.0, 0), (0.019, 0), (0.5, 25), (1.0, 49)])
    def test_bin_of(self, score: float, expected: int) -> None:
        assert bin_of(score, 50) == expected

    def test_a_class_that_the_run_does_not_have(self, run: Run) -> None:
        record = run.arguments["record"]
        run.arguments["record"] = record.model_copy(update={"classes": record.classes[:-1]})
        with pytest.raises(InputError, match="no class with the id 12"):
            run.report()

    def test_what_profiles_lost(self, run: Run) -> None:
        report = run.report(losses={"yolo-seg": Loss(8, 1, 0.5, 0.5), "coco-polygon": Loss(8)})
        same = {"instances": 8, "changed": 0, "mean_iou": 1.0, "min_iou": 1.0}
        assert report["losses"]["coco-polygon"] == same
        assert report["losses"]["yolo-seg"] == same | {
            "changed": 1,
            "mean_iou": 0.9375,
            "min_iou": 0.5,
        }
        text = "8 compared, 1 not the same: IoU 0.9375 on average, 0.500 at worst"
        assert f"<dt>yolo-seg masks</dt><dd>{text}</dd>" in run.html

    def test_partial_run(self, run: Run) -> None:
        report = run.report(shard_ids=[0])
        assert report["shards"] == {"planned": 3, "read": 1}
        assert report["images"]["total"] == UNIT
        assert "this report is partial" in run.html


class TestPage:
    def test_names_from_the_data_are_escaped(self, run: Run, tmp_path: Path) -> None:
        run.report(ground_truth=truth_of_example(), references=references_of_example(tmp_path))
        html = run.html
        assert HOSTILE_CLASS not in html
        assert "<img" not in html
        assert html.count("<script") == html.count("</script>") == 2
        page = Page(html)
        assert HOSTILE_FILE in page.text["bdi"]
        assert HOSTILE_CLASS in page.text["bdi"]
        assert "$title & ${data}" in page.text["bdi"]
        attributes = [attrs for tag, attrs in page.tags if tag == "svg"]
        assert any(a.get("aria-label") == f"prediction for {HOSTILE_FILE}" for a in attributes)
        assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)

    def test_script_data_survives(self, run: Run) -> None:
        run.report()
        found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', run.html)
        assert found is not None
        assert json.loads(found[1])["classes"]["1"] == HOSTILE_CLASS

    def test_nothing_is_loaded(self, run: Run) -> None:
        run.report()
        page = Page(run.html)
        policy = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
        assert policy[0] is not None
        assert policy[0].startswith("default-src 'none'; img-src data:;")
        links = [attributes for tag, attributes in page.tags if tag == "a"]  # followed when asked
        assert {link["rel"] for link in links} == {"noopener noreferrer"}
        for tag, attributes in page.tags:
            for name in ("src", "href") if tag != "a" else ():
                assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes

    def test_masks_on_the_page_are_the_gallerys(self, run: Run) -> None:
        report = run.report(ground_truth=truth_of_example())
        page = Page(run.html)
        assert page.count("figure", "shot") == len(report["gallery"]) == 5
        drawn = sum(len(image["detections"]) for image in report["gallery"])
        assert page.count("g", "m") == drawn == 6
        assert page.count("g", "t") == sum(i["objects"] for i in report["gallery"]) == 4

    def test_images_are_embedded_once(self, run: Run) -> None:
        report = run.report(ground_truth=truth_of_example())
        page = Page(run.html)
        assert page.count("image") == page.count("use") == len(report["gallery"])

    def test_metrics_are_shown(self, run: Run) -> None:
        summary = {"AP": 0.1234, "AP50": 0.5, "AP75": None}
        alarms = {"score": 0.41, "best_f1": 0.5, "precision": 0.5, "recall": 0.5, "share": 0.25}
        metrics = {
            "segm": summary,
            "bbox": summary,
            "per_class": {"disc": {"segm": {"AP": 0.777}}},
            "false_alarms": {**alarms, "images_without_objects": 4},
        }
        report = run.report(metrics=metrics, ground_truth=truth_of_example())
        assert report["threshold"] == 0.41
        for text in ("0.123", "0.777", "25%", "best F1 at 0.41"):
            assert text in run.html

    def test_curves_and_confusion_are_shown(self, run: Run) -> None:
        metrics = {
            "bbox": {"AP": 0.1},
            "per_class": {"<b>disc</b>": {"bbox": {"AP50": 0.515}}},
            "curves": {"<b>disc</b>": [1.0, 0.5, 0.0]},
            "confusion": {
                "score": 0.5,
                "labels": ["<i>", "neither here nor there", "nothing"],
                "matrix": [[3, 0, 1], [0, 0, 0], [4321, 0, 0]],
            },
        }
        run.report(metrics=metrics, ground_truth=truth_of_example())
        page = Page(run.html)
        assert page.count("polyline") == 1
        for text in ('points="0,0.0 50,50.0 100,100.0"', "&lt;b&gt;disc", "&lt;i&gt;", "4,321"):
            assert text in run.html
        assert "<span>0.515</span>" in run.html  # the AP at the curve's IoU
        assert page.count("td", "right") == 1
        assert page.count("td", "wrong") == 2
        assert "neither here nor there" not in run.html
        assert "<b>disc" not in run.html
        assert "Mask AP" not in run.html.split("Scores</h2>")[0].split("Classes</h2>")[0]

    def test_metrics_by_size_class_and_frequency(self, run: Run) -> None:
        boxes = {"AP": 0.1, "AR300": 0.301, "ARs": 0.302, "ARm": None, "ARl": 0.304}
        alarms = {"score": 0.5, "class_share": 0.126, "images_without_objects": 0, "share": None}
        metrics = {
            "bbox": boxes,
            "by_frequency": {"bbox": {"rare": 0.201, "common": None, "frequent": 0.203}},
            "false_alarms": alarms,
            "per_class": {
                "<u>low": {"bbox": {"AP": 0.401, "APs": None}, "false_alarms": {"share": 0.25}},
                "none": {"bbox": {"AP": None}, "false_alarms": {"share": None}},
                "high": {"bbox": {"AP": 0.402, "APs": 0.5}},
            },
        }
        run.report(metrics=metrics, ground_truth=truth_of_example())
        html = run.html
        for text in ("AR300", "0.301", "ARs", "0.302", "0.304"):
            assert text in html
        assert "AP by frequency. Boxes: rare 0.201, common –, frequent 0.203." in html
        assert "found in 12.6% of the images without it" in html
        table = html.split('data-testid="by-class"')[1].split("</details>")[0]
        assert table.index("high") < table.index("&lt;u&gt;low") < table.index("none")
        assert "0.250" in table
        assert "<u>" not in html

    def test_missing_pictures_are_said(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "1.png").unlink()
        Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(tmp_path / "2.png")
        (tmp_path / "7.png").write_bytes(b"not an image")
        run.report()
        for text in ("not there any more", "another size", "not an image"):
            assert text in run.html

    def test_references_come_first(self, run: Run, tmp_path: Path) -> None:
        report = run.report(references=references_of_example(tmp_path))
        assert [row["references"] for row in report["classes"]] == [2, 2, 2]
        page = Page(run.html)
        assert page.count("svg", "crop") == 6  # half of them without their picture
        assert run.html.index("References</h2>") < run.html.index("Gallery</h2>")

    def test_same_run_same_bytes(self, run: Run, tmp_path: Path) -> None:
        arguments = {
            "ground_truth": truth_of_example(),
            "references": references_of_example(tmp_path),
        }
        files = [Path(run.output) / name for name in ("report.html", "report.json")]
        run.report(**arguments)
        first = [path.read_bytes() for path in files]
        run.report(**arguments)
        assert [path.read_bytes() for path in files] == first


class TestUnusualRuns:
    @pytest.mark.parametrize(
        ("labels", "classes"),
        [
            pytest.param([], CLASSES, id="no image"),
            pytest.param([], (), id="no class"),
            pytest.param(
                [ImageLabels.labelled(ImageEntry(1, "a", "gone"), SIZE_HW, ())],
                CLASSES,
                id="no detection",
            ),
            pytest.param(
                [ImageLabels.failed(ImageEntry(1, "a", "gone"), "broken")], CLASSES, id="failed"
            ),
        ],
    )
    def test_little_to_show(
        self, tmp_path: Path, labels: list[ImageLabels], classes: tuple[ClassLabel, ...]
    ) -> None:
        run = write_run(tmp_path, labels, classes)
        report = run.report(ground_truth=truth_of_example())
        assert report["images"]["total"] == len(labels)
        assert report["detections"]["total"] == 0
        assert run.html.endswith("</html>\n")

    def test_a_run_without_any_label_says_so_first(self, tmp_path: Path) -> None:
        entries = [ImageEntry(n, f"{n}.png", "gone") for n in (1, 2)]
        failed = [ImageLabels.failed(entry, "broken <b>") for entry in entries]
        run = write_run(tmp_path / "failed", failed, CLASSES)
        run.report()
        banner = run.html.split('data-testid="banner">')[1].split("</section>")[0]
        assert "Every image failed" in banner
        assert "broken &lt;b&gt;" in banner
        nothing = ImageLabels.labelled(entries[1], SIZE_HW, ())
        run = write_run(tmp_path / "nothing", [failed[0], nothing], CLASSES)
        run.report()
        assert "Nothing was found" in run.html
        assert "Every image failed" not in run.html

    def test_what_the_whole_run_will_take(self, run: Run) -> None:
        rows = [("time", "3 h"), ("cost", "<b>12")]
        assert run.report(plan=rows)["plan"] == [["time", "3 h"], ["cost", "<b>12"]]
        assert "<dt>cost</dt><dd>&lt;b&gt;12</dd>" in run.html
        assert "banner" not in run.html.split("</style>")[1]
        run.report()
        assert 'data-testid="plan"' not in run.html

    @pytest.mark.slow
    def test_many_classes(self, tmp_path: Path) -> None:
        classes = tuple(ClassLabel(i, f"class {i}") for i in range(1, 1204))
        boxes = [(3 * (i % 30), 3 * (i // 30 % 20), 3, 3) for i in range(100)]
        labels = [
            ImageLabels.labelled(
                ImageEntry(number, f"{number}.png", str(tmp_path / "gone.png")),
                SIZE_HW,
                tuple(
                    detection((number * 100 + i) % 1203 + 1, 0.9 - i / 200, box)
                    for i, box in enumerate(boxes)
                ),
            )
            for number in range(30)
        ]
        run = write_run(tmp_path, labels, classes)
        report = run.report()
        assert len(report["classes"]) == 1203
        assert "and 1,163 more classes, in report.json" in run.html
        assert "other classes" in run.html
        assert '<span class="more">50 lower not drawn</span>' in run.html
        assert len(run.html) < 2_000_000

    def test_size_limit(self, tmp_path: Path) -> None:
        """Noise is the worst case of both the pictures and the outlines."""
        rng = np.random.default_rng(0)
        path = tmp_path / "noise.png"
        Image.fromarray(rng.integers(0, 256, (480, 480, 3), dtype=np.uint8)).save(path)
        rough = rng.random((30, 30)).repeat(16, axis=0).repeat(16, axis=1) > 0.5
        box, area = (0.0, 0.0, 480.0, 480.0), int(rough.sum())
        found = (Detection(3, 0.9, 0.9, box, area, encode_mask(rough)),)
        entry = ImageEntry(1, "noise.png", str(path))
        run = write_run(tmp_path, [ImageLabels.labelled(entry, (480, 480), found)], CLASSES)
        only = {"max_images": 0, "random_images": 0, "max_classes": 0}
        run.report(**only)
        empty = len(run.html)
        sizes = {}
        for group in only:
            run.report(**{**only, group: 1})
            sizes[group] = len(run.html) - empty  # a picture with one mask
        assert sizes["max_images"] > sizes["random_images"] > sizes["max_classes"] > 10_000
        parts = {"max_images": 12_000, "random_images": 8_000, "max_classes": 0}  # of large images
        sizes = {group: size + 4 * parts[group] // 3 for group, size in sizes.items()}
        mask = 2000
        assert len(mask_to_path(rough, 1.0)) < mask - 200  # and that for the element around it
        ranked = 24 * (sizes["max_images"] + MAX_MASKS * mask)
        drawn = 24 * (sizes["random_images"] + SIZES["random"].masks * mask)
        of_classes = 100 * (sizes["max_classes"] + MASKS_PER_CLASS * mask)
        assert empty + ranked < 5_000_000
        assert empty + ranked + drawn + of_classes < 10_000_000

    def test_gallery_is_bounded(self, run: Run) -> None:
        others = {"random_images": 0, "max_classes": 0}
        assert len(run.report(max_images=2, **others)["gallery"]) == 2
        assert run.report(max_images=0, **others)["gallery"] == []
        assert "There is no image to show" in run.html


class TestSamples:
    """What is shown beside the ranked images, and what the page says of it without a script."""

    def test_without_ground_truth_nothing_is_called_best(self, run: Run) -> None:
        run.report()
        heads = Page(run.html).text["h3"]
        assert {"Highest scores", "Lowest scores"} <= set(heads)
        assert not {"Best", "Worst"} & set(heads)
        assert "There is no ground truth, so nothing says that they are right." in run.html
        run.report(ground_truth=truth_of_example())
        heads = Page(run.html).text["h3"]
        assert {"Best", "Worst"} <= set(heads)
        assert not {"Highest scores", "Lowest scores"} & set(heads)

    def test_random_images(self, run: Run) -> None:
        report = run.report(max_images=0, max_classes=0, random_images=3)
        ids = [image["image_id"] for image in report["gallery"]]
        assert report["random"] == {"seed": 33, "image_ids": ids}
        assert [image["group"] for image in report["gallery"]] == ["random"] * 3
        assert set(ids) < {1, 2, 3, 4, 7}  # the others failed
        text = "With the seed 33, 3 of all 5 labelled images, with objects or without"
        assert text in run.html
        assert "also drawn" not in run.html
        drawn = sum(len(image["detections"]) for image in report["gallery"])
        assert Page(run.html).count("g", "m") == drawn

    def test_drawn_images_that_are_shown_already(self, run: Run) -> None:
        """The draw is from all images, so it is not changed by what else is shown."""
        report = run.report(random_images=2)
        alone = run.report(max_images=0, max_classes=0, random_images=2)
        assert report["random"] == alone["random"]
        report = run.report(random_images=2)
        assert "random" not in [image["group"] for image in report["gallery"]]
        assert "2 of all 5 labelled images" in run.html
        assert "Above already: 2 images, marked “also drawn”." in run.html
        assert run.html.count('<span class="more">also drawn</span>') == 2

    def test_the_best_image_of_each_class(self, run: Run) -> None:
        report = run.report(max_images=0, random_images=0, ground_truth=truth_of_example())
        shown = [
            (image["group"], image["file_name"], image["category_ids"], image["at_threshold"])
            for image in report["gallery"]
        ]
        assert shown == [
            ("class", "one.png", [3, 7], {"right": 2, "wrong": 0, "missed": 0}),
            ("class", "weak.png", [12], {"right": 0, "wrong": 2, "missed": 0}),
        ]
        assert report["class_images"] == {"classes": 3, "shown_before": 0, "left_out": 0}
        page = Page(run.html)
        assert page.count("g", "m") == 5
        captions = run.html.split('data-testid="class-of-image">')[1:]
        said = [Page(part.split("</span>")[0]).text for part in captions]
        assert ["".join(text["bdi"]) for text in said] == [
            "disc 0.90",
            f"{HOSTILE_CLASS} 0.60",
            f"{CLASSES[2].name} 0.41",
        ]
        assert HOSTILE_CLASS not in run.html

    def test_classes_are_bounded_and_the_rest_is_said(self, run: Run) -> None:
        truth = truth_of_example()
        report = run.report(max_images=0, random_images=0, max_classes=1, ground_truth=truth)
        (image,) = report["gallery"]
        assert (image["file_name"], image["category_ids"]) == ("one.png", [3])
        assert [d["category_id"] for d in image["detections"]] == [3, 3]
        assert image["objects"] == 1
        assert report["class_images"] == {"classes": 3, "shown_before": 0, "left_out": 2}
        text = "Left out, because their highest scores are lower: 2 classes."
        assert text in run.html
        report = run.report()
        assert report["class_images"] == {"classes": 3, "shown_before": 3, "left_out": 0}
        assert "Above already: 3 classes." in run.html
        assert "Left out" not in run.html

    def test_few_masks_of_a_class_are_drawn(self, tmp_path: Path) -> None:
        found = [detection(3, 0.9 - n / 100, (8 * n, 5, 6, 6)) for n in range(9)]
        found.append(detection(7, 0.5, (5, 40, 20, 20)))
        entry = ImageEntry(1, "many.png", str(tmp_path / "gone.png"))
        run = write_run(tmp_path, [ImageLabels.labelled(entry, SIZE_HW, tuple(found))], CLASSES)
        run.report(max_images=0, random_images=0)
        page = Page(run.html)
        scores = {a["data-s"] for t, a in page.tags if t == "g" and a.get("data-k") == "0"}
        assert len(scores) == MASKS_PER_CLASS
        assert min(map(float, filter(None, scores))) == pytest.approx(0.86)
        assert page.count("g", "m") == MASKS_PER_CLASS + 1
        assert '<span class="more">4 lower not drawn</span>' in run.html
        assert "Without a detection: 1 class." in run.html


@pytest.mark.parametrize("how", [{}, {"orientation": "stored"}, {"background": [255, 255, 255]}])
def test_images_are_read_as_the_record_says(run: Run, monkeypatch, how) -> None:
    """The oldest records say nothing, and meant the stored pixels."""
    found = []

    def decoded(data, settings):
        found.append(settings)
        raise ImageError("not looked at")

    monkeypatch.setattr(report_module, "decode_image", decoded)
    record = run.arguments["record"]
    identity = record.identity.model_copy(update={"decode": how})
    run.report(record=record.model_copy(update={"identity": identity}))
    background = (255, 255, 255) if "background" in how else None
    assert {(s.orientation, s.background) for s in found} == {("stored", background)}
