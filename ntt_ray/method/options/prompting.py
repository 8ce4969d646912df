"""Which points of the grid are worth asking: those where the image resembles a class.

The similarity is that of patches to the same prototypes that masks are compared with. A point
counts the patches around it too, since an object's middle may lie beside its clearest part.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURHOOD = 3  # side in patches of the square around a point that counts


def promising_points(
    similarity: Tensor, points: Tensor, image_size: int, min_similarity: float
) -> Tensor:
    """Points near a patch that resembles a class.

    Args:
        similarity: ``(h, w, K)``, similarity of each patch to each class, 0 to 1.
        points: ``(P, 2)`` float32 (x, y) in pixels of a square input.
        image_size: side of that input in pixels.
        min_similarity: similarity that the best of the patches around a point must have at least.

    Returns:
        Positions of those points, int64, rising.
    """
    height, width = similarity.shape[:2]
    best = similarity.amax(dim=2)[None, None]
    around = F.max_pool2d(best, NEIGHBOURHOOD, stride=1, padding=NEIGHBOURHOOD // 2)[0, 0]
    column = (points[:, 0] * (width / image_size)).long().clamp(0, width - 1)
    row = (points[:, 1] * (height / image_size)).long().clamp(0, height - 1)
    return torch.nonzero(around[row, column] >= min_similarity).squeeze(1)
