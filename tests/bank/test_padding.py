import pytest
import torch

from ntt_ray.bank.padding import PaddedMeans

MEANS = [[(torch.tensor([3.0, 4.0]), 2.0)], [], [(torch.ones(2), 1.0), (torch.zeros(2), 5.0)]]


def test_padding_and_back():
    padded = PaddedMeans.of(MEANS, 2)
    assert padded.features.shape == (3, 2, 2)
    assert padded.shots.tolist() == [1, 0, 2]
    assert padded.weights.tolist() == [[2.0, 0.0], [0.0, 0.0], [1.0, 5.0]]
    back = padded.means()
    assert [[weight for _, weight in own] for own in back] == [[2.0], [], [1.0, 5.0]]
    assert torch.equal(back[0][0][0], MEANS[0][0][0])


def test_less_some_instances():
    padded = PaddedMeans.of(MEANS, 2)
    without = padded.without({0: {0}, 2: {0}})
    assert without.shots.tolist() == [0, 0, 1]
    assert without.weights.tolist() == [[0.0], [0.0], [5.0]]
    assert without.features[0].tolist() == [[0.0, 0.0]]
    assert padded.shots.tolist() == [1, 0, 2]  # as it was
    assert padded.select([2]).shots.tolist() == [2]


def test_directions_have_length_one_or_zero():
    lengths = PaddedMeans.of(MEANS, 2).directions().norm(dim=2)
    torch.testing.assert_close(lengths, torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))


WRONG = {
    "classes": (2, 2, 0, "for 2 classes"),
    "channels": (3, 5, 0, "5 channels"),
    "a class without any": (3, 2, 1, "between 1 and"),
}


@pytest.mark.parametrize(("classes", "dim", "least", "text"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_refused(classes, dim, least, text):
    stored = PaddedMeans.of(MEANS, 2).stored()
    stored.check(3, 2, least=0)
    with pytest.raises(ValueError, match=text):
        stored.check(classes, dim, least=least)
