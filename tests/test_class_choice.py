import pytest

from ntt_ray.errors import InputError
from ntt_ray.outputs.class_choice import choose_classes
from ntt_ray.records import ClassLabel

CLASSES = [ClassLabel(9, "truck"), ClassLabel(3, "car"), ClassLabel(17, "cat")]
CHOICES = {
    "all": (None, {}, None, {3: "car", 9: "truck", 17: "cat"}),
    "some": (("cat", "car"), {}, {3: 3, 17: 17}, {3: "car", 17: "cat"}),
    "none": ((), {}, {}, {}),
    "renamed": (None, {"cat": "Katze"}, {3: 3, 9: 9, 17: 17}, {3: "car", 9: "truck", 17: "Katze"}),
    "two become one": (
        None,
        {"truck": "vehicle", "car": "vehicle"},
        {3: 3, 9: 3, 17: 17},
        {3: "vehicle", 17: "cat"},
    ),
    "one joins another": (("car", "truck"), {"truck": "car"}, {3: 3, 9: 3}, {3: "car"}),
    "swapped": (
        ("car", "cat"),
        {"cat": "car", "car": "cat"},
        {3: 3, 17: 17},
        {3: "cat", 17: "car"},
    ),
}
WRONG = {
    "unknown": (("cta",), {}, "merge.classes: cta: the run has no such class; did you mean 'cat'"),
    "unknown to rename": (None, {"dog": "cat"}, "merge.rename: dog: the run has no such class"),
    "renamed but left out": (("cat",), {"car": "x"}, "car: is not one of merge.classes"),
}


@pytest.mark.parametrize(("names", "new", "categories", "labels"), CHOICES.values(), ids=CHOICES)
def test_choices(names, new, categories, labels):
    choice = choose_classes(CLASSES, names, new)
    assert choice.categories == categories
    assert choice.labels == tuple(ClassLabel(number, name) for number, name in labels.items())


@pytest.mark.parametrize(("names", "new", "message"), WRONG.values(), ids=WRONG)
def test_wrong_names(names, new, message):
    with pytest.raises(InputError, match=message):
        choose_classes(CLASSES, names, new)
