"""Frozen records that cross module borders. Python and numpy: no torch, ray or pyarrow here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from ntt_ray.errors import Failure
from ntt_ray.masks import BoolMask, Rle, decode_rle

if TYPE_CHECKING:
    from ntt_ray.settings import AnnotatedOrientation

Embedding = npt.NDArray[np.float32]

Status = Literal["ok", "empty", "failed"]
# what is said of images that carry a note, in `ImageLabels.notes`
NOTES = {
    "turned": "are stored turned (EXIF): with decode.orientation upright their labels lie on the "
    "picture as viewers, OpenCV and annotation tools show it, with stored on the file's pixels",
    "narrow": "of 16 bits use less than a fifth of their range, and become nearly black: see "
    "decode.sixteen_bit",
    "transparent": "have transparent parts, and the colours below these are labelled: see "
    "decode.background",
    "beside_boxes": "have boxes that do not lie on the picture, and are not asked: a detector "
    "may have seen it at another size, or turned (proposals.boxes)",
}


def note_lines(notes: Mapping[str, int], images: int) -> list[str]:
    """A line for each note: how many images carry it, and what it means."""
    return [
        f"{count} of {images} images {NOTES.get(note, note)}"
        for note, count in sorted(notes.items())
    ]


MAX_CATEGORY_ID = 2**31 - 1  # a shard keeps a category in 32 bits


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of the manifest.

    Attributes:
        image_id: COCO image id, at least 1.
        file_name: relative name, which goes into COCO.
        uri: path or URI of the image file.
        key: the key that labels and images share: the WebDataset key of a packed image, which is
            its path in the archive up to the first dot of the last part, or what the table's
            column of keys says; None where there is none.
        source: the packed file that holds the image, as a name relative to `images`; None for a
            loose file.
    """

    image_id: int
    file_name: str
    uri: str
    key: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """An image on its way to the labeller: its encoded bytes or the reason why not.

    One with neither is unread: the unit's other images fill what it may have of memory.

    Attributes:
        entry: the image.
        data: its encoded bytes.
        error: why there are none.
        final: whether that is a matter of the content, which no second attempt changes.
    """

    entry: ImageEntry
    data: bytes | None
    error: str | None
    final: bool = False

    def __post_init__(self) -> None:
        if self.data is not None and self.error is not None:
            raise ValueError("a fetched image has either data or an error")

    @property
    def is_unread(self) -> bool:
        """Whether nobody has tried to read it yet."""
        return self.data is None and self.error is None


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of an image, in pixels of the image."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


@dataclass(frozen=True, slots=True, eq=False)
class ImageBoxes:
    """The boxes that a detector found in one image, the best first.

    Attributes:
        boxes_xyxy: ``(N, 4)`` float32 in pixels of the image as it is labelled.
        scores: ``(N,)`` float32, 0 to 1.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.boxes_xyxy.shape != (len(self.scores), 4):
            raise ValueError(f"{len(self.scores)} scores for boxes {self.boxes_xyxy.shape}")

    def __len__(self) -> int:
        return len(self.scores)

    def on_image(self, size_hw: tuple[int, int]) -> ImageBoxes:
        """The boxes cut to an image; those that have no part of it are left out."""
        height, width = size_hw
        most = np.array([width, height, width, height], np.float32)
        cut = np.clip(self.boxes_xyxy, 0, most)
        inside = (cut[:, 2:] > cut[:, :2]).all(axis=1)
        return ImageBoxes(cut[inside], self.scores[inside])


@dataclass(frozen=True, slots=True)
class Detection:
    """One labelled instance.

    Attributes:
        category_id: the user's COCO category id.
        score: similarity after soft merging, 0 to 1.
        predicted_iou: SAM2's own estimate of the mask's quality, 0 to 1.
        bbox_xywh: tight box of the mask in pixels of the image; width and height at least 1.
        area: pixels of the mask, at least 1.
        rle: the mask at the image's size.
        embedding: ``(C,)`` float32 of length 1, the mean of the encoder's features in the mask that
            SAM2 proposed; None unless it was asked for. It does not count in comparisons.
    """

    category_id: int
    score: float
    predicted_iou: float
    bbox_xywh: tuple[float, float, float, float]
    area: int
    rle: Rle = field(repr=False)
    embedding: Embedding | None = field(default=None, repr=False, compare=False, kw_only=True)

    def mask(self) -> BoolMask:
        """The mask as a bool array ``(height, width)`` of the image's size."""
        return decode_rle(self.rle)


