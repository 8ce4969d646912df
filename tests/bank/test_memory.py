import pytest
import torch

from ntt_ray.bank.file import Source, bank_digest
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.errors import InputError
from tests.support.banks import CLASSES, ENCODER, make_bank, with_patches


def test_prototypes_are_means_over_valid_shots_of_length_one():
    assert make_bank().prototypes().tolist() == [[1.0, 0.0], [0.0, 1.0]]
    means = [[(torch.tensor([1.0, 0.0]), 1.0), (torch.tensor([0.0, 3.0]), 1.0)]]
    bank = MemoryBank.from_means(CLASSES[:1], means, encoder={}, reference_digest="")
    # the mean of the un-normalised means (METHOD 13), not of their directions
    torch.testing.assert_close(bank.prototypes()[0], torch.tensor([1.0, 3.0]) / 10**0.5)


def test_round_trip_and_same_bytes():
    data = make_bank().to_bytes()
    assert data == make_bank().to_bytes()
    read = MemoryBank.from_bytes(data, "bank")
    assert read.classes == CLASSES
    assert read.encoder == ENCODER
    assert torch.equal(read.features, make_bank().features)
    assert torch.equal(read.weights, make_bank().weights)


def test_banks_without_negatives_keep_their_bytes():
    """The format that was there before negatives: no new tensor, no new metadata."""
    data = make_bank().to_bytes()
    assert b"negative" not in data
    assert b"sources" not in data
    assert b'\\"format_version\\": 1' in data
    assert bank_digest(data) == "fecbdd628ffb21b4a03913d607387eeb95fe2bc991b8fc83874a3d2c6634e521"


def test_negatives_and_history_round_trip():
    source = Source("bank", "references", (("nut", 1),))
    bank = MemoryBank.from_means(
        CLASSES,
        make_bank().means(),
        encoder=ENCODER,
        reference_digest="d",
        negatives=[[], [(torch.tensor([1.0, 1.0]), 2.5)]],
        sources=[source, source],
    )
    read = MemoryBank.from_bytes(bank.to_bytes(), "bank")
    assert read.sources == (source, source)
    assert read.negatives.shots.tolist() == [0, 1]
    assert read.negatives.features[1, 0].tolist() == [1.0, 1.0]
    assert read.negatives.weights.tolist() == [[0.0], [2.5]]
    assert read.to_bytes() == bank.to_bytes()


def test_patches_round_trip():
    bank = with_patches(make_bank())
    data = bank.to_bytes()
    read = MemoryBank.from_bytes(data, "bank")
    assert torch.equal(read.patches.features, bank.patches.features)
    assert torch.equal(read.patches.inside, bank.patches.inside)
    assert read.to_bytes() == data == with_patches(make_bank()).to_bytes()
    assert b'\\"format_version\\": 2' in data
    assert [len(own) for own in read.reference_patches()] == [1, 2]
    assert make_bank().reference_patches() == [[], []]
    # what the paper's path compares with is the same
    assert torch.equal(read.prototypes(), make_bank().prototypes())
    assert torch.equal(read.double().patches.features, bank.patches.features)


def test_patches_of_another_number_of_references_are_refused():
    patches = with_patches(make_bank()).patches
    rows = patches.rows([1, 1])
    with pytest.raises(ValueError, match="each reference needs its patches"):
        MemoryBank.from_means(
            CLASSES, make_bank().means(), encoder={}, reference_digest="", patches=rows
        )


def test_weighted_means_count_pixels():
    # 2 parts of [0, 1] and 8 of [0, 3] (METHOD 47: all pixels of all instances)
    torch.testing.assert_close(make_bank().weighted_means()[1], torch.tensor([0.0, 2.6]))
    prototypes, negatives = make_bank().targets()
    assert negatives is None
    assert torch.equal(prototypes, make_bank().prototypes())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_must_be_finite(value):
    with pytest.raises(ValueError, match="finite"):
        MemoryBank.from_means(
            CLASSES[:1], [[(torch.tensor([value, 0.0]), 1.0)]], encoder={}, reference_digest=""
        )


def test_features_of_another_width_are_refused():
    make_bank().check_width(2)
    with pytest.raises(InputError, match="features of 2 channels, and the encoder makes 384"):
        make_bank().check_width(384)
