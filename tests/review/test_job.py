import json
from pathlib import Path

import pytest

from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.json_input import read_json
from ntt_ray.merge.job import merge_thresholds
from ntt_ray.records import ImageLabels
from ntt_ray.report.job import report_run
from ntt_ray.review.importing import import_run
from ntt_ray.review.job import draw_run, estimate_run, open_review, undrawn
from ntt_ray.review.publish import publish_review
from ntt_ray.review.records import Draw, Verdicts, read_draw
from ntt_ray.review.references import Example, references_run, without_parts
from ntt_ray.run.layout import (
    DRAW_FILE,
    ESTIMATE_FILE,
    PROMISE_FILE,
    REPORT_PAGE,
    REVIEW_COCO,
    REVIEW_PAGE,
    REVIEW_TASKS,
    shard_uri,
)
from ntt_ray.run.record import recorded_run
from tests.support import review_run as review_run_module
from tests.support.output_files import unknown_files
from tests.support.review_run import CLASSES, HOSTILE, STORE, box_rle, review_run


def drawn(config, labels=30, images=8, seed=1) -> Draw:
    return draw_run(config, labels=labels, images=images, seed=seed, publish=publish_review).draw


def said(config, folder, draw, verdict="right", name="anna", **more) -> None:
    """Import the same verdict for every label."""
    labels = {str(label.id): verdict for label in draw.labels} | more.pop("labels", {})
    verdicts = Verdicts(draw=draw.sha256, design=draw.design, reviewer=name, labels=labels, **more)
    path = folder / "verdicts.json"
    path.write_bytes(verdicts.to_bytes())
    import_run(config, str(path), None, replace=True)


@pytest.fixture
def config(tmp_path):
    return review_run(tmp_path / "made")


def test_everything_that_is_written_is_in_the_layout(config, tmp_path):
    draw = drawn(config)
    said(config, tmp_path, draw)
    estimate_run(config)
    names = STORE.list_files(config.output)
    assert len([name for name in names if name.startswith("review/")]) == 7
    assert unknown_files(names) == []


def test_the_page_and_the_files_of_other_tools(config):
    draw = drawn(config)
    page = STORE.read_bytes(f"{config.output}/{REVIEW_PAGE}").decode()
    assert HOSTILE not in page
    assert page.count("data:image/jpeg") > len({label.image_id for label in draw.labels})
    coco = read_json(f"{config.output}/{REVIEW_COCO}", STORE)
    ids = {label.id for label in draw.labels}
    ids |= {label.id for image in draw.whole_images for label in image.labels}
    assert {annotation["id"] for annotation in coco["annotations"]} == ids
    images = {label.image_id for label in draw.labels}
    images |= {image.image_id for image in draw.whole_images}
    assert {image["id"] for image in coco["images"]} == images
    tasks = read_json(f"{config.output}/{REVIEW_TASKS}", STORE)
    assert len(tasks) == len(images)


def test_the_estimate_of_all_right_ones(config, tmp_path):
    draw = drawn(config, labels=1000)
    images = {
        str(image.image_id): {"labels": {str(own.id): "right" for own in image.labels}}
        for image in draw.whole_images
    }
    said(config, tmp_path, draw, images=images)
    found = estimate_run(config)
    assert found["precision"] | {"labels": 0} == {
        "share": 1.0, "low": 1.0, "high": 1.0, "labels": 0, "judged": draw.population,
    }  # fmt: skip
    assert found["recall"]["share"] == 1.0
    assert found["recall"]["few_images"]
    assert [c["precision"]["low"] for c in found["classes"]] == [1.0, 1.0]


def test_what_cannot_be_told_widens_both_ends(config, tmp_path):
    draw = drawn(config, labels=20)
    told = [str(label.id) for label in draw.labels]
    said(config, tmp_path, draw, labels=dict.fromkeys(told[:4], "nothing"))
    plain = estimate_run(config)["precision"]
    unclear = dict.fromkeys(told[4:8], "unclear")
    said(config, tmp_path, draw, labels=dict.fromkeys(told[:4], "nothing") | unclear)
    wider = estimate_run(config)["precision"]
    assert wider["low"] < plain["low"]
    assert wider["high"] == pytest.approx(plain["high"])


