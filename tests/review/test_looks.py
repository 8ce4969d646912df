"""What to look at is chosen, and must not touch what is estimated."""

import json

import pytest

from ntt_ray.errors import InputError
from ntt_ray.json_input import read_json
from ntt_ray.review.importing import import_run
from ntt_ray.review.job import draw_run, estimate_run, open_review, open_reviews
from ntt_ray.review.look_job import Wanted, look_run
from ntt_ray.review.publish import publish_review
from ntt_ray.review.records import Verdicts
from ntt_ray.review.references import references_run
from ntt_ray.review.summary import summarise
from ntt_ray.run.layout import (
    DRAW_FILE,
    ESTIMATE_FILE,
    REVIEW_COCO,
    REVIEW_PAGE,
    REVIEW_TASKS,
    review_name,
    shard_uri,
)
from ntt_ray.run.record import recorded_run
from ntt_ray.run.shard import iter_labels, labels_to_table, read_shard, table_to_bytes
from tests.support.output_files import unknown_files
from tests.support.review_run import CLASSES, STORE, detection, review_run


@pytest.fixture
def config(tmp_path):
    return review_run(tmp_path / "made", images=48)


def looked(config, order="outliers", labels=10, **more):
    return look_run(config, Wanted(order, labels, **more), publish=publish_review).draw


def said(config, folder, draw, verdict, **more):
    labels = {str(label.id): verdict for label in draw.labels}
    verdicts = Verdicts(draw=draw.sha256, design=draw.design, reviewer="anna", labels=labels)
    path = folder / "verdicts.json"
    path.write_bytes(verdicts.to_bytes())
    return import_run(config, str(path), None, **more)[0]


def other_run(folder):
    """A second run of the same images: what it has in unit 0 differs."""
    config = review_run(folder, images=48)
    rows = list(iter_labels(read_shard(config.output, 0, STORE)))
    one, two, three, four = rows
    swapped = [
        detection(CLASSES[1].category_id, 0.9, (10, 10, 20, 20)),  # of another class
        *one.detections[1:],
    ]
    shifted = [two.detections[0], detection(CLASSES[0].category_id, 0.8, (40, 20, 30, 24))]
    more = [*four.detections, detection(CLASSES[0].category_id, 0.9, (0, 50, 9, 9))]
    gone = []
    changed = [
        type(row).labelled(row.entry, (row.height, row.width), tuple(found))
        for row, found in zip((one, two, three, four), (swapped, shifted, gone, more), strict=True)
    ]
    identity = recorded_run(config.output, STORE).identity
    data = table_to_bytes(labels_to_table(changed), identity.provenance())
    STORE.publish_bytes(shard_uri(config.output, 0), data)
    return config.output


def test_the_estimate_is_the_same_whatever_was_looked_at(config, tmp_path):
    drawn = draw_run(config, labels=20, images=5, seed=1, publish=publish_review).draw
    said(config, tmp_path, drawn, "right")
    estimate_run(config)
    before = STORE.read_bytes(f"{config.output}/{ESTIMATE_FILE}")
    chosen = looked(config, labels=40)
    both = {own.id for own in drawn.labels} & {own.id for own in chosen.labels}
    assert both  # the same labels, said to be right there and wrong here
    name = said(config, tmp_path, chosen, "nothing")
    estimate_run(config)
    assert STORE.read_bytes(f"{config.output}/{ESTIMATE_FILE}") == before
    names = STORE.list_files(config.output)
    assert review_name(name, "outliers") in names
    assert unknown_files(names) == []


def test_what_was_chosen_has_no_probability_and_gives_no_estimate(config, tmp_path):
    chosen = looked(config)
    assert chosen.strata == chosen.depths == chosen.groups == chosen.bands == ()
    assert {(own.probability, own.plain, own.stratum) for own in chosen.labels} == {
        (None, False, -1)
    }
    said(config, tmp_path, chosen, "right")
    with pytest.raises(InputError, match="nothing was drawn yet"):
        estimate_run(config)
    [review] = open_reviews(config)
    with pytest.raises(InputError, match="chosen by outliers and not drawn by probability"):
        summarise(chosen, review.verdicts)
    place = f"{config.output}/{review_name(DRAW_FILE, 'outliers')}"
    STORE.publish_bytes(f"{config.output}/{DRAW_FILE}", STORE.read_bytes(place))
    with pytest.raises(InputError, match="is of the order outliers, and lies in the place of"):
        estimate_run(config)


