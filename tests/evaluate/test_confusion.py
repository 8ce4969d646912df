import pytest

from ntt_ray.evaluate.average_precision import Selection
from ntt_ray.evaluate.confusion import MAX_CLASSES, confusion
from tests.support.ellipses import BOX, LARGE, results_of, truth_of

NAMES = {1: "nut", 2: "bolt"}
OTHER = (70, 60, 30, 30)

CASES = {
    "nothing": ([], [], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "right": ([(1, 1, BOX, False)], [(1, 1, BOX, 0.9)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "taken for another": ([(1, 1, BOX, False)], [(1, 2, BOX, 0.9)],
                          [[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
    "missed": ([(1, 2, BOX, False)], [], [[0, 0, 0], [0, 0, 1], [0, 0, 0]]),
    "false alarm": ([], [(1, 2, BOX, 0.9)], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
    "below the score": ([(1, 1, BOX, False)], [(1, 1, BOX, 0.4)],
                        [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
    "its own class comes first": ([(1, 1, BOX, False)], [(1, 2, BOX, 0.9), (1, 1, BOX, 0.6)],
                                  [[1, 0, 0], [0, 0, 0], [0, 1, 0]]),
    "in a crowd": ([(1, 1, LARGE, True)], [(1, 1, OTHER, 0.9)],
                   [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "another image": ([(1, 1, BOX, False)], [(2, 1, BOX, 0.9)],
                      [[0, 0, 1], [0, 0, 0], [1, 0, 0]]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(("objects", "found", "matrix"), CASES.values(), ids=CASES.keys())
def test_confusion(kind, objects, found, matrix):
    selection = Selection(truth_of(objects, 2), results_of(found))
    counted = confusion(selection, kind, NAMES, 0.5)
    assert counted == {"score": 0.5, "labels": ["nut", "bolt", "nothing"], "matrix": matrix}


def test_many_classes_share_a_row():
    names = {i: f"c{i}" for i in range(1, MAX_CLASSES + 6)}
    last = MAX_CLASSES + 5
    objects = [(1, i, BOX, False) for i in (last, last, 3)]
    counted = confusion(Selection(truth_of(objects, 1, last), []), "bbox", names, 0.5)
    assert len(counted["labels"]) == MAX_CLASSES + 2
    assert counted["labels"][-3:] == [f"c{last}", "other classes", "nothing"]
    assert counted["matrix"][MAX_CLASSES - 1][-1] == 2
    assert sum(map(sum, counted["matrix"])) == 3


def test_as_many_classes_as_are_shown_need_no_row_for_others():
    names = {i: f"c{i}" for i in range(1, MAX_CLASSES + 1)}
    truth = truth_of([(1, MAX_CLASSES, BOX, False)], 1, MAX_CLASSES)
    counted = confusion(Selection(truth, []), "bbox", names, 0.5)
    assert counted["labels"] == [*names.values(), "nothing"]
    assert counted["matrix"][MAX_CLASSES - 1][-1] == 1


@pytest.mark.parametrize(("kind", "alarms"), [("bbox", 0), ("segm", 1)])
def test_a_mask_lies_in_a_crowd_by_its_pixels(kind, alarms):
    """The corner of the crowd's box is empty."""
    objects, found = [(1, 1, LARGE, True)], [(1, 1, (5, 5, 16, 16), 0.9)]
    counted = confusion(Selection(truth_of(objects, 1), results_of(found)), kind, NAMES, 0.5)
    assert counted["matrix"][-1][0] == alarms


@pytest.mark.parametrize(
    ("height", "scores"), [(22, (0.9, 0.6)), (30, (0.6, 0.9))], ids=["larger IoU", "then score"]
)
def test_which_of_two_other_classes_an_object_is_taken_for(height, scores):
    names = NAMES | {3: "screw"}
    objects = [(1, 1, (10, 10, 20, 20), False)]
    found = [(1, 2, (10, 10, 20, 30), scores[0]), (1, 3, (10, 10, 20, height), scores[1])]
    counted = confusion(Selection(truth_of(objects, 1), results_of(found)), "bbox", names, 0.5)
    assert counted["matrix"] == [[0, 0, 1, 0], [0] * 4, [0] * 4, [0, 1, 0, 0]]


@pytest.mark.parametrize(("height", "right"), [(20, 1), (21, 0)])
def test_an_iou_of_exactly_a_half_is_a_match(height, right):
    objects, found = [(1, 1, (10, 10, 40, 10), False)], [(1, 1, (10, 10, 40, height), 0.9)]
    counted = confusion(Selection(truth_of(objects, 1), results_of(found)), "bbox", NAMES, 0.5)
    assert counted["matrix"] == [[right, 0, 1 - right], [0, 0, 0], [1 - right, 0, 0]]


@pytest.mark.parametrize(("place", "right"), [(10, 1), (60, 0)], ids=["one place", "apart"])
def test_boxes_of_one_pixel(place, right):
    objects, found = [(1, 1, (10, 10, 1, 1), False)], [(1, 1, (place, place, 1, 1), 0.9)]
    counted = confusion(Selection(truth_of(objects, 1), results_of(found)), "bbox", NAMES, 0.5)
    assert counted["matrix"] == [[right, 0, 1 - right], [0, 0, 0], [1 - right, 0, 0]]


def test_half_of_a_box_in_a_crowd_is_in_it_and_only_in_one_of_its_class():
    crowd, found = (10, 10, 40, 40), [(1, 1, (30, 10, 40, 40), 0.9)]
    for category_id, alarms in ((1, 0), (2, 1)):
        truth = truth_of([(1, category_id, crowd, True)], 1)
        counted = confusion(Selection(truth, results_of(found)), "bbox", NAMES, 0.5)
        assert counted["matrix"][-1][0] == alarms
