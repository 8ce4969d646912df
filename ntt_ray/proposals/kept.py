"""What is kept of an image: its proposals, without a word of classes. Records only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray.errors import Failure
from ntt_ray.masks import Rle
from ntt_ray.records import ImageEntry, Status, View

MOST_SIDE = 2**16  # of a low-resolution mask, in pixels
_FIELDS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "boxes_xyxy": (np.uint16, (4,)),
    "points": (np.int32, ()),
    "predicted_iou": (np.float32, ()),
    "areas": (np.int64, ()),
}


@dataclass(frozen=True)
class KeptView:
    """The proposals of one view: of the whole image, or of a tile of it.

    Attributes:
        view: where the view lies in the image.
        boxes_xyxy: ``(N, 4)`` uint16, of the low-resolution masks, inclusive, as NMS takes them.
        points: ``(N,)`` int32, rising, place of each mask among all that the proposer considered.
        predicted_iou: ``(N,)`` float32.
        areas: ``(N,)`` int64, pixels of each mask at the view's size; 0 where none is left.
        counts: N masks at the view's size, COCO's compressed RLE.
        features: ``(N, C)`` int16 fixed point (see `fixed_point`), pooled, of length 1; or float32,
            where nothing is stored.
        mean_feature: ``(C,)``, as one of `features`, the mean over the whole view; None where it
            was not kept.

    Raises:
        ValueError: when built with fields of other types or lengths.
    """

    view: View
    boxes_xyxy: npt.NDArray[np.uint16]
    points: npt.NDArray[np.int32]
    predicted_iou: npt.NDArray[np.float32]
    areas: npt.NDArray[np.int64]
    counts: tuple[str, ...]
    features: npt.NDArray[np.int16] | npt.NDArray[np.float32]
    mean_feature: npt.NDArray[np.int16] | npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.counts)
        for name, (dtype, inner) in _FIELDS.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (n, *inner):
                raise ValueError(f"{name} must be {dtype.__name__} {(n, *inner)}")
        if self.features.dtype not in (np.int16, np.float32) or self.features.shape[:1] != (n,):
            raise ValueError(f"features must be int16 or float32 ({n}, C)")
        mean = self.mean_feature
        if mean is not None and (mean.dtype, mean.shape) != (
            self.features.dtype,
            self.features.shape[1:],
        ):
            raise ValueError("mean_feature must be like one of features")

    def __len__(self) -> int:
        return len(self.counts)

    def select(self, index: npt.NDArray[np.intp]) -> KeptView:
        """The proposals at some positions."""
        counts = tuple(self.counts[position] for position in index.tolist())
        arrays = {name: getattr(self, name)[index] for name in (*_FIELDS, "features")}
        return KeptView(self.view, counts=counts, mean_feature=self.mean_feature, **arrays)

    def rles(self) -> list[Rle]:
        """The masks at the view's size."""
        size = list(self.view.size_hw)
        return [Rle(size=size, counts=counts) for counts in self.counts]


@dataclass(frozen=True, slots=True)
class ImageProposals:
    """The row of one image in a proposal shard; every image has one, as in a shard of labels.

    Attributes:
        entry: the image.
        status: ``ok`` with proposals, ``empty`` without, ``failed`` where it could not be read.
        height, width: size of the image in pixels; None where it failed.
        error: why it failed, for people.
        views: what was found in each view; the first is the whole image.
        failure: the kind of failure, as in `ImageLabels`.
        notes: what may surprise in how the file became pixels, by the names of `records.NOTES`.
    """

    entry: ImageEntry
    status: Status
    height: int | None
    width: int | None
    error: str | None
    views: tuple[KeptView, ...]
    failure: Failure | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.status == "failed") != (self.error is not None):
            raise ValueError("an error goes with status failed, and only with it")
        if (self.status == "ok") != any(map(len, self.views)):
            raise ValueError("status ok means at least one proposal; none is empty or failed")

    @property
    def detections(self) -> tuple[()]:
        """None yet: labels are made of the proposals later."""
        return ()

    @classmethod
    def kept(
        cls,
        entry: ImageEntry,
        size_hw: tuple[int, int],
        views: tuple[KeptView, ...],
        notes: tuple[str, ...] = (),
    ) -> ImageProposals:
        """The row of an image that went through the models."""
        status: Status = "ok" if any(map(len, views)) else "empty"
        return cls(entry, status, size_hw[0], size_hw[1], None, views, notes=notes)

    @classmethod
    def failed(
        cls, entry: ImageEntry, error: str, failure: Failure | None = "content"
    ) -> ImageProposals:
        """The row of an image that could not be read."""
        return cls(entry, "failed", None, None, error, (), failure)