def test_files_of_other_tools_go_where_they_were_made(config, tmp_path):
    draw_run(config, labels=20, images=0, seed=1, publish=publish_review)
    chosen = looked(config, labels=64)
    coco = read_json(f"{config.output}/{review_name(REVIEW_COCO, 'outliers')}", STORE)
    tasks = read_json(f"{config.output}/{review_name(REVIEW_TASKS, 'outliers')}", STORE)
    for number, task in enumerate(tasks):
        task["annotations"] = [{"id": number, "result": task["predictions"][0]["result"]}]
    path = tmp_path / "tool.json"
    for content in (coco, tasks):
        path.write_text(json.dumps(content))
        assert len(import_run(config, str(path), "bert")[1].labels) == len(chosen.labels)
        assert open_review(config).verdicts == ()
    del coco["info"]
    path.write_text(json.dumps(coco))
    with pytest.raises(InputError, match=r"say it by --order \(random, outliers\)"):
        import_run(config, str(path), "bert")
    import_run(config, str(path), "bert", order="outliers")
    assert open_review(config).verdicts == ()


def test_references_are_made_of_both(config, tmp_path):
    drawn = draw_run(config, labels=10, images=0, seed=1, publish=publish_review).draw
    said(config, tmp_path, drawn, "right")
    chosen = looked(config, labels=64)
    said(config, tmp_path, chosen, "right")
    references_run(config, str(tmp_path / "refs.json"), 1000)
    found = read_json(str(tmp_path / "refs.json"), STORE)["annotations"]
    assert len(found) == len({own.id for own in (*drawn.labels, *chosen.labels)})


def test_the_page_says_why_and_that_it_is_no_sample(config):
    chosen = looked(config)
    page = STORE.read_bytes(f"{config.output}/{review_name(REVIEW_PAGE, 'outliers')}").decode()
    assert "Chosen by outliers, not drawn at random" in page
    assert chosen.labels[0].reason in page
    factors = [float(own.reason.split()[0]) for own in chosen.labels]
    assert factors == sorted(factors, reverse=True)


def test_the_same_seed_chooses_the_same_and_more_of_it(config):
    small, large = looked(config, labels=5), looked(config, labels=12)
    assert small.to_bytes() != large.to_bytes()
    assert small.design == large.design
    assert small.labels == large.labels[:5]
    assert looked(config, labels=12).to_bytes() == large.to_bytes()
    assert looked(config, labels=12, pool=40).design != large.design


def test_near_duplicates_come_in_pairs(config):
    chosen = looked(config, "duplicates", labels=64)
    pictures = chosen.by_image
    for one, other in zip(chosen.labels[::2], chosen.labels[1::2], strict=True):
        assert one.image_id != other.image_id
        assert pictures[other.image_id].file_name in one.reason
        assert pictures[one.image_id].file_name in other.reason
    kinds = [
        one.category_id != other.category_id
        for one, other in zip(chosen.labels[::2], chosen.labels[1::2], strict=True)
    ]
    assert kinds == sorted(kinds, reverse=True)  # one of two classes must be wrong


def test_where_a_second_run_disagrees(config, tmp_path):
    against = other_run(tmp_path / "other")
    chosen = looked(config, "disagreement", labels=30, images=5, against=against)
    assert [own.image_id for own in chosen.labels[:3]].count(12) == 2  # whose labels are gone
    reasons = sorted(own.reason for own in chosen.labels)
    assert reasons == [
        "the other run has no label here",
        "the other run has no label here",
        f"the other run says {CLASSES[1].name}",
        "the other run's mask overlaps it with an IoU of 0.80",
    ]
    sizes = [own.reason.startswith("the other run's") for own in chosen.labels]
    assert sizes == sorted(sizes)
    assert {image.image_id for image in chosen.whole_images} == {10, 13}
    assert {own.image_id for own in chosen.labels} == {10, 11, 12}


def test_runs_that_agree_have_nothing_to_look_at(config, tmp_path):
    same = review_run(tmp_path / "same", images=48).output
    with pytest.raises(InputError, match="disagreement: none among 64 of 64 labels"):
        looked(config, "disagreement", against=same)


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"order": "disagreement"}, "name a second run with --against"),
        ({"order": "outliers", "against": "elsewhere"}, "--order disagreement, not outliers"),
        ({"order": "outliers", "images": 3}, "--images: outliers are labels"),
        ({"order": "disagreement", "against": "OWN"}, "--against: is this run"),
        ({"order": "disagreement", "against": "/nowhere"}, "there is no run here"),
    ],
)
def test_what_does_not_go_together(config, wanted, problem):
    if wanted.get("against") == "OWN":
        wanted = {**wanted, "against": config.output}
    with pytest.raises(InputError, match=problem):
        looked(config, **wanted)
