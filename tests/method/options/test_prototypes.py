"""Several prototypes per class, against one reference, one class and one mask at a time."""

import math

import pytest
import torch
import torch.nn.functional as F

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.method.options.prototypes import clustered_prototypes
from ntt_ray.method.scoring import similarities
from ntt_ray.records import ClassLabel
from ntt_ray.settings import PrototypeSettings

DIM = 6


def _bank(shots=(5, 1, 3), negatives=False, seed=0) -> MemoryBank:
    generator = torch.Generator().manual_seed(seed)
    means = [
        [(torch.randn(DIM, generator=generator), 1.0 + s) for s in range(count)] for count in shots
    ]
    classes = [ClassLabel(k + 1, f"class {k}") for k in range(len(shots))]
    against = [[(torch.randn(DIM, generator=generator), 1.0)] for _ in shots]
    return MemoryBank.from_means(
        classes, means, encoder={}, reference_digest="", negatives=against if negatives else ()
    )


def _features(count=20) -> torch.Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(9)), dim=1)


@pytest.mark.parametrize("negatives", [False, True])
def test_one_per_class_is_the_papers(negatives):
    bank = _bank(negatives=negatives)
    prototypes, against = bank.targets()
    several = clustered_prototypes(bank, PrototypeSettings(per_class=1))
    torch.testing.assert_close(several[:, 0], prototypes)
    torch.testing.assert_close(
        similarities(_features(), several, against), similarities(_features(), prototypes, against)
    )


@pytest.mark.parametrize("negatives", [False, True])
def test_as_many_as_references_are_the_references(negatives):
    bank = _bank(negatives=negatives)
    several = clustered_prototypes(bank, PrototypeSettings(per_class=5))
    assert several.shape == (3, 5, DIM)
    for k, count in enumerate(bank.shots.tolist()):
        torch.testing.assert_close(several[k, :count], F.normalize(bank.features[k, :count], dim=1))
        assert not several[k, count:].any()


def test_a_class_of_two_looks_has_a_prototype_for_each():
    shots = [[1.0, 0.1, 0.0], [0.0, 0.1, 1.0], [0.9, 0.0, 0.0], [0.1, 0.0, 0.8]]
    means = [[(torch.tensor(shot), 1.0) for shot in shots]]
    bank = MemoryBank.from_means([ClassLabel(1, "cup")], means, encoder={}, reference_digest="")
    several = clustered_prototypes(bank, PrototypeSettings(per_class=2))[0]
    expected = torch.tensor([[1.9, 0.1, 0.0], [0.1, 0.1, 1.8]])
    torch.testing.assert_close(several, F.normalize(expected, dim=1))
    look = torch.tensor([[0.0, 0.0, 1.0]])
    assert similarities(look, several[None]).item() > 0.99
    assert similarities(look, *bank.targets()).item() < 0.75


def _plain(feature, prototypes, temperature) -> list[float]:
    found = []
    for own in prototypes:
        cosines = [float(feature @ p) for p in own if p.any()]
        if temperature is None:
            value = max(cosines)
        else:
            weights = [math.exp(c / temperature) for c in cosines]
            value = sum(w * c for w, c in zip(weights, cosines)) / sum(weights)
        found.append(max(0.0, value))
    return found


@pytest.mark.parametrize("temperature", [None, 0.05, 0.5])
@pytest.mark.parametrize("shots", [(5, 1, 3), (1,), (4,)], ids=str)
def test_similarities_equal_the_loops(shots, temperature):
    several = clustered_prototypes(_bank(shots), PrototypeSettings(per_class=3))
    expected = [_plain(feature, several, temperature) for feature in _features()]
    found = similarities(_features(), several, temperature=temperature)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_no_mask_is_fine():
    several = clustered_prototypes(_bank(), PrototypeSettings())
    assert similarities(torch.zeros(0, DIM), several, temperature=0.1).shape == (0, 3)


def test_places_without_a_prototype_do_not_count():
    """They are zero, which would be better than a negative similarity under the soft-max."""
    prototypes = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    feature = torch.tensor([[0.6, 0.8]])
    assert similarities(feature, prototypes, temperature=10.0).item() == pytest.approx(0.6)