@dataclass(frozen=True, slots=True)
class ImageLabels:
    """The row of one image in a shard: every image has one, whatever happened to it.

    Attributes:
        entry: the image.
        status: ``ok`` with detections, ``empty`` without, ``failed`` where it was not labelled.
        height, width: size of the image in pixels; None where it failed.
        error: why it failed, for people.
        detections: what was found, by falling score.
        failure: the kind of failure: ``content``, no image comes of the bytes, which is final;
            ``access``, the bytes could not be read, and ``worker``, it ended its process twice
            although it was alone in it, which are tried again. None in rows of older versions.
        notes: what may surprise in how the file became pixels, by the names of `NOTES`.
        embedding: ``(C,)`` float32 of length 1, the mean of the encoder's features of the image;
            None unless it was asked for, and where the image failed or older proposals lack it. It
            does not count in comparisons.
    """

    entry: ImageEntry
    status: Status
    height: int | None
    width: int | None
    error: str | None
    detections: tuple[Detection, ...]
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    embedding: Embedding | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.status == "failed") != (self.error is not None):
            raise ValueError("an error goes with status failed, and only with it")
        if self.failure is not None and self.status != "failed":
            raise ValueError("a kind of failure goes with status failed only")
        if (self.status == "ok") != bool(self.detections):
            raise ValueError("status ok means at least one detection; none is empty or failed")

    @classmethod
    def labelled(
        cls,
        entry: ImageEntry,
        size_hw: tuple[int, int],
        detections: tuple[Detection, ...],
        notes: tuple[str, ...] = (),
        embedding: Embedding | None = None,
    ) -> ImageLabels:
        """The row of an image that went through the method."""
        status: Status = "ok" if detections else "empty"
        return cls(
            *(entry, status, size_hw[0], size_hw[1], None, detections),
            notes=notes,
            embedding=embedding,
        )

    @classmethod
    def failed(
        cls, entry: ImageEntry, error: str, failure: Failure | None = "content"
    ) -> ImageLabels:
        """The row of an image that could not be labelled; `error` is for a person to read."""
        return cls(entry, "failed", None, None, error, (), failure)


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """A class as the user names it: COCO category id (at least 1) and name."""

    category_id: int
    name: str


@dataclass(frozen=True, slots=True)
class Reference:
    """One annotated instance that helps to define a class.

    Attributes:
        annotation_id: id in the reference file.
        category_id: category id of its class.
        image: the image it lies in.
        size_hw: height and width of that image according to the reference file.
        bbox_xywh: the annotation's box in pixels.
        rle: the annotation's mask at the image's size.
        orientation: how its image was seen when it was annotated: ``auto``, ``stored`` or
            ``upright``, see `ReferencesConfig`.
    """

    annotation_id: int
    category_id: int
    image: ImageEntry
    size_hw: tuple[int, int]
    bbox_xywh: tuple[float, float, float, float]
    rle: Rle
    orientation: AnnotatedOrientation = "auto"


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """Validated references: classes by rising category id, each with at least one reference."""

    classes: tuple[ClassLabel, ...]
    references: tuple[Reference, ...]

    def __post_init__(self) -> None:
        ids = [label.category_id for label in self.classes]
        if ids != sorted(set(ids)):
            raise ValueError("classes must be sorted by category id, without repeats")
        if {reference.category_id for reference in self.references} != set(ids):
            raise ValueError("every class needs a reference, and every reference a class")

    def of_class(self, category_id: int) -> tuple[Reference, ...]:
        """The references of one class, in the order of the reference file."""
        return tuple(r for r in self.references if r.category_id == category_id)

    def renumbered(self, ids: Mapping[str, int]) -> ReferenceSet:
        """The same references with the category ids that `ids` gives to the class names."""
        new = {label.category_id: ids[label.name] for label in self.classes}
        classes = [ClassLabel(new[label.category_id], label.name) for label in self.classes]
        return ReferenceSet(
            tuple(sorted(classes, key=lambda label: label.category_id)),
            tuple(replace(r, category_id=new[r.category_id]) for r in self.references),
        )


@dataclass(frozen=True, slots=True)
class PromptWork:
    """What prompts only where an image resembles a class have saved.

    Attributes:
        views: images, or tiles of images, that were looked at; 0 where the option is off.
        views_skipped: how many of the views SAM2 never saw.
        points: how many points the grids of all views have.
        points_asked: how many of the points SAM2 was asked about.
    """

    views: int = 0
    views_skipped: int = 0
    points: int = 0
    points_asked: int = 0

    def plus(self, points: int, points_asked: int) -> PromptWork:
        """This and one view more."""
        return PromptWork(
            self.views + 1,
            self.views_skipped + (points_asked == 0),
            self.points + points,
            self.points_asked + points_asked,
        )
