"""Several prototypes per class: one for each look that the references of a class have.

A class whose references differ (a cup from above and from the side, two kinds of beetle) has a mean
that looks like none of them. Here its references are clustered by direction, and each cluster has
its prototype, made as the paper makes that of the class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.bank.clustering import cluster_directions
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.settings import PrototypeSettings


def clustered_prototypes(bank: MemoryBank, settings: PrototypeSettings) -> Tensor:
    """The prototypes of a bank's classes; with one per class, those of `MemoryBank.targets`.

    Args:
        bank: the memory bank; where it has negatives, references count by their pixels (METHOD
            47), else alike.
        settings: how many prototypes for each class, and the seed of the clustering.

    Returns:
        ``(K, P, C)`` float32 of length 1, zero where a class has fewer than P = `per_class`.
    """
    counted = torch.ones_like(bank.weights) if bank.negatives is None else bank.weights
    size = len(bank.classes), settings.per_class, bank.features.shape[2]
    found = torch.zeros(size, dtype=bank.features.dtype)
    for k, shots in enumerate(bank.shots.tolist()):
        features, weights = bank.features[k, :shots], counted[k, :shots, None]
        owner = cluster_directions(features, settings.per_class, settings.seed)
        for cluster in range(int(owner.max()) + 1):
            own = owner == cluster
            mean = (features[own] * weights[own]).sum(dim=0) / weights[own].sum()
            found[k, cluster] = F.normalize(mean, dim=0)
    return found
