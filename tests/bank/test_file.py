"""The file of a memory bank, read without torch: what it says, and what is refused."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from ntt_ray.bank.file import BankFile, Source, bank_digest
from ntt_ray.errors import InputError
from tests.support.banks import CLASSES, ENCODER, make_bank, with_patches


def test_what_a_file_says():
    data = make_bank().to_bytes()
    read = BankFile.from_bytes(data, "bank")
    assert (read.data, read.classes, read.encoder) == (data, CLASSES, ENCODER)
    assert read.reference_digest == "d"
    assert read.negatives is None
    np.testing.assert_array_equal(read.references.features, make_bank().features.numpy())
    # without the padding
    assert [rows.tolist() for rows in read.references.rows()] == [
        [[3.0, 0.0]],
        [[0.0, 1.0], [0.0, 3.0]],
    ]


def test_a_bank_built_in_one_go_is_its_own_history():
    data = make_bank().to_bytes()
    own = Source(bank_digest(data), "d", (("nut", 1), ("bölt <b>", 2)))
    assert BankFile.from_bytes(data, "bank").history() == (own,)


def test_another_encoder_is_refused():
    read = BankFile.from_bytes(make_bank().to_bytes(), "bank")
    with pytest.raises(InputError, match="checkpoint is 'abc' in the bank and 'xyz' in this run"):
        read.check_encoder({**ENCODER, "checkpoint": "xyz"}, "bank")
    with pytest.raises(InputError, match="checkpoint is 'abc' in the bank and None in this run"):
        read.check_encoder({k: v for k, v in ENCODER.items() if k != "checkpoint"}, "bank")
    read.check_encoder(ENCODER, "bank")


def test_damaged_files_are_refused():
    data = make_bank().to_bytes()
    for broken in (b"", b"text", data[:40], data[:-4], b"\xff" * 100):
        with pytest.raises(InputError, match="not a usable memory bank"):
            BankFile.from_bytes(broken, "bank")
    with pytest.raises(InputError, match="not a usable memory bank"):
        BankFile.from_bytes(safetensors.torch.save({"features": torch.zeros(1)}), "bank")


def test_patches_are_read_where_they_are_asked_for():
    bank = with_patches(make_bank())
    read = BankFile.from_bytes(bank.to_bytes(), "bank")
    read.check_patches("bank")
    np.testing.assert_array_equal(read.patches().features, bank.patches.features.numpy())
    np.testing.assert_array_equal(read.patches().inside, bank.patches.inside.numpy())
    without = BankFile.from_bytes(make_bank().to_bytes(), "bank")
    assert (without.has_patches, without.patches()) == (False, None)
    with pytest.raises(InputError, match=r"^base: has no patch features .* Build the bank again"):
        without.check_patches("base")


def _with(**tensors) -> bytes:
    """The bank's file with other tensors; None leaves one out."""
    data = with_patches(make_bank()).to_bytes()
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
    "patches of fewer references": {"patch_features": torch.ones(2, 3, 2).half()},
    "patches of other channels": {"patch_features": torch.ones(3, 3, 4).half()},
    "flat patches": {"patch_features": torch.ones(3).half()},
    "patches without a mask": {"patch_inside": None},
    "masks of other patches": {"patch_inside": torch.ones(3, 2, dtype=torch.bool)},
    "wide patches": {"patch_features": torch.ones(3, 3, 2)},
    "soft masks of patches": {"patch_inside": torch.ones(3, 3)},
    "nan patches": {"patch_features": torch.full((3, 3, 2), float("nan")).half()},
    "numbers of another kind": {"features": torch.ones(2, 2, 2, dtype=torch.bfloat16)},
}


@pytest.mark.parametrize("tensors", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_values_in_a_file_are_refused(tensors):
    BankFile.from_bytes(_with(), "bank")
    with pytest.raises(InputError, match="not a usable memory bank"):
        BankFile.from_bytes(_with(**tensors), "bank")