def test_a_promised_score_is_a_calibration(tmp_path):
    config = review_run(tmp_path / "made", images=120)
    draw = drawn(config, labels=1000)
    assert draw.population == 160
    said(config, tmp_path, draw)
    found = estimate_run(config)
    assert found["promise"]["score"] == pytest.approx(min(d.score for d in draw.depths))
    merge = config.merge.model_copy(update={"calibration": f"{config.output}/{PROMISE_FILE}"})
    promised = config.model_copy(update={"merge": merge})
    thresholds = merge_thresholds(promised, recorded_run(config.output, STORE), STORE)
    assert set(thresholds.by_category) == {label.category_id for label in CLASSES}
    wrong = {str(label.id): "nothing" for label in draw.labels if label.score > 0.8}
    said(config, tmp_path, draw, labels=wrong)
    assert estimate_run(config)["promise"]["score"] is None
    assert not STORE.exists(f"{config.output}/{PROMISE_FILE}")


def test_two_reviewers_and_their_agreement(config, tmp_path):
    draw = drawn(config, labels=20)
    first = str(draw.labels[0].id)
    said(config, tmp_path, draw)
    said(config, tmp_path, draw, name="Bert", labels={first: "mask"})
    found = estimate_run(config)
    assert found["verdicts"] == {"right": 19, "unclear": 1}  # they are even
    assert found["agreement"][0]["share"] == pytest.approx(0.95)
    assert [one["name"] for one in found["reviewers"]] == ["anna", "Bert"]


def test_a_larger_draw_goes_on_where_the_smaller_ended(config, tmp_path):
    small = drawn(config, labels=10, images=0)
    said(config, tmp_path, small)
    large = drawn(config, labels=20, images=0)
    coco = read_json(f"{config.output}/{REVIEW_COCO}", STORE)
    page = STORE.read_bytes(f"{config.output}/{REVIEW_PAGE}").decode()
    assert page.count('"kind": "label"') == 10  # nobody looks at a label twice
    assert estimate_run(config)["judged"] == 10
    new = {label.id for label in large.labels} - {label.id for label in small.labels}
    assert len(new) == 10
    images = {label.image_id for label in large.labels if label.id in new}
    wanted = {label.id for label in large.labels if label.image_id in images}
    assert wanted > new  # what a corrected file lacks was removed, so known labels are there
    assert {annotation["id"] for annotation in coco["annotations"]} == wanted
    path = tmp_path / "corrected.json"
    path.write_text(json.dumps(coco))
    assert set(import_run(config, str(path), "Bert")[1].labels.values()) == {"right"}
    assert estimate_run(config)["judged"] == 20


def test_a_second_file_of_a_reviewer_adds_to_the_first(config, tmp_path):
    small = drawn(config, labels=10, images=0)
    said(config, tmp_path, small)
    large = drawn(config, labels=20, images=0)
    new = {str(label.id) for label in large.labels} - {str(label.id) for label in small.labels}
    path = tmp_path / "new.json"
    file = Verdicts(
        draw=large.sha256, design=large.design, reviewer="anna", labels=dict.fromkeys(new, "mask")
    )
    path.write_bytes(file.to_bytes())
    import_run(config, str(path), None)
    assert estimate_run(config)["verdicts"] == {"mask": 10, "right": 10}
    other = dict.fromkeys([*sorted(new)[:3], str(small.labels[0].id)], "nothing")
    path.write_bytes(file.model_copy(update={"labels": other}).to_bytes())
    with pytest.raises(InputError, match="4 verdicts are others than 'anna' gave before: --repl"):
        import_run(config, str(path), None)
    assert estimate_run(config)["verdicts"] == {"mask": 10, "right": 10}
    import_run(config, str(path), "another anna")
    assert estimate_run(config)["verdicts"] == {"mask": 7, "right": 9, "unclear": 4}
    path.write_bytes(file.model_copy(update={"labels": other, "draw": "older"}).to_bytes())
    import_run(config, str(path), None, replace=True)
    assert estimate_run(config)["verdicts"] == {"mask": 7, "nothing": 4, "right": 9}


def test_a_corrected_file_of_a_smaller_draw_is_refused(config, tmp_path):
    drawn(config, labels=10, images=0)
    coco = STORE.read_bytes(f"{config.output}/{REVIEW_COCO}")
    path = tmp_path / "corrected.json"
    path.write_bytes(coco)
    drawn(config, labels=30, images=0)
    with pytest.raises(InputError, match="made of another draw than is there now"):
        import_run(config, str(path), "anna")


