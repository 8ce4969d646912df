"""References to a memory bank: crop, encode, average (METHOD 3 to 13).

The encoder comes by protocol. It does not know Ray, config or where the bank is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.bank.clustering import cluster_directions
from ntt_ray.bank.masked_mean import mask_at_patches, weighted_mean
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.bank.patches import ReferencePatches, check_room, reference_patches
from ntt_ray.errors import ReferencesError
from ntt_ray.images import RgbImage, resize_square
from ntt_ray.models.interfaces import Encoder, SizedEncoder, encoded
from ntt_ray.records import ReferenceSet
from ntt_ray.references.background import Surroundings
from ntt_ray.references.crops import ReferenceCrop, cut_reference
from ntt_ray.references.dataset import decode_sized, read_image
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
BACKGROUND_SEED = 33  # seed of the clustering of a background


@dataclass(frozen=True)
class Background:
    """An image of a class's references.

    Attributes:
        category_id: category id of the class.
        square_rgb: uint8 ``(S, S, 3)``, the image at the size that images to label are brought to.
        taken: bool ``(h, w)``, where the class is, at the image's own size.
    """

    category_id: int
    square_rgb: RgbImage
    taken: npt.NDArray[np.bool_]


def load_crops(
    references: ReferenceSet, store: Storage, context_ratio: float
) -> Iterator[ReferenceCrop]:
    """Cut all references, class by class, one image in memory at a time."""
    for label in references.classes:
        for reference in references.of_class(label.category_id):
            yield cut_reference(reference, read_image(reference, store), context_ratio)


def load_backgrounds(
    surroundings: Sequence[Surroundings], store: Storage, side: int
) -> Iterator[Background]:
    """Read the images around references, one at a time."""
    for item in surroundings:
        data = store.read_bytes(item.image.uri)
        image_rgb = decode_sized(data, item.size_hw, item.orientation)
        yield Background(item.category_id, resize_square(image_rgb, side), item.taken())


def build_bank(
    references: ReferenceSet,
    crops: Iterable[ReferenceCrop],
    encoder: Encoder,
    *,
    encoder_record: Mapping[str, Any],
    reference_digest: str,
    negative_crops: Iterable[ReferenceCrop] = (),
    backgrounds: Iterable[Background] = (),
    per_background: int = 2,
    on_features: Callable[[int, Tensor], None] | None = None,
    keep_patches: bool = False,
) -> MemoryBank:
    """Average each reference's features under its mask.

    Args:
        references: classes and references.
        crops: the crops of all references, in any order.
        encoder: makes patch features.
        encoder_record: what identifies the encoder, kept in the bank.
        reference_digest: what identifies the references, kept in the bank.
        negative_crops: crops of what looks like one of the classes and is not (METHOD 47).
        backgrounds: what lies around references; they come before the other negatives.
        per_background: number of means that each background gives, see `background_means`.
        on_features: called with each reference's annotation id and patch features ``(h, w, dim)``.
        keep_patches: whether the patches of the references go into the bank, too.

    Raises:
        ReferencesError: a mask covers no part of any patch of its crop.
        InputError: the patches would take too much room; known after the first reference.
    """
    means: dict[int, list[tuple[Tensor, float]]] = {c.category_id: [] for c in references.classes}
    negatives: dict[int, list[tuple[Tensor, float]]] = {i: [] for i in means}
    patches: dict[int, list[ReferencePatches]] = {i: [] for i in means}
    for crop in crops:
        features, soft_mask = crop_features(crop, encoder)
        means[crop.reference.category_id].append(masked_mean(crop, features, soft_mask))
        if keep_patches:
            check_room(len(references.references), features)
            patches[crop.reference.category_id].append(reference_patches(features, soft_mask))
        if on_features is not None:
            on_features(crop.reference.annotation_id, features)
    for background in backgrounds:
        rows = background_means(background, encoder, per_background)
        negatives[background.category_id] += rows
    for crop in negative_crops:
        negatives[crop.reference.category_id].append(reference_mean(crop, encoder))
    return MemoryBank.from_means(
        references.classes,
        [means[label.category_id] for label in references.classes],
        encoder=encoder_record,
        reference_digest=reference_digest,
        negatives=[negatives[label.category_id] for label in references.classes],
        patches=[patches[label.category_id] for label in references.classes],
    )


def reference_mean(crop: ReferenceCrop, encoder: Encoder) -> tuple[Tensor, float]:
    """Mean feature of one reference ``(dim,)`` on the CPU, and the sum of its soft mask.

    Raises:
        ReferencesError: the mask covers no part of any patch.
    """
    return masked_mean(crop, *crop_features(crop, encoder))


def background_means(
    background: Background, encoder: Encoder, count: int
) -> list[tuple[Tensor, float]]:
    """Mean features of what an image shows beside a class, by kind.

    The patches that the class nowhere touches are clustered by direction.

    Args:
        background: the image, and where the class is in it.
        encoder: makes patch features.
        count: number of clusters wanted.

    Returns:
        `count` pairs of mean ``(dim,)`` and number of patches; where there are fewer clusters the
        last means are zero, which resembles nothing, with a weight of 1.
    """
    image = torch.from_numpy(background.square_rgb.copy()).permute(2, 0, 1)[None].float() / 255
    features = encoded(encoder, image, [background.taken.shape])[0].cpu()
    taken = torch.from_numpy(background.taken)[None, None].float()
    patches = features[F.adaptive_max_pool2d(taken, features.shape[:2])[0, 0] == 0]
    rows = []
    if len(patches):
        owner = cluster_directions(patches, count, BACKGROUND_SEED)
        parts = [patches[owner == cluster] for cluster in range(int(owner.max()) + 1)]
        rows = [(part.mean(dim=0), float(len(part))) for part in parts]
    return rows + [(features.new_zeros(features.shape[-1]), 1.0)] * (count - len(rows))


def crop_features(crop: ReferenceCrop, encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Patch features ``(h, w, dim)`` of a crop, and its soft mask at the size of the input."""
    if not isinstance(encoder, SizedEncoder):
        image, soft_mask = crop_tensors(crop, encoder.image_size)
        return encoder.encode(image[None])[0], soft_mask
    size_hw = crop.image_rgb.shape[:2]
    image, soft_mask = crop_tensors(crop, encoder.input_size(size_hw))
    return encoder.encode_sized(image[None], [size_hw])[0], soft_mask


def masked_mean(crop: ReferenceCrop, features: Tensor, soft_mask: Tensor) -> tuple[Tensor, float]:
    """`reference_mean` from patch features ``(h, w, dim)`` and soft mask ``(H, W)``."""
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


def crop_tensors(crop: ReferenceCrop, size: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize a crop to the encoder's input (METHOD 3, 7, 8).

    Args:
        crop: the crop.
        size: side of the square input in pixels, or its height and width.

    Returns:
        The image ``(3, H, W)`` float32 in about [0, 1], bicubic without antialias, overshoot kept;
        and the soft mask ``(H, W)`` float32 in [0, 1], bilinear without antialias.
    """
    image = torch.from_numpy(crop.image_rgb.copy()).permute(2, 0, 1)[None].float() / 255
    mask = torch.from_numpy(crop.mask.copy())[None, None].float()
    resized = F.interpolate(image, size=size, mode="bicubic", align_corners=False)[0]
    soft = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)[0, 0]
    return resized, soft
