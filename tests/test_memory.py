import json

import pytest
import safetensors.torch
import torch

from ntt_ray.errors import InputError
from ntt_ray.matching.memory import MemoryBank, Source, bank_digest
from ntt_ray.records import ClassLabel

CLASSES = (ClassLabel(2, "nut"), ClassLabel(5, "bölt <b>"))
ENCODER = {"name": "vit", "image_size": 56, "checkpoint": "abc"}


def _bank() -> MemoryBank:
    means = [
        [(torch.tensor([3.0, 0.0]), 4.0)],
        [(torch.tensor([0.0, 1.0]), 2.0), (torch.tensor([0.0, 3.0]), 8.0)],
    ]
    return MemoryBank.from_means(CLASSES, means, encoder=ENCODER, reference_digest="d")


def test_prototypes_are_means_over_valid_shots_of_length_one():
    assert _bank().prototypes().tolist() == [[1.0, 0.0], [0.0, 1.0]]
    means = [[(torch.tensor([1.0, 0.0]), 1.0), (torch.tensor([0.0, 3.0]), 1.0)]]
    bank = MemoryBank.from_means(CLASSES[:1], means, encoder={}, reference_digest="")
    # the mean of the un-normalised means (METHOD 13), not of their directions
    torch.testing.assert_close(bank.prototypes()[0], torch.tensor([1.0, 3.0]) / 10**0.5)


def test_round_trip_and_same_bytes():
    data = _bank().to_bytes()
    assert data == _bank().to_bytes()
    read = MemoryBank.from_bytes(data, "bank")
    assert read.classes == CLASSES
    assert read.encoder == ENCODER
    assert torch.equal(read.features, _bank().features)
    assert torch.equal(read.weights, _bank().weights)


def test_banks_without_negatives_keep_their_bytes():
    """The format that was there before negatives: no new tensor, no new metadata."""
    data = _bank().to_bytes()
    assert b"negative" not in data
    assert b"sources" not in data
    assert b'\\"format_version\\": 1' in data
    assert bank_digest(data) == "fecbdd628ffb21b4a03913d607387eeb95fe2bc991b8fc83874a3d2c6634e521"


def test_negatives_and_history_round_trip():
    source = Source("bank", "references", (("nut", 1),))
    bank = MemoryBank.from_means(
        CLASSES,
        _bank().means(),
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


def test_weighted_means_count_pixels():
    # 2 parts of [0, 1] and 8 of [0, 3] (METHOD 47: all pixels of all instances)
    torch.testing.assert_close(_bank().weighted_means()[1], torch.tensor([0.0, 2.6]))
    prototypes, negatives = _bank().targets()
    assert negatives is None
    assert torch.equal(prototypes, _bank().prototypes())


def test_another_encoder_is_refused():
    with pytest.raises(InputError, match="checkpoint is 'abc' in the bank and 'xyz' in this run"):
        _bank().check_encoder({**ENCODER, "checkpoint": "xyz"}, "bank")
    with pytest.raises(InputError, match="checkpoint is 'abc' in the bank and None in this run"):
        _bank().check_encoder({k: v for k, v in ENCODER.items() if k != "checkpoint"}, "bank")
    _bank().check_encoder(ENCODER, "bank")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_must_be_finite(value):
    with pytest.raises(ValueError, match="finite"):
        MemoryBank.from_means(
            CLASSES[:1], [[(torch.tensor([value, 0.0]), 1.0)]], encoder={}, reference_digest=""
        )


def test_damaged_files_are_refused():
    data = _bank().to_bytes()
    for broken in (b"", b"text", data[:40], data[:-4], b"\xff" * 100):
        with pytest.raises(InputError, match="not a usable memory bank"):
            MemoryBank.from_bytes(broken, "bank")
    with pytest.raises(InputError, match="not a usable memory bank"):
        MemoryBank.from_bytes(safetensors.torch.save({"features": torch.zeros(1)}), "bank")


def _with(**tensors) -> bytes:
    """The bank's file with other tensors; None leaves one out."""
    data = _bank().to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    changed = {**safetensors.torch.load(data), **tensors}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    return safetensors.torch.save(kept, header["__metadata__"])


IMPOSSIBLE = {
    "nan": {"features": torch.full((2, 2, 2), float("nan"))},
    "infinite": {"features": torch.full((2, 2, 2), float("inf"))},
    "nan weights": {"weights": torch.full((2, 2), float("nan"))},
    "no weight": {"weights": torch.tensor([[0.0, 0.0], [2.0, 8.0]])},
    "another number of classes": {"features": torch.ones(3, 2, 2)},
    "another number of shots": {"features": torch.ones(2, 1, 2)},
    "flat features": {"features": torch.ones(2, 2)},
    "flat weights": {"weights": torch.ones(2)},
    "no shots": {"shots": torch.tensor([0, 1])},
    "more shots than there are": {"shots": torch.tensor([1, 3])},
    "shots of another length": {"shots": torch.tensor([1])},
    "a tensor missing": {"weights": None},
}


@pytest.mark.parametrize("tensors", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_values_in_a_file_are_refused(tensors):
    MemoryBank.from_bytes(_with(), "bank")
    with pytest.raises(InputError, match="not a usable memory bank"):
        MemoryBank.from_bytes(_with(**tensors), "bank")


def test_features_of_another_width_are_refused():
    _bank().check_width(2)
    with pytest.raises(InputError, match="features of 2 channels, and the encoder makes 384"):
        _bank().check_width(384)
