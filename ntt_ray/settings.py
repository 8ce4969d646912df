"""The settings of decoding and of the method: each is declared here, once, with its bounds.

The same frozen records are the blocks `decode` and `method` of the config and what `images` and
`method` take. They are checked whenever they are built. This module does not know the rest of the
config, nor where settings are read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_DECODER_BYTES = 2**28  # address space of a decoder: twice what it has before its first image
_BYTES_PER_PIXEL = 32  # of an image being decoded: JPEG 2000 with alpha needs 25, JPEG 5 to 14

# how an image was seen when it was annotated; with "auto" its size decides, or it is refused
AnnotatedOrientation = Literal["auto", "stored", "upright"]
_Sample = Annotated[int, Field(ge=0, le=255)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """A frozen block of settings: unknown keys, other types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# names that a kept column of a table may not have: shards and the profile parquet have such columns
TAKEN_COLUMNS = frozenset(
    {
        *("image_id", "file_name", "uri", "key", "source", "height", "width", "status", "error"),
        *("failure", "notes", "annotations", "category_id", "score", "predicted_iou", "bbox"),
        *("area", "counts", "instance_id", "category"),
        *("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
    }
)


# likewise where `ProposalSettings.embeddings` are asked for
EMBEDDING_COLUMNS = frozenset({"embedding", "embeddings"})


class TableColumns(Settings):
    """Which columns of the table of images mean what, beside `uri` and `file_name`.

    Attributes:
        image: the column of a Parquet file that holds the bytes of images; None: the only one that
            does, or that with the name ``image``. A table with `uri` is read by that unless the
            column is named here.
        key: the column of keys, which go into manifest and shards; None: ``key``, if there is one.
        keep: columns that go into manifest, shards and the profile `parquet` as they are.
    """

    image: str | None = None
    key: str | None = None
    keep: tuple[str, ...] = ()

    @field_validator("keep")
    @classmethod
    def _check(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(keep)) < len(keep) or "" in keep:
            raise ValueError("name each column once")
        if taken := sorted(TAKEN_COLUMNS.intersection(keep)):
            raise ValueError(
                f"{', '.join(taken)}: shards and the instance table have columns of that name; "
                "rename it in the table"
            )
        return keep


class DecodeSettings(Settings):
    """How the images to label become pixels; of references see `ReferencesConfig`.

    Time and memory are limits of the processes that decode for a run, and no part of its identity.

    Attributes:
        orientation: ``upright`` turns pixels as the file's EXIF says, as browsers, OpenCV and
            annotation tools do; ``stored`` takes them as they are in the file. To be changed where
            labels are used with readers that do not turn pictures, as pycocotools and Pillow.
        sixteen_bit: how samples of 16 bits become 8. ``high_byte`` takes the upper 8 of them, as
            the file means it; ``range`` stretches what lies between the least and the greatest
            sample of the image, ``percentile`` what lies between its percentiles 2 and 98. To be
            changed for cameras of 10 to 14 bits, whose pictures are nearly black otherwise; such
            references are refused.
        background: red, green and blue, 0 to 255, of what transparent parts are laid on, as
            viewers and browsers do; None takes the colours that are stored below them, as OpenCV,
            detectron2 and the paper's code do. Of references these are always taken.
        max_pixels: an image of more pixels than this is refused by its header, before any of it is
            decoded. To be raised for larger images, if the workers have the memory.
        timeout_s: seconds of CPU time that decoding an image may take: a busy machine does not
            count. To be raised for huge images in slow formats, as JPEG 2000.
        memory_mb: megabytes of address space that a process may have that decodes, one image at a
            time. None is enough for an image of `max_pixels` in any format. To be lowered where
            workers have little memory and images are small.
    """

    orientation: Literal["stored", "upright"] = "upright"
    sixteen_bit: Literal["high_byte", "range", "percentile"] = "high_byte"
    background: tuple[_Sample, _Sample, _Sample] | None = None
    max_pixels: Annotated[int, Field(ge=1, le=1_000_000_000)] = 200_000_000
    timeout_s: Annotated[float, Field(gt=0.0, le=86_400.0)] = 30.0
    memory_mb: Annotated[int, Field(ge=256)] | None = None

    @property
    def memory_bytes(self) -> int:
        """The limit of memory in bytes."""
        if self.memory_mb is None:
            return _DECODER_BYTES + _BYTES_PER_PIXEL * self.max_pixels
        return self.memory_mb << 20

    @property
    def waiting_s(self) -> float:
        """Seconds after which a decoder that has not used up its CPU time counts as stuck."""
        return 60.0 + 2.0 * self.timeout_s


class DiffusionSettings(Settings):
    """Graph diffusion of scores, see `method.options.diffusion`; defaults as published.

    Attributes:
        form: ``released`` is the formula of the published code. ``normalised`` divides what a
            proposal hears by the number of those it hears, and weighs them by the likeness of
            their features, too; it lowers scores less.
        alpha: weight of the walk, from 0 to below 1; with 0 it is soft merging.
        power: exponent of the share of a mask that better masks leave to it. Higher lowers the
            scores of duplicates more.
        steps: how many steps the walk takes.
    """

    form: Literal["released", "normalised"] = "released"
    alpha: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    power: Annotated[float, Field(gt=0.0, le=10.0)] = 0.5
    steps: Annotated[int, Field(ge=1, le=1000)] = 30


class ComponentSettings(Settings):
    """Final masks without their small parts, see `method.options.components`.

    Attributes:
        min_share: a connected part of a mask stays if it has at least this share of the pixels of
            the largest one, 0 to 1. To be lowered, to 0.5 or so, for objects that others divide.
    """

    min_share: Share = 1.0


class AveragingSettings(Settings):
    """Nearly the same masks of a class become their mean, see `method.options.averaging`.

    Attributes:
        min_iou: IoU of two masks of a class at low resolution, above 0, from which they are nearly
            the same. To be raised where objects of a class lie upon each other.
    """

    min_iou: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8


class RefinementSettings(Settings):
    """Masks asked about again at their centres, see `models.sam2.refinement`.

    Attributes:
        min_iou: IoU, above 0, that a new mask must have with the old one to take its place. To be
            raised where a click on an object often means a part of it, or what it lies on.
    """

    min_iou: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7


class PrototypeSettings(Settings):
    """Several prototypes per class, see `method.options.prototypes`.

    Attributes:
        per_class: how many prototypes a class has at most; a class with fewer references has
            fewer. To be raised for classes of many looks.
        temperature: temperature of the soft-max by which a class's prototypes are averaged; lower
            is nearer to the best one. None takes the best one.
        seed: seed of the clustering.
    """

    per_class: Annotated[int, Field(ge=1, le=100)] = 3
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 33


class CorrespondenceSettings(Settings):
    """The forward-backward check of masks, see `method.options.correspondence`.

    Attributes:
        power: scores are multiplied by the share of a mask that leads back to the references, to
            this power. To be lowered where scores of good masks fall too much.
    """

    power: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0


class PromptSettings(Settings):
    """Prompts only where an image resembles a class, see `method.options.prompting`.

    Attributes:
        min_similarity: a point is asked if a patch near it has at least this similarity to a
            class, 0 to 1. Higher asks fewer points, which takes less time and finds less.
    """

    min_similarity: Share = 0.3


class TileSettings(Settings):
    """Tiles of large images, see `method.tiles`.

    Attributes:
        side: side of the smallest tiles in pixels of the image; None is the side of the proposer's
            input. Smaller finds smaller objects and takes more time.
        overlap: least share of a tile's side that its neighbour covers too. Higher keeps larger
            objects whole and takes more time.
    """

    side: Annotated[int, Field(ge=64)] | None = None
    overlap: Annotated[float, Field(ge=0.0, le=0.75)] = 0.25


# settings by the name of a combination; what is given beside the name comes first
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "clean": {"nms_iou": 0.7, "largest_component": ComponentSettings()},
}


