import pytest
import torch

from ntt_ray.bank.file import BankFile
from ntt_ray.bank.join import join_banks
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.errors import InputError
from ntt_ray.records import MAX_CATEGORY_ID, ClassLabel
from tests.support.banks import with_patches

ENCODER = {"name": "vit", "image_size": 56, "checkpoint": "abc"}
NAMES = ("A", "B", "C")


def _means(*values: float) -> list[tuple[torch.Tensor, float]]:
    return [(torch.tensor([value, 1.0, value / 3]), value) for value in values]


def _bank(classes, digest, encoder=ENCODER, negatives=()) -> MemoryBank:
    labels = [ClassLabel(identity, name) for identity, name, _ in classes]
    return MemoryBank.from_means(
        labels,
        [means for _, _, means in classes],
        encoder=encoder,
        reference_digest=digest,
        negatives=negatives,
    )


A = _bank([(1, "nut", _means(0.1, 0.7)), (4, "bolt", _means(0.3))], "a")
B = _bank([(1, "nut", _means(0.9)), (6, "cog", _means(0.2, 0.6))], "b", negatives=[_means(5.0), []])
C = _bank([(4, "rod", _means(1.7)), (9, "bolt", _means(0.4))], "c")


def test_joined_equals_built_in_one_go_bit_by_bit():
    joined = join_banks((A, B), NAMES[:2])
    whole = _bank(
        [
            (1, "nut", _means(0.1, 0.7, 0.9)),
            (4, "bolt", _means(0.3)),
            (6, "cog", _means(0.2, 0.6)),
        ],
        "whole",
        negatives=[_means(5.0), [], []],
    )
    assert joined.classes == whole.classes
    for name in ("features", "weights", "shots"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
        assert torch.equal(getattr(joined.negatives, name), getattr(whole.negatives, name))
    assert torch.equal(joined.prototypes(), whole.prototypes())


def test_the_history_is_kept_and_joining_in_steps_gives_the_same_bytes():
    at_once = join_banks((A, B, C), NAMES)
    in_steps = join_banks((join_banks((A, B), NAMES[:2]), C), ("AB", "C"))
    assert at_once.to_bytes() == in_steps.to_bytes()
    assert [source.references for source in at_once.sources] == ["a", "b", "c"]
    assert at_once.sources[:1] == BankFile.from_bytes(A.to_bytes(), "A").history()
    assert at_once.sources[1].shots == (("nut", 1), ("cog", 2))
    assert at_once.reference_digest not in ("a", "b", "c")
    assert MemoryBank.from_bytes(at_once.to_bytes(), "bank").sources == at_once.sources


def test_a_class_is_its_name_and_a_taken_id_is_replaced():
    joined = join_banks((A, C), ("A", "C"))
    # bolt keeps the id of A; rod wanted 4, which bolt has
    assert [(c.category_id, c.name) for c in joined.classes] == [
        (1, "nut"),
        (4, "bolt"),
        (10, "rod"),
    ]
    assert joined.shots.tolist() == [2, 2, 1]


def test_ids_end_where_shards_end():
    last = _bank([(MAX_CATEGORY_ID, "cog", _means(1.0))], "last")
    assert join_banks((A, last), ("A", "last")).classes[-1] == ClassLabel(MAX_CATEGORY_ID, "cog")
    other = _bank([(MAX_CATEGORY_ID, "rod", _means(2.0))], "other")
    with pytest.raises(InputError, match="other: class 'rod' needs another id"):
        join_banks((last, other), ("last", "other"))
    with pytest.raises(ValueError, match="category id"):
        _bank([(MAX_CATEGORY_ID + 1, "cog", _means(1.0))], "beyond")


def test_one_bank_stays_what_it_is():
    assert join_banks((A,), ("A",)).to_bytes() == A.to_bytes()


def test_patches_are_joined_where_all_banks_have_them(caplog):
    a, b = with_patches(A), with_patches(B)
    joined = join_banks((a, b), NAMES[:2])
    old, new = a.reference_patches(), b.reference_patches()
    # nut of both, bolt of A, cog of B
    expected = [*old[0], *new[0], *old[1], *new[1]]
    assert torch.equal(joined.patches.features, torch.stack([one.features for one in expected]))
    assert torch.equal(joined.features, join_banks((A, B), NAMES[:2]).features)
    assert join_banks((a,), ("A",)).to_bytes() == a.to_bytes()
    with caplog.at_level("WARNING"):
        assert join_banks((A, b), NAMES[:2]).patches is None
    assert "the patch features of B are left out of the joined bank" in caplog.text


REFUSED = {
    "another encoder": (_bank([(1, "x", _means(1.0))], "x", {**ENCODER, "image_size": 28}),
                        "image_size is 56 in A and 28 in X"),
    "the same references": (_bank([(3, "x", _means(1.0))], "a"), "A and X hold the same"),
    "a name twice": (_bank([(1, "x", _means(1.0)), (2, "x", _means(2.0))], "x"),
                     "X: has the class name 'x' twice"),
}  # fmt: skip


@pytest.mark.parametrize(("other", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_banks_that_cannot_be_joined(other, text):
    with pytest.raises(InputError, match=text):
        join_banks((A, other), ("A", "X"))