def test_verdicts_that_a_smaller_draw_lacks_are_counted(config, tmp_path, caplog):
    said(config, tmp_path, drawn(config, labels=20, images=0))
    small = drawn(config, labels=8, images=0)
    assert undrawn(open_review(config)) == 12
    assert estimate_run(config)["judged"] == len(small.labels)
    assert "12 verdicts are on labels or images that review/draw.json lacks" in caplog.text


def test_verdicts_of_another_draw_are_in_the_way(config, tmp_path):
    draw = drawn(config)
    said(config, tmp_path, draw)
    with pytest.raises(InputError, match="speaks of another draw"):
        drawn(config, seed=2)
    assert read_draw(f"{config.output}/{DRAW_FILE}", STORE) == draw


def test_what_is_missing_is_named(config, tmp_path):
    with pytest.raises(InputError, match="ntt-ray review draw"):
        estimate_run(config)
    drawn(config)
    with pytest.raises(InputError, match="no verdict yet"):
        estimate_run(config)
    high = config.model_copy(update={"merge": config.merge.model_copy(update={"min_score": 0.99})})
    with pytest.raises(InputError, match=r"48 labels found and none of them kept; lower merge"):
        drawn(high)
    STORE.delete(shard_uri(config.output, 1))
    with pytest.raises(RunIncompleteError, match="1 of 6 shards are missing: 1"):
        drawn(config)


def test_a_run_that_found_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(review_run_module, "_labelled", _empty)
    config = review_run(tmp_path / "empty", images=8)
    with pytest.raises(InputError, match="8 images were labelled, 0 labels found and none of th"):
        drawn(config)


def _empty(entry, number):
    review_run_module.paint(Path(entry.uri), number)
    return ImageLabels.labelled(entry, review_run_module.SIZE_HW, ())


def test_a_damaged_file_in_the_output_is_named_with_the_way_on(config, tmp_path):
    said(config, tmp_path, drawn(config))
    STORE.publish_bytes(f"{config.output}/review/verdicts-z.json", b'{"draw": 1')
    for use in (estimate_run, drawn):
        with pytest.raises(InputError, match=r"verdicts-z\.json: not JSON .* move it away"):
            use(config)


def test_settings_that_keep_fewer_labels_than_were_drawn_from_are_said(config, tmp_path, caplog):
    said(config, tmp_path, drawn(config))
    estimate_run(config)
    assert "draw again" not in caplog.text
    merge = config.merge.model_copy(update={"min_score": 0.6})
    estimate_run(config.model_copy(update={"merge": merge}))
    assert "merge.min_score is 0.6 now: draw again" in caplog.text


def test_an_edited_draw_is_refused(config):
    drawn(config)
    uri = f"{config.output}/{DRAW_FILE}"
    content = read_json(uri, STORE)
    content["population"] += 1
    STORE.publish_bytes(uri, json.dumps(content).encode())
    with pytest.raises(InputError, match="not as it was written"):
        open_review(config)


def test_references_of_what_was_reviewed(config, tmp_path):
    draw = drawn(config, labels=20, images=0)
    rejected = str(draw.labels[0].id)
    said(config, tmp_path, draw, labels={rejected: "nothing"})
    lines = references_run(config, str(tmp_path / "refs.json"), shots=5)
    coco = read_json(str(tmp_path / "refs.json"), STORE)
    counts = {c["id"]: 0 for c in coco["categories"]}
    for annotation in coco["annotations"]:
        counts[annotation["category_id"]] += 1
    assert max(counts.values()) == 5
    negatives = read_json(str(tmp_path / "refs-negatives.json"), STORE)
    assert [a["category_id"] for a in negatives["annotations"]] == [draw.labels[0].category_id]
    assert any("references.orientation: upright" in line for line in lines)
    block = {"annotations": str(tmp_path / "refs.json"), "image_root": config.images}
    from ntt_ray.config import ReferencesConfig
    from ntt_ray.references.dataset import check_images, chosen_references

    references = chosen_references(ReferencesConfig(**block), STORE)
    assert check_images(references, STORE, 0.2)


def test_nothing_right_gives_no_references(config, tmp_path):
    said(config, tmp_path, drawn(config, labels=5), verdict="nothing")
    with pytest.raises(InputError, match="no label was found to be right"):
        references_run(config, str(tmp_path / "refs.json"), shots=5)