class MethodSettings(Settings):
    """The method's settings; defaults are the paper's, and an option that is None is off.

    Four of them are read before there is a labeller: `points_per_side`, `all_outputs` and
    `refinement` when the proposer is loaded, `context_ratio` when references are cut for the memory
    bank.

    Attributes:
        preset: other defaults by the name of a combination, see `PRESETS`: it stands for just the
            settings that it names, and those that are given beside it come first.
        points_per_side: a proposer with a grid of points is asked at ``points_per_side ** 2`` of
            them. Higher finds smaller objects; the time grows with the number of points.
        min_predicted_iou: masks must have a predicted IoU above it, strictly. Lower finds more and
            takes more time.
        nms_iou: boxes of a class with an IoU above it are duplicates. Higher keeps more of a crowd.
            None suppresses none, and leaves duplicates to soft merging, which lowers their scores.
        max_detections: how many detections an image has at most.
        context_ratio: references are cut with their surroundings: the side of the crop is the
            longer side of the box times ``1 + context_ratio``.
        diffusion: graph diffusion of scores in the place of soft merging.
        prototypes: several prototypes per class, for classes of several looks.
        prompts: the proposer is asked only where an image resembles a class, to save time.
        tiles: large images are labelled tile by tile, for small objects.
        all_outputs: each of the three masks that SAM2 means for an ambiguous point is proposed, not
            only the one with the highest predicted IoU.
        refinement: SAM2 is asked about each distinct mask again, at the mask's centre, and the new
            mask is taken where SAM2 thinks better of it and it is the same object.
        largest_component: the small parts of final masks are left out.
        averaging: nearly the same masks of a class become their mean, before NMS.
        iou_power: final scores are multiplied by the predicted IoU to this power, above 0: low
            powers raise well drawn masks a little. Score thresholds and calibrations are those of
            one power. None: 0, the paper's scores.
        correspondence: scores are multiplied by the share of a mask's patches whose nearest patches
            in the references lie in the references' masks. The memory bank is built with all
            patches of the references for it, which is many times its size.
    """

    preset: Literal["clean"] | None = None
    points_per_side: Annotated[int, Field(ge=1, le=256)] = 32
    min_predicted_iou: Share = 0.4
    nms_iou: Share | None = 0.5
    max_detections: Annotated[int, Field(ge=1, le=10_000)] = 100
    context_ratio: Annotated[float, Field(ge=0.0, le=10.0)] = 0.2
    diffusion: DiffusionSettings | None = None
    prototypes: PrototypeSettings | None = None
    prompts: PromptSettings | None = None
    tiles: TileSettings | None = None
    all_outputs: bool = False
    refinement: RefinementSettings | None = None
    largest_component: ComponentSettings | None = None
    averaging: AveragingSettings | None = None
    iou_power: Annotated[float, Field(gt=0.0, le=10.0)] | None = None
    correspondence: CorrespondenceSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, given: Any) -> Any:
        preset = given.get("preset") if isinstance(given, Mapping) else None
        if not isinstance(preset, str) or preset not in PRESETS:
            return given
        return {**PRESETS[preset], **given}

    @model_validator(mode="after")
    def _check(self) -> MethodSettings:
        if self.preset is not None and not self.of_preset():
            names = ", ".join(PRESETS[self.preset])
            raise ValueError(
                f".preset: {self.preset} stands for {names}, and all of these are given beside it "
                "as something else; delete them, or the preset"
            )
        return self

    def of_preset(self) -> dict[str, Any]:
        """The settings that are as the preset has them, as plain data; none without a preset."""
        wanted = {} if self.preset is None else PRESETS[self.preset]
        names = {name for name, value in wanted.items() if getattr(self, name) == value}
        return self.model_dump(mode="json", include=names)

    def named(self) -> dict[str, Any]:
        """The settings as the identity of a run names them: what is off is missing.

        A preset is no setting of its own: what it stands for is named.
        """
        off = {"preset"} if self.all_outputs else {"preset", "all_outputs"}
        return self.model_dump(mode="json", exclude_none=True, exclude=off)

    def unlike_kept(self) -> dict[str, str]:
        """Options by which labels cannot be made of kept proposals, and why not, by their names."""
        reasons = {
            "prompts": "prompts ask SAM2 only where an image resembles a class, so what is kept "
            "would depend on the classes",
            "averaging": "averaging takes the logits of masks, which are not kept",
            "correspondence": "correspondence compares the patches of images, which are not kept",
        }
        return {name: why for name, why in reasons.items() if getattr(self, name) is not None}


