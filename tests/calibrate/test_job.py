"""Thresholds from the references: what counts, what is left out, and what few samples can tell."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ntt_ray.bank.inputs import BankInputs
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.calibrate import job
from ntt_ray.calibrate.job import (
    bank_without,
    calibrate_run,
    one_image_each,
    pictures_of,
    warn_of,
)
from ntt_ray.calibrate.thresholds import (
    MIN_IMAGES,
    ImageOutcomes,
    Outcome,
    calibrate,
    calibration_of,
    judge,
)
from ntt_ray.cli import app
from ntt_ray.cli.app import console
from ntt_ray.config import build_config
from ntt_ray.errors import InputError
from ntt_ray.evaluate.matching import TruthObject, match
from ntt_ray.intervals import share_range
from ntt_ray.masks import encode_mask
from ntt_ray.records import ClassLabel, Detection, ImageEntry, Reference, ReferenceSet
from ntt_ray.storage import Storage
from tests.support.banks import with_patches

BIRD, FISH = ClassLabel(1, "bird"), ClassLabel(2, "fish")


def _rle(x1, y1, x2, y2):
    mask = torch.zeros(20, 20, dtype=torch.bool).numpy()
    mask[y1:y2, x1:x2] = True
    return encode_mask(mask)


def _found(category_id, score, *box) -> Detection:
    x1, y1, x2, y2 = box
    rle = _rle(*box)
    size = (x2 - x1, y2 - y1)
    return Detection(category_id, score, 0.9, (x1, y1, *size), size[0] * size[1], rle)


# a bird is annotated at (0, 0) to (10, 10); what is a detection there?
HELD = "held to be wrong"
JUDGED = {
    "the annotated object": (_found(1, 0.9, 0, 0, 10, 10), True, True),
    "a part of it": (_found(1, 0.9, 0, 0, 4, 10), False, False),
    "the same class elsewhere": (_found(1, 0.9, 12, 12, 18, 18), None, False),
    "mostly elsewhere": (_found(1, 0.9, 6, 6, 18, 18), None, False),
    "another class on it": (_found(2, 0.9, 0, 0, 10, 10), False, False),
    "a part of it, as another class": (_found(2, 0.9, 0, 0, 4, 10), HELD, False),
    "another class elsewhere": (_found(2, 0.9, 12, 12, 18, 18), HELD, False),
}


@pytest.mark.parametrize(("found", "right", "if_complete"), JUDGED.values(), ids=JUDGED.keys())
def test_what_counts(found, right, if_complete):
    matches = match([found], (TruthObject(1, _rle(0, 0, 10, 10)),))
    expected = (None, True) if right == HELD else (right, False)
    assert judge([found], matches).outcomes == (Outcome(found.category_id, 0.9, *expected),)
    assert judge([found], matches, complete=True).outcomes[0].right is if_complete
    assert judge([found], matches).objects == {1: 1}


def test_a_double_is_a_false_alarm():
    twice = [_found(1, 0.9, 0, 0, 10, 10), _found(1, 0.8, 0, 0, 10, 9)]
    outcomes = judge(twice, match(twice, (TruthObject(1, _rle(0, 0, 10, 10)),))).outcomes
    assert [o.right for o in outcomes] == [True, False]


def _image(*outcomes: tuple[int, float, bool | None], **objects: int) -> ImageOutcomes:
    names = {"bird": 1, "fish": 2}
    return ImageOutcomes(
        tuple(Outcome(*o) for o in outcomes), {names[name]: n for name, n in objects.items()}
    )


def _shares(found):
    return found.evidence.expected_precision, found.evidence.expected_recall


def test_a_threshold_lies_between_right_and_wrong():
    images = [_image((1, 0.8, True), (2, 0.3, False), bird=1) for _ in range(40)]
    images += [_image((2, 0.6, True), (1, 0.4, False), fish=1) for _ in range(40)]
    bird, fish = calibrate(images, [BIRD, FISH])
    assert 0.4 < bird.threshold <= 0.8
    assert 0.3 < fish.threshold <= 0.6
    assert fish.threshold < bird.threshold
    assert _shares(bird) == _shares(fish) == (1.0, 1.0)
    assert (bird.evidence.images, bird.evidence.objects) == (40, 40)
    assert bird.evidence.enough_references


def test_among_nearly_the_best_the_lowest_is_taken_in_the_middle_of_its_gap():
    # one wrong detection costs a little, an F1 of 0.974, two 0.95
    images = [_image((1, 0.8, True), bird=1) for _ in range(19)]
    images += [_image((1, 0.5, False), (1, 0.1, False))]
    (found,) = calibrate(images, [BIRD])
    assert found.threshold == pytest.approx((0.5 + 0.1) / 2)


def test_few_images_draw_a_class_to_all():
    images = [_image((1, 0.8, True), (1, 0.4, False), bird=1) for _ in range(90)]
    images += [_image((2, 0.3, True), (2, 0.1, False), fish=1) for _ in range(5)]
    bird, fish = calibrate(images, [BIRD, FISH])
    assert bird.threshold == pytest.approx(0.6)
    # 5 images of its own (0.2) beside the weight of 10 for what all say (0.6)
    assert fish.threshold == pytest.approx((5 * 0.2 + 10 * 0.6) / 15, abs=1e-6)


# Clopper and Pearson's, of tables; with unclear ones it reaches from none of them to all
RANGES = {
    "none of one": ((0, 1), (0.0, 0.9750)),
    "one of one": ((1, 1), (0.0250, 1.0)),
    "all of five": ((5, 5), (0.4782, 1.0)),
    "half of ten": ((5, 10), (0.1871, 0.8129)),
    "one of ten": ((1, 10), (0.0025, 0.4450)),
    "as a textbook has it": ((81, 263), (0.2527, 0.3676)),
    "one of ten, four unclear": ((1, 10, 4), (0.0025, 0.8129)),
}


@pytest.mark.parametrize(("share", "expected"), RANGES.values(), ids=RANGES.keys())
def test_where_a_share_may_lie(share, expected):
    assert share_range(*share) == pytest.approx(expected, abs=5e-5)


def test_few_samples_say_little():
    few, many = (
        calibrate([_image((1, 0.8, True), bird=1)] * count, [BIRD])[0].evidence
        for count in (5, 500)
    )
    assert few.precision_range == few.recall_range == pytest.approx((0.4782, 1.0), abs=5e-5)
    assert many.precision_range[0] > 0.99
    (found,) = calibrate([_image((1, 0.8, True), bird=1)], [BIRD])
    evidence = found.evidence
    assert (evidence.judged_detections, evidence.right_detections) == (1, 1)
    assert (evidence.precision_range, evidence.recall_range) == (None, None)


def test_what_cannot_be_told_moves_nothing():
    images = [_image((1, 0.8, True), bird=1) for _ in range(9)]
    unclear = [_image((1, 0.8, True), (1, 0.79, None), bird=1) for _ in range(9)]
    (found,), (same,) = calibrate(unclear, [BIRD]), calibrate(images, [BIRD])
    assert (found.threshold, *_shares(found)) == (same.threshold, *_shares(same))
    assert (found.evidence.unclear_detections, same.evidence.unclear_detections) == (0, 0)


def test_what_is_held_to_be_wrong_moves_the_threshold_and_is_no_false_alarm():
    images = [_image((1, 0.8, True), bird=1) for _ in range(9)]
    doubtful = ImageOutcomes((Outcome(1, 0.5, None, True), Outcome(1, 0.9, None, True)), {2: 1})
    (found,) = calibrate([*images, doubtful], [BIRD])
    assert 0.5 < found.threshold <= 0.8
    evidence = found.evidence
    assert (evidence.judged_detections, evidence.unclear_detections) == (9, 1)
    assert evidence.expected_precision == 1.0
    assert evidence.precision_range == share_range(9, 10, 1)


def test_a_wanted_precision():
    images = [_image((1, 0.9, True), bird=1) for _ in range(60)]
    images += [_image((1, 0.7, n % 2 == 0), bird=1) for n in range(60)]  # 0.75 precise with these
    strict, loose = (calibrate(images, [BIRD], wanted_precision=wanted)[0] for wanted in (0.9, 0.7))
    assert _shares(strict) == (1.0, 0.5)
    assert _shares(loose) == (0.75, 0.75)


def test_a_precision_that_cannot_be_had_takes_the_most_precise():
    images = [_image((1, 0.9, n < 8), (1, 0.5, False), bird=1) for n in range(10)]
    (found,) = calibrate(images, [BIRD], wanted_precision=0.99)
    assert 0.5 < found.threshold <= 0.9
    assert found.evidence.expected_precision == 0.8


def test_too_few_references_take_what_all_classes_say():
    images = [_image((1, 0.8, True), (1, 0.2, False), bird=1) for _ in range(30)]
    images += [_image((2, 0.3, True), fish=1) for _ in range(MIN_IMAGES - 1)]
    bird, fish = calibrate(images, [BIRD, FISH])
    assert not fish.evidence.enough_references
    assert _shares(fish) == (None, None)
    assert fish.threshold == pytest.approx(
        calibrate(images, [FISH, ClassLabel(3, "newt")])[1].threshold
    )
    assert bird.evidence.enough_references


@pytest.mark.parametrize(("count", "own"), [(1, False), (2, False), (3, True), (4, True)])
def test_three_images_of_a_class_are_enough_for_a_threshold_of_its_own(count, own):
    images = [_image((1, 0.8, True), (1, 0.4, False), bird=1) for _ in range(30)]
    images += [_image((2, 0.3, True), (2, 0.1, False), fish=1) for _ in range(count)]
    bird, fish = calibrate(images, [BIRD, FISH])
    assert fish.evidence.enough_references is own
    assert (fish.threshold < bird.threshold) is own


def test_nothing_found_at_all():
    images = [_image((1, 0.7, False), bird=1) for _ in range(5)]
    found = calibrate(images, [BIRD, FISH])
    assert [item.threshold for item in found] == [None, None]
    assert _shares(found[0]) == (None, 0.0)
    content = calibration_of(found, wanted_precision=None, bank="abc")
    assert content.thresholds == {}  # merging takes merge.min_score
    assert content.classes["bird"].images == 5


def test_a_threshold_in_digits_keeps_what_it_was_chosen_to_keep():
    images = [_image((1, 0.8123457, True), bird=1) for _ in range(5)]
    (found,) = calibrate(images, [BIRD])
    assert found.threshold == pytest.approx(0.8123457, abs=1e-6)
    assert _shares(found) == (1.0, 1.0)


def test_objects_of_a_class_that_the_bank_lacks_are_no_misses():
    objects = (TruthObject(1, _rle(0, 0, 10, 10)), TruthObject(2, _rle(12, 12, 18, 18)))
    found = [_found(1, 0.9, 0, 0, 10, 10)]
    assert judge(found, match(found, objects)).objects == {1: 1, 2: 1}
    assert judge(found, match(found, objects), classes={1}).objects == {1: 1}


def test_the_file_has_a_threshold_for_every_class():
    images = [_image((1, 0.8, True), bird=1) for _ in range(5)]
    content = calibration_of(calibrate(images, [BIRD, FISH]), wanted_precision=None, bank="abc")
    assert set(content.thresholds) == {"bird", "fish"}
    assert content.classes["bird"].enough_references is True
    assert content.classes["fish"].expected_recall is None
    assert content.classes["fish"].recall_range is None
    assert content.classes["bird"].right_detections == 5


def _reference(number: int, category_id: int, image: int) -> Reference:
    entry = ImageEntry(image, f"{image}.png", f"/x/{image}.png")
    return Reference(number, category_id, entry, (20, 20), (0, 0, 10, 10), _rle(0, 0, 10, 10))


REFERENCES = ReferenceSet(
    (BIRD, FISH),
    (_reference(1, 1, 1), _reference(2, 2, 2), _reference(3, 1, 2), _reference(4, 1, 1)),
)


def _bank(*means: list[float]) -> MemoryBank:
    rows = [[(torch.tensor([value, 1.0]), value) for value in own] for own in means]
    return MemoryBank.from_means([BIRD, FISH], rows, encoder={}, reference_digest="d")


def test_an_image_is_labelled_without_its_own_references():
    bank = _bank([1.0, 3.0, 4.0], [2.0])  # by annotation id
    without_1 = bank_without(bank, REFERENCES, {"/x/1.png"})
    assert without_1.classes == (BIRD, FISH)
    assert without_1.features[0, 0].tolist() == [3.0, 1.0]
    assert without_1.shots.tolist() == [1, 1]
    without_2 = bank_without(bank, REFERENCES, {"/x/2.png"})
    assert without_2.classes == (BIRD,)  # the only fish lies there
    assert without_2.features[0].tolist() == [[1.0, 1.0], [4.0, 1.0]]


def test_what_a_bank_was_extended_from_stays():
    bank = _bank([9.0, 8.0, 1.0, 3.0, 4.0], [2.0])  # two older birds before those of the file
    without = bank_without(bank, REFERENCES, {"/x/1.png", "/x/2.png"})
    assert without.classes == (BIRD,)
    assert without.features[0, :, 0].tolist() == [9.0, 8.0]
    assert without.weights.tolist() == [[9.0, 8.0]]


def test_patches_in_an_image_do_not_help_to_label_it():
    bank = with_patches(_bank([9.0, 1.0, 3.0, 4.0], [2.0]))  # an older bird, then by annotation id
    birds, fish = bank.reference_patches()
    for uris, left in (
        ({"/x/1.png"}, [birds[0], birds[2], fish[0]]),
        ({"/x/2.png"}, [birds[0], birds[1], birds[3]]),
    ):
        without = bank_without(bank, REFERENCES, uris)
        kept = torch.stack([one.features for one in left])
        assert torch.equal(without.patches.features, kept)
        assert int(without.shots.sum()) == 3


def test_negatives_in_an_image_do_not_help_to_label_it():
    rows = [[(torch.tensor([1.0, 0.0]), 1.0)] * 3, [(torch.tensor([0.0, 1.0]), 1.0)]]
    against = [[(torch.tensor([5.0, 1.0]), 1.0), (torch.tensor([6.0, 1.0]), 1.0)], []]
    bank = MemoryBank.from_means(
        [BIRD, FISH], rows, encoder={}, reference_digest="d", negatives=against
    )
    negatives = ReferenceSet((BIRD,), (_reference(7, 1, 3), _reference(8, 1, 1)))
    without = bank_without(bank, REFERENCES, {"/x/1.png"}, negatives)
    assert without.negatives is not None
    assert without.negatives.shots.tolist() == [1, 0]
    assert without.negatives.features[0].tolist() == [[5.0, 1.0]]
    assert bank_without(bank, REFERENCES, {"/x/1.png", "/x/3.png"}, negatives).negatives is None


def test_what_lies_around_a_reference_does_not_help_to_label_its_image():
    """Of each class: what an older bank had, two rows for each image, then other negatives."""
    rows = [[(torch.tensor([1.0, 0.0]), 1.0)] * 3, [(torch.tensor([0.0, 1.0]), 1.0)]]
    values = [[9.0, 1.0, 1.5, 2.0, 2.5, 8.0], [2.0, 2.5]]
    against = [[(torch.tensor([value, 1.0]), 1.0) for value in own] for own in values]
    bank = MemoryBank.from_means(
        [BIRD, FISH], rows, encoder={}, reference_digest="d", negatives=against
    )
    negatives = ReferenceSet((BIRD,), (_reference(7, 1, 1),))

    def left(*uris):
        kept = bank_without(bank, REFERENCES, uris, negatives, 2)
        return {
            label.name: kept.negatives.features[k, :count, 0].tolist()
            for k, (label, count) in enumerate(zip(kept.classes, kept.negatives.shots.tolist()))
        }

    assert left("/x/1.png") == {"bird": [9.0, 2.0, 2.5], "fish": [2.0, 2.5]}
    assert left("/x/2.png") == {"bird": [9.0, 1.0, 1.5, 8.0]}
    assert left("/x/3.png") == dict(zip(("bird", "fish"), values))


def test_images_of_the_same_bytes_are_one_picture(tmp_path):
    def reference(number, category_id, image_id, name, data):
        entry = ImageEntry(image_id, name, str(tmp_path / name))
        (tmp_path / name).write_bytes(data)
        return Reference(number, category_id, entry, (20, 20), (0, 0, 10, 10), _rle(0, 0, 10, 10))

    references = ReferenceSet(
        (BIRD, FISH),
        (
            reference(1, 1, 1, "bird.png", b"both"),
            reference(2, 2, 2, "fish.png", b"both"),
            reference(3, 2, 3, "other.png", b"other"),
        ),
    )
    negatives = ReferenceSet((BIRD,), (reference(1, 1, 3, "against.png", b"both"),))
    both, other = pictures_of(BankInputs(references, negatives, "d", None), Storage())
    assert (both.entry.image_id, both.image_ids) == (1, (1, 2))
    names = {"bird.png", "fish.png", "against.png"}
    assert both.uris == {str(tmp_path / name) for name in names}
    assert (other.image_ids, other.uris) == ((3,), {str(tmp_path / "other.png")})
    coco = {
        "images": [{"id": i, "file_name": f"{i}"} for i in (1, 2, 3, 4)],
        "annotations": [{"id": 10 + i, "image_id": i} for i in (1, 2, 3, 4)],
        "categories": [],
    }
    joined = one_image_each(coco, (both, other))
    assert [image["id"] for image in joined["images"]] == [1, 3]
    assert [(a["id"], a["image_id"]) for a in joined["annotations"]] == [(11, 1), (12, 1), (13, 3)]


def test_near_copies_are_held_out_together(tmp_path, caplog):
    """A picture encoded again at half its size, and a negative that is a JPEG of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    bird = Image.fromarray(pixels).resize((128, 96), Image.Resampling.BICUBIC)

    def reference(image_id, name, picture, **options):
        picture.save(tmp_path / name, **options)
        entry = ImageEntry(image_id, name, str(tmp_path / name))
        width, height = picture.size
        rle = encode_mask(np.ones((height, width), dtype=bool))
        return Reference(image_id, 1, entry, (height, width), (0, 0, 10, 10), rle)

    references = ReferenceSet(
        (BIRD,),
        (
            reference(1, "bird.png", bird),
            reference(2, "small.jpg", bird.resize((64, 48)), quality=80),
            reference(3, "other.png", bird.transpose(Image.Transpose.ROTATE_180)),
        ),
    )
    negatives = ReferenceSet((BIRD,), (reference(9, "against.jpg", bird, quality=70),))
    bird, small, other = pictures_of(BankInputs(references, negatives, "d", None), Storage())
    names = ("against.jpg", "bird.png", "small.jpg")
    assert bird.uris == small.uris == {str(tmp_path / name) for name in names}
    assert bird.names == small.names == names
    assert [picture.image_ids for picture in (bird, small, other)] == [(1,), (2,), (3,)]
    assert other.uris == {str(tmp_path / "other.png")}
    with caplog.at_level("WARNING"):
        warn_of([bird, small, other], extended=7)
    assert "1 pictures" not in caplog.text
    assert "1 picture " in caplog.text
    assert "against.jpg = bird.png = small.jpg" in caplog.text
    assert "the 7 references of that bank cannot be held out" in caplog.text


