import pytest
import torch

from ntt_ray.bank import patches
from ntt_ray.bank.patches import Patches, ReferencePatches, check_room, reference_patches
from ntt_ray.errors import InputError
from ntt_ray.method.options.correspondence import leading_back


def _one(value: float) -> ReferencePatches:
    inside = torch.tensor([value > 1, True, False])
    return ReferencePatches(torch.full((3, 2), value).half(), inside)


def _values(rows) -> list[list[float]]:
    return [[float(one.features[0, 0]) for one in own] for own in rows]


def test_rows_come_back():
    joined = Patches.of([[_one(1.0), _one(2.0)], [_one(3.0)]])
    assert joined.features.shape == (3, 3, 2)
    assert joined.inside.tolist()[0] == [False, True, False]
    rows = joined.rows([2, 1])
    assert _values(rows) == [[1.0, 2.0], [3.0]]
    assert torch.equal(Patches.of(rows).features, joined.features)
    assert torch.equal(Patches.of(rows).inside, joined.inside)


def test_fewer_patches_are_padded_with_what_resembles_nothing():
    short = ReferencePatches(*(field[:2] for field in _one(2.0)))
    joined = Patches.of([[short], [_one(-3.0)]])
    assert joined.features[:, 2].tolist() == [[0.0, 0.0], [-3.0, -3.0]]
    assert joined.inside.tolist() == [[True, True, False], [False, True, False]]
    again = Patches.of(joined.rows([1, 1]))
    assert torch.equal(again.features, joined.features)
    asked = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for n, one in enumerate((short, _one(-3.0))):
        alone = leading_back(asked, one.features[None], one.inside[None])
        padded = leading_back(asked, joined.features[n : n + 1], joined.inside[n : n + 1])
        assert padded.tolist() == alone.tolist() == [n == 0, n == 1]


def test_some_are_left_out():
    joined = Patches.of([[_one(1.0), _one(2.0)], [_one(3.0)], [_one(4.0), _one(5.0)]])
    left = joined.without({0: {1}, 1: {0}}, [2, 1, 2])
    assert _values(left.rows([1, 0, 2])) == [[1.0], [], [4.0, 5.0]]
    assert left.inside.tolist()[1] == [True, True, False]


def test_patches_of_a_reference():
    """Directions row by row; inside is what the samples of the mean feature hit by half."""
    features = torch.tensor([[[3.0, 4.0], [0.0, 2.0]], [[-5.0, 0.0], [6.0, 8.0]]])
    mask = torch.zeros(8, 8)
    mask[0, 0], mask[0, 4], mask[4, 0] = 1.0, 0.6, 0.5  # the top-left pixels of three patches
    mask[5:, 5:] = 1.0
    found = reference_patches(features, mask)
    assert found.features.dtype == torch.float16
    expected = torch.tensor([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]])
    torch.testing.assert_close(found.features.float(), expected, atol=5e-4, rtol=0)
    assert found.inside.tolist() == [True, True, False, False]


def test_a_speck_has_the_patches_that_it_touches():
    mask = torch.zeros(8, 8)
    mask[2, 5] = 1.0  # no sample is there, and it is a sixteenth of its patch
    assert reference_patches(torch.rand(2, 2, 3), mask).inside.tolist() == [
        False,
        True,
        False,
        False,
    ]


def test_what_takes_too_much_room_is_refused(monkeypatch):
    published = torch.empty(1369, 1024, device="meta")
    check_room(765, published)
    with pytest.raises(
        InputError, match=r"2400 references take 6\.3 GiB.* 2 GiB .*: 765 ref.*shots"
    ):
        check_room(2400, published)
    monkeypatch.setattr(patches, "MAX_BYTES", 35)
    assert len(Patches.of([[_one(1.0)], [_one(2.0)]]).features) == 2
    with pytest.raises(InputError, match="3 references take"):
        Patches.of([[_one(1.0)], [_one(2.0), _one(3.0)]])