class ProposalSettings(Settings):
    """What is kept beside labels, so that other classes can be matched without the models.

    With `keep`, labels are made of what is kept, which changes their last digits: features are
    stored as 16-bit integers, and near doubles of masks are left out before any class is known.

    Attributes:
        keep: each shard of labels has a shard of proposals beside it.
        max_iou: IoU at low resolution that two masks of an image may have at most; of more the one
            with the higher predicted IoU is kept. None keeps all, which takes a quarter more room.
        embeddings: shards of labels, and the profile `parquet`, have the features of images and of
            detections as columns, to search and to cluster by. Needs `keep`.
    """

    keep: bool = False
    max_iou: Share | None = 0.95
    embeddings: bool = False


class BoxSettings(Settings):
    """Boxes of a detector as SAM2's prompts, see `method.options.boxes`.

    Attributes:
        per_image: how many boxes of an image are asked at most, those with the highest scores.
            Higher finds more in crowded images; the time grows with the number of boxes.
        prompt: SAM2 is asked with the ``box``, or with its ``centre``, or with five ``points`` of
            it, where of SAM2's masks the one is taken that fits the box best. Points are for models
            that were trained on points alone; five take more time, and find objects whose middle
            is not theirs.
        score_power: final scores are multiplied by the score of the box to this power, above 0.
            None: 0, what the detector thought of a box does not count any more. It needs boxes with
            scores, and no grid, whose masks have none.
    """

    per_image: Annotated[int, Field(ge=1, le=10_000)] = 100
    prompt: Literal["box", "centre", "points"] = "box"
    score_power: Annotated[float, Field(gt=0.0, le=10.0)] | None = None