def test_all_references_in_one_image():
    references = ReferenceSet((BIRD,), (_reference(1, 1, 1), _reference(2, 1, 1)))
    bank = MemoryBank.from_means(
        [BIRD], [[(torch.ones(2), 1.0)] * 2], encoder={}, reference_digest=""
    )
    with pytest.raises(InputError, match="all references lie in one image"):
        bank_without(bank, references, {"/x/1.png"})


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_command(golden_config, tmp_path):
    """Two references a class: their scores are shown, and that they are too few to tell."""
    path, output = tmp_path / "config.yaml", Path(golden_config["output"])
    path.write_text(yaml.safe_dump(golden_config))
    with console.capture() as capture:
        options = ["--precision", "0.9", "--set", "references.background={}"]
        app(["calibrate", str(path), *options], standalone_mode=False)
    said = capture.get()
    assert "too few references to tell for 3 of 3 classes" in said
    assert "calibration.html" in said
    written = json.loads((output / "calibration.json").read_text())
    assert written["wanted_precision"] == 0.9
    assert written["made_with"]["method"] == build_config(golden_config).method.named()
    assert set(written["made_with"]["models"]) == {"encoder", "proposer"}
    assert all(not own["enough_references"] for own in written["classes"].values())
    page = (output / "calibration.html").read_text(encoding="utf-8")
    images = {r["image_id"] for r in _golden_annotations(golden_config)}
    assert page.count('data-testid="picture"') == len(images)
    assert "a precision of 0.9" in page
    assert "Too few references to tell" in page

    ready = [f"--set=bank={output}/bank.safetensors", "--set=references=null"]
    with pytest.raises(InputError, match="references are needed"):
        app(["calibrate", str(path), *ready], standalone_mode=False)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_pictures_that_were_kept_are_not_looked_at_again(golden_config, tmp_path, monkeypatch):
    """Thresholds are those by the models, with other classes and another output's pictures, too."""
    data = {**golden_config, "proposals": {"keep": True}}

    def calibrated(name, kept_by=None, **changes):
        config = build_config({**data, "output": str(tmp_path / name), **changes})
        found = calibrate_run(config, kept_by=kept_by and str(tmp_path / kept_by))
        return found, config.output

    calls = _counted(monkeypatch)
    first, output = calibrated("first")
    assert calls.pop() == {"_label": len(_pictures(golden_config))}
    names = [item.label.name for item in first]
    kept = {
        path.name: path.read_bytes() for path in Path(output, "calibration-proposals").iterdir()
    }
    again, _ = calibrated("first")
    assert calls.pop() == {"_match": len(_pictures(golden_config))}
    assert again == first
    assert {p.name: p.read_bytes() for p in Path(output, "calibration-proposals").iterdir()} == kept

    fewer = {"references": {**data["references"], "classes": names[1:]}}
    changes = fewer | {"method": {**data["method"], "nms_iou": 0.8}}
    anew, _ = calibrated("anew", **changes)
    assert calls.pop().keys() == {"_label"}
    other, place = calibrated("other", "first", **changes)
    assert calls.pop().keys() == {"_match"}
    assert other == anew
    copied = {p.name: p.read_bytes() for p in Path(place, "calibration-proposals").iterdir()}
    assert copied == kept
    with pytest.raises(InputError, match="nowhere: no calibration kept proposals of pictures"):
        calibrated("x", "nowhere")
    higher = {"method": {**data["method"], "min_predicted_iou": 0.6}}
    raised, _ = calibrated("other", **higher)
    assert calls.pop().keys() == {"_match"}
    assert raised == calibrated("higher", **higher)[0]
    assert calls.pop().keys() == {"_label"}
    with pytest.raises(InputError, match=r"--from: .* with proposals\.keep: true"):
        calibrated("plain", "first", proposals={})

    calibrated("first", method={**data["method"], "points_per_side": 8})  # other proposals
    assert calls.pop().keys() == {"_label"}
    for damage in (lambda data: data[:-9], lambda data: data[:200] + b"~~~" + data[203:]):
        for name, content in kept.items():
            Path(output, "calibration-proposals", name).write_bytes(damage(content))
        found, _ = calibrated("first")
        assert found == first
        assert calls.pop()["_label"] == len(_pictures(golden_config))
        again = {p.name: p.read_bytes() for p in Path(output, "calibration-proposals").iterdir()}
        assert kept.items() <= again.items()  # written anew


def _counted(monkeypatch) -> list[dict[str, int]]:
    """Of each calibration, how many pictures which tasks got."""
    counts, run_tasks = [], job.run_tasks

    def counting(function, items, options=None):
        items = list(items)
        if function.func is job._match or not counts:
            counts.append({})
        name = function.func.__name__
        sizes = [len(item[1] if name == "_match" else item) for item in items]
        if sizes:
            counts[-1][name] = sum(sizes)
        return run_tasks(function, items, options)

    monkeypatch.setattr(job, "run_tasks", counting)
    return counts


def _pictures(config) -> set[int]:
    return {row["image_id"] for row in _golden_annotations(config)}


def _golden_annotations(config) -> list[dict]:
    return json.loads(Path(config["references"]["annotations"]).read_text())["annotations"]
