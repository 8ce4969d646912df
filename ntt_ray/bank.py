"""References to a memory bank: crop, encode, average (METHOD 3 to 13).

The encoder comes by protocol. It does not know Ray, config or where the bank is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.errors import ReferencesError
from ntt_ray.matching.memory import MemoryBank
from ntt_ray.matching.pooling import mask_at_patches, weighted_mean
from ntt_ray.models.protocols import Encoder
from ntt_ray.records import ReferenceSet
from ntt_ray.references.crops import ReferenceCrop, cut_reference
from ntt_ray.references.dataset import read_image
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)


def load_crops(
    references: ReferenceSet, store: Storage, context_ratio: float
) -> Iterator[ReferenceCrop]:
    """Cut all references, class by class, one image in memory at a time."""
    for label in references.classes:
        for reference in references.of_class(label.category_id):
            yield cut_reference(reference, read_image(reference, store), context_ratio)


def build_bank(
    references: ReferenceSet,
    crops: Iterable[ReferenceCrop],
    encoder: Encoder,
    *,
    encoder_record: Mapping[str, Any],
    reference_digest: str,
    negative_crops: Iterable[ReferenceCrop] = (),
    on_features: Callable[[int, Tensor], None] | None = None,
) -> MemoryBank:
    """Average each reference's features under its mask.

    Args:
        references: classes and references.
        crops: of all references, in any order.
        encoder: makes patch features.
        encoder_record: what identifies the encoder, kept in the bank.
        reference_digest: what identifies the references, kept in the bank.
        negative_crops: of what looks like one of the classes and is not (METHOD 47).
        on_features: called with each reference's annotation id and patch features ``(h, w, dim)``.

    Raises:
        ReferencesError: a mask covers no part of any patch of its crop.
    """
    means: dict[int, list[tuple[Tensor, float]]] = {c.category_id: [] for c in references.classes}
    negatives: dict[int, list[tuple[Tensor, float]]] = {i: [] for i in means}
    for crop in crops:
        features, soft_mask = crop_features(crop, encoder)
        means[crop.reference.category_id].append(masked_mean(crop, features, soft_mask))
        if on_features is not None:
            on_features(crop.reference.annotation_id, features)
    for crop in negative_crops:
        negatives[crop.reference.category_id].append(reference_mean(crop, encoder))
    return MemoryBank.from_means(
        references.classes,
        [means[label.category_id] for label in references.classes],
        encoder=encoder_record,
        reference_digest=reference_digest,
        negatives=[negatives[label.category_id] for label in references.classes],
    )


def reference_mean(crop: ReferenceCrop, encoder: Encoder) -> tuple[Tensor, float]:
    """Mean feature of one reference ``(dim,)`` on the CPU, and the sum of its soft mask.

    Raises:
        ReferencesError: its mask covers no part of any patch.
    """
    return masked_mean(crop, *crop_features(crop, encoder))


def crop_features(crop: ReferenceCrop, encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Patch features ``(h, w, dim)`` of a crop, and its soft mask ``(S, S)``."""
    image, soft_mask = crop_tensors(crop, encoder.image_size)
    return encoder.encode(image[None])[0], soft_mask


def masked_mean(crop: ReferenceCrop, features: Tensor, soft_mask: Tensor) -> tuple[Tensor, float]:
    """See `reference_mean`, for features that were made already."""
    grid = (features.shape[0], features.shape[1])
    weights = mask_at_patches(soft_mask, grid).to(features.device)
    name = f"annotation {crop.reference.annotation_id} in {crop.reference.image.file_name}"
    total = float(weights.sum())
    if total <= 0:
        problem = f"{name}: its mask is too small to cover any part of its crop's patches"
        raise ReferencesError("the references cannot be used:", [problem])
    if total < 1:
        logger.warning(
            "%s covers less than one of %d patches: a weak reference", name, weights.numel()
        )
    return weighted_mean(features, weights).cpu(), total


def crop_tensors(crop: ReferenceCrop, image_size: int) -> tuple[Tensor, Tensor]:
    """Resize a crop to the encoder's square input (METHOD 3, 7, 8).

    Returns:
        image ``(3, S, S)`` float32 in about [0, 1], bicubic without antialias, overshoot kept; and
        soft mask ``(S, S)`` float32 in [0, 1], bilinear without antialias.
    """
    side = (image_size, image_size)
    image = torch.from_numpy(crop.image_rgb.copy()).permute(2, 0, 1)[None].float() / 255
    mask = torch.from_numpy(crop.mask.copy())[None, None].float()
    resized = F.interpolate(image, size=side, mode="bicubic", align_corners=False)[0]
    soft = F.interpolate(mask, size=side, mode="bilinear", align_corners=False)[0, 0]
    return resized, soft