def test_the_report_shows_what_was_estimated(config, tmp_path):
    assert report_run(config)["review"] is None
    draw = drawn(config, labels=20)
    said(config, tmp_path, draw, labels={str(draw.labels[0].id): "nothing"})
    found = estimate_run(config)
    assert report_run(config)["review"] == found
    page = STORE.read_bytes(f"{config.output}/{REPORT_PAGE}").decode()
    section = page.split('data-testid="review"')[1].split("</section>")[0]
    assert f"<td>{found['precision']['share']:.3f}</td>" in section
    assert "From no score can it be promised" in section
    assert HOSTILE not in section
    uri = f"{config.output}/{ESTIMATE_FILE}"
    content = read_json(uri, STORE) | {"judged": 9000}
    STORE.publish_bytes(uri, json.dumps(content).encode())
    with pytest.raises(InputError, match="not as it was written"):
        report_run(config)


def test_the_right_class_makes_a_reference_of_it(config, tmp_path):
    draw = drawn(config, labels=30, images=0)
    wrong = draw.labels[0]
    [right] = {c.id for c in draw.classes} - {wrong.category_id}
    verdict = {"labels": {str(wrong.id): "class"}}
    corrected = {str(wrong.id): {"category_id": right}}
    said(config, tmp_path, draw, "unclear", **verdict, corrections=corrected)
    references_run(config, str(tmp_path / "refs.json"), shots=5)
    [reference] = read_json(str(tmp_path / "refs.json"), STORE)["annotations"]
    [negative] = read_json(str(tmp_path / "refs-negatives.json"), STORE)["annotations"]
    assert (reference["category_id"], negative["category_id"]) == (right, wrong.category_id)
    assert reference["segmentation"]["counts"] == wrong.counts == negative["segmentation"]["counts"]


def test_marks_without_masks_are_counted_and_shown_the_way_on(config, tmp_path):
    draw = drawn(config, labels=10, images=8)
    whole = draw.whole_images[0]
    picture = draw.by_image[whole.image_id]
    own = {str(label.id): "right" for label in whole.labels}
    disc = CLASSES[0].category_id
    marks = [
        {"x": 5, "y": 6, "width": 20, "height": 30, "category_id": disc},
        {"x": 70, "y": 50, "width": 11, "height": 10, "category_id": disc},  # rounded: by 1 pixel
        {"x": 5, "y": 6, "category_id": disc},
        {"x": 5, "y": 6, "width": 9, "height": 9},
    ]
    images = {str(whole.image_id): {"labels": own, "missed": marks}}
    said(config, tmp_path, draw, images=images)
    lines = references_run(config, str(tmp_path / "refs.json"), shots=1)
    boxes = read_json(str(tmp_path / "refs-boxes.json"), STORE)
    assert [a["bbox"] for a in boxes["annotations"]] == [[5, 6, 20, 30], [70, 50, 10, 10]]
    assert [i["file_name"] for i in boxes["images"]] == [picture.file_name]
    text = "\n".join(lines)
    assert "a box and no mask, 2 disc" in text
    assert f"from-boxes CONFIG --annotations {tmp_path}/refs-boxes.json" in text
    assert "2 missing objects were marked by a click, or without a class" in text
    right = {str(label.id) for label in draw.labels} | set(own)
    assert f"more than 1 of a class: {len(right) - 2}; --shots takes more" in text


def test_boxes_alone_are_worth_a_file(config, tmp_path):
    draw = drawn(config, labels=5)
    whole = draw.whole_images[0]
    mark = {"x": 5, "y": 6, "width": 20, "height": 30, "category_id": CLASSES[0].category_id}
    own = {str(label.id): "unclear" for label in whole.labels}
    images = {str(whole.image_id): {"labels": own, "missed": [mark]}}
    said(config, tmp_path, draw, "unclear", images=images)
    lines = references_run(config, str(tmp_path / "refs.json"), shots=5)
    assert lines[0].startswith(f"wrote {tmp_path}/refs-boxes.json")
    assert not (tmp_path / "refs.json").exists()


def test_pieces_of_a_reference_are_no_negatives_of_its_class():
    def example(category_id, image_id, box, is_negative):
        return Example(category_id, image_id, box_rle(*box), is_negative)

    reference = example(2, 1, (10, 10, 20, 20), False)
    piece = example(2, 1, (10, 10, 20, 8), True)
    mostly_beside = example(2, 1, (21, 10, 20, 20), True)
    others = [example(5, 1, (10, 10, 20, 8), True), example(2, 3, (10, 10, 20, 8), True)]
    kept = [reference, mostly_beside, *others]
    assert without_parts([piece, *kept]) == kept
    assert without_parts([piece]) == [piece]
    assert without_parts([]) == []
