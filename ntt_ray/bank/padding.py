"""Mean features of classes with different numbers of shots, padded into one block of tensors.

The form in which references and negative references lie in a memory bank. It knows nothing of
classes, encoders or files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.bank.file import StoredMeans

Means = Sequence[Sequence[tuple[Tensor, float]]]  # for each class its pairs of mean and weight


@dataclass(frozen=True)
class PaddedMeans:
    """Features of K classes; zero where a class has fewer shots than the largest.

    Attributes:
        features: ``(K, shots, dim)`` float32, per-instance means, not normalised.
        weights: ``(K, shots)`` float32, the sum of each instance's soft mask at the patches.
        shots: ``(K,)`` int64, how many of a class's rows are valid.
    """

    features: Tensor
    weights: Tensor
    shots: Tensor

    @classmethod
    def of(cls, means: Means, dim: int) -> PaddedMeans:
        """Pad the means ``(dim,)`` and weights of each class's instances."""
        most = max(len(shots) for shots in means)
        features = torch.zeros(len(means), most, dim)
        weights = torch.zeros(len(means), most)
        for k, shots in enumerate(means):
            for s, (mean, weight) in enumerate(shots):
                features[k, s], weights[k, s] = mean, weight
        return cls(features, weights, torch.tensor([len(shots) for shots in means]))

    def means(self) -> list[list[tuple[Tensor, float]]]:
        """The pairs of mean and weight of each class, as `of` takes them."""
        return [
            [(self.features[k, s], float(self.weights[k, s])) for s in range(count)]
            for k, count in enumerate(self.shots.tolist())
        ]

    def without(self, rows: Mapping[int, Collection[int]]) -> PaddedMeans:
        """These means without some instances; a class may be left with none.

        Args:
            rows: for a class index the positions of the instances that are left out.
        """
        features, weights, shots = self.features.clone(), self.weights.clone(), self.shots.clone()
        for k, dropped in rows.items():
            kept = [s for s in range(int(shots[k])) if s not in dropped]
            shots[k] = len(kept)
            features[k], weights[k] = 0, 0
            features[k, : len(kept)] = self.features[k, kept]
            weights[k, : len(kept)] = self.weights[k, kept]
        most = int(shots.max())
        return PaddedMeans(features[:, :most], weights[:, :most], shots)

    def select(self, classes: Sequence[int]) -> PaddedMeans:
        """The means of some classes, by class index."""
        index = torch.tensor(classes, dtype=torch.int64)
        return PaddedMeans(self.features[index], self.weights[index], self.shots[index])

    def directions(self) -> Tensor:
        """The means as directions: ``(K, shots, dim)`` float32 of length 1; zero where padded."""
        return F.normalize(self.features, dim=2)

    def double(self) -> PaddedMeans:
        """The same in float64."""
        return PaddedMeans(self.features.double(), self.weights.double(), self.shots)

    @classmethod
    def of_stored(cls, stored: StoredMeans) -> PaddedMeans:
        """The means as tensors, from those in a bank's file."""
        return cls(*(torch.from_numpy(values) for values in vars(stored).values()))

    def stored(self) -> StoredMeans:
        """The means as they lie in a bank's file; the arrays share the tensors' memory."""
        return StoredMeans(self.features.numpy(), self.weights.numpy(), self.shots.numpy())
