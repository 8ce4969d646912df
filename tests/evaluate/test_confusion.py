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
