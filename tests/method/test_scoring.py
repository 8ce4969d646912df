import pytest
import torch
import torch.nn.functional as F

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.method.scoring import best_class, similarities
from ntt_ray.records import ClassLabel
from tests import reference


def test_negative_similarities_are_cut():
    features = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    prototypes = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert similarities(features, prototypes).tolist() == [[1.0, 0.6000000238418579], [0.0, 0.0]]


def test_of_equal_scores_the_lower_class_wins():
    scores, labels = best_class(torch.tensor([[0.1, 0.7, 0.7], [0.0, 0.0, 0.0], [0.2, 0.1, 0.3]]))
    assert labels.tolist() == [1, 0, 2]
    assert [round(s, 6) for s in scores.tolist()] == [0.7, 0.0, 0.3]


def _bank(negatives) -> MemoryBank:
    generator = torch.Generator().manual_seed(1)
    means = [
        [(torch.randn(6, generator=generator), 1.0 + 9 * s + k) for s in range(3 - k)]
        for k in range(2)
    ]
    classes = (ClassLabel(1, "nut"), ClassLabel(2, "bolt"))
    return MemoryBank.from_means(
        classes, means, encoder={}, reference_digest="", negatives=negatives
    )


def _instances(count: int, seed: int) -> list[tuple[torch.Tensor, float]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(6, generator=generator), 3.0) for _ in range(count)]


NEGATIVES = {
    "one class": [_instances(2, 5), []],
    "both, uneven": [_instances(1, 6), _instances(4, 7)],
    "the class itself": [[(-torch.ones(6), 1.0)], _instances(1, 8)],
}


@pytest.mark.parametrize("negatives", NEGATIVES.values(), ids=NEGATIVES.keys())
def test_negatives_equal_the_plain_formula(negatives):
    bank = _bank(negatives)
    features = F.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(2)), dim=1)
    found = similarities(features, *bank.targets())
    expected = [
        [
            reference.similarity_with_negatives(f, own, [n for n, _ in bad])
            for own, bad in zip(bank.means(), negatives)
        ]
        for f in features
    ]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)
    assert ((found > 0) & (found < similarities(features, bank.targets()[0]))).any()


def test_a_class_without_negatives_keeps_its_similarity():
    bank = _bank([_instances(2, 5), []])
    features = F.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(2)), dim=1)
    prototypes, negatives = bank.targets()
    with_negatives = similarities(features, prototypes, negatives)
    assert torch.equal(with_negatives[:, 1], similarities(features, prototypes)[:, 1])
