"""Defines ``draw.json`` and the files of verdicts: what was drawn, and what people said of it.

A draw says with which probability each label was taken, and how many labels each stratum and score
depth has, so that it and verdicts are all that an estimate needs. It is sealed: its digest is the
name under which the page saves verdicts. `Draw.design` is the same for draws of other sizes with
the same seed, of which the larger hold the smaller; verdicts go from one to the other.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.json_input import read_json
from ntt_ray.masks import Rle
from ntt_ray.merge.digests import SEAL, json_file, sealed
from ntt_ray.records import ClassLabel
from ntt_ray.storage import Storage

Order = Literal["outliers", "duplicates", "disagreement", "novelties"]
ORDERS: tuple[Order, ...] = get_args(Order)
Verdict = Literal["right", "class", "mask", "nothing", "unclear"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# what people read, in the order of the keys 1 to 5
WORDS = {
    "right": "right",
    "class": "wrong class",
    "mask": "bad mask",
    "nothing": "no object",
    "unclear": "cannot tell",
}
GOOD_MASK_IOU = 0.75  # a mask that overlaps the object less is a bad one
MAX_TEXT = 200
TASK_VERSION = "ntt-ray review "  # and 12 digits of the draw's digest, in tasks of Label Studio
_SHOWN = 5


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Class(_Frozen):
    """A class of the merged files."""

    id: int
    name: str


class Picture(_Frozen):
    """An image with a drawn label, or one that was drawn whole; `unit` is that of its shard."""

    image_id: int
    file_name: str
    height: int
    width: int
    unit: int


class Label(_Frozen):
    """A label; its id is that of the annotation in ``annotations.json`` of the same settings."""

    id: int
    image_id: int
    category_id: int
    score: float
    bbox: tuple[float, float, float, float]
    counts: str

    def rle(self, picture: Picture) -> Rle:
        """Its mask at the size of its image."""
        return {"size": [picture.height, picture.width], "counts": self.counts}


class DrawnLabel(Label):
    """A label of the sample.

    Attributes:
        stratum: position in `Draw.strata`; -1 where there are none.
        probability: how likely it was to be drawn; None where it was chosen and not drawn.
        plain: whether it belongs to the part that is a plain random sample of all labels, in which
            every label is as likely as any other.
        reason: why it was chosen, where it was not drawn.
    """

    stratum: int
    probability: float | None
    plain: bool
    reason: str | None = None


class Stratum(_Frozen):
    """Labels that were drawn from together.

    Attributes:
        category_id: their class; None where all classes are together.
        band: their score band, from 0, the lowest scores.
        labels: how many there are.
        drawn: how many of them were drawn.
        prior: the precision that the draw was divided by; None where nothing was known.
    """

    category_id: int | None
    band: int
    labels: int
    drawn: int
    prior: float | None = None


class Group(_Frozen):
    """How many labels of a class have scores in a band."""

    category_id: int
    band: int
    labels: int


class Depth(_Frozen):
    """The labels with this score or a higher one: how many there are."""

    score: float
    labels: int


class WholeImage(_Frozen):
    """An image of the second sample, with all its labels."""

    image_id: int
    labels: tuple[Label, ...]


class Draw(_Frozen):
    """The content of ``draw.json``.

    Attributes:
        format_version: 1.
        design: digest of the population, the seed and the strata, whatever the size of the draw.
        labels_hash: the digest of everything that could change the labels of the run.
        seed: the same seed draws the same labels.
        classes: the classes of the labels.
        population: how many labels there are.
        images: how many images were labelled, empty ones too.
        bands: the lowest score of each score band, rising.
        groups: the labels by class and band.
        depths: 20 steps of equal count from the highest scores down; the last has all labels.
        strata: what the labels were drawn from.
        pictures: the images of all drawn labels and all whole images.
        labels: the drawn labels in random order, so that the first of them are a sample, too.
        whole_images: images drawn among all, in random order.
        order: what the labels were chosen by; None where they were drawn by probability. Of a draw
            with an order no estimate can be made.
        sha256: digest of all other keys.
    """

    format_version: Literal[1] = 1
    design: str
    labels_hash: str
    seed: int
    classes: tuple[Class, ...]
    population: int
    images: int
    bands: tuple[float, ...]
    groups: tuple[Group, ...]
    depths: tuple[Depth, ...]
    strata: tuple[Stratum, ...]
    pictures: tuple[Picture, ...]
    labels: tuple[DrawnLabel, ...]
    whole_images: tuple[WholeImage, ...]
    order: Order | None = None
    sha256: str = ""

    @property
    def by_image(self) -> dict[int, Picture]:
        """The images by id."""
        return {picture.image_id: picture for picture in self.pictures}

    @property
    def positions(self) -> dict[int, list[int]]:
        """The positions of the labels by the id of their image, rising."""
        found: dict[int, list[int]] = {}
        for position, label in enumerate(self.labels):
            found.setdefault(label.image_id, []).append(position)
        return found

    @property
    def names(self) -> dict[int, str]:
        """Class names by category id."""
        return {found.id: found.name for found in self.classes}

    @property
    def class_labels(self) -> tuple[ClassLabel, ...]:
        """The classes as other rooms have them."""
        return tuple(ClassLabel(found.id, found.name) for found in self.classes)

    def sealed(self) -> Draw:
        """The same with its digest."""
        return self.model_copy(update={SEAL: sealed(self._content())[SEAL]})

    def to_bytes(self) -> bytes:
        """The file; the same draw gives the same bytes."""
        return json_file(sealed(self._content()))

    def _content(self) -> dict[str, Any]:
        """As it is written; what only draws with an order have is not in others."""
        content = self.model_dump(mode="json")
        if self.order is None:
            del content["order"]
            for label in content["labels"]:
                del label["reason"]
        return content


class Mark(_Frozen):
    """An object without a label: a point, or a box where width and height are above 0; pixels."""

    x: Annotated[float, Field(ge=0)]
    y: Annotated[float, Field(ge=0)]
    width: Annotated[float, Field(ge=0)] = 0.0
    height: Annotated[float, Field(ge=0)] = 0.0
    category_id: int | None = None
    counts: str | None = None


class Correction(_Frozen):
    """What a reviewer made of a label: its class, and its mask at the size of its image.

    `counts` is None where the mask stays as it is: somebody said which class is right.
    """

    category_id: int
    counts: str | None = None


class ImageVerdict(_Frozen):
    """What somebody said of a whole image: of each of its labels, and of what has none."""

    labels: dict[str, Verdict]
    missed: tuple[Mark, ...] = ()


def name_problem(name: str) -> str | None:
    """What is wrong with the name of a reviewer, which is shown on terminals; None: nothing."""
    if not name.strip() or len(name) > MAX_TEXT or any(map(_is_control, name)):
        return f"a reviewer has a name of 1 to {MAX_TEXT} characters, none a control character"
    return None


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def _checked_name(name: str) -> str:
    if problem := name_problem(name):
        raise ValueError(problem)
    return name


class Verdicts(_Frozen):
    """A file of verdicts, as the page exports it.

    Attributes:
        format_version: 1.
        draw: digest of the draw that was reviewed.
        design: of that draw.
        reviewer: who said it.
        labels: verdicts by the id of the label.
        corrections: by the id of the label, where a tool gave them, or the right class was named.
        images: verdicts by image id.
    """

    format_version: Literal[1] = 1
    draw: str
    design: str
    reviewer: Annotated[str, AfterValidator(_checked_name)] = "reviewer"
    labels: dict[str, Verdict] = {}
    corrections: dict[str, Correction] = {}
    images: dict[str, ImageVerdict] = {}

    def to_bytes(self) -> bytes:
        """The file; the same verdicts give the same bytes."""
        return json_file(self.model_dump(mode="json"))


def read_draw(uri: str, store: Storage) -> Draw:
    """Read a ``draw.json``.

    Raises:
        InputError: it is missing, of another format, or not as it was written.
    """
    content = read_json(uri, store)
    draw: Draw = _checked(Draw, content, uri)
    if sealed(content)[SEAL] != draw.sha256:
        raise InputError(f"{storage.redact(uri)}: is not as it was written; draw again")
    return draw


def parse_verdicts(content: Any, where: str) -> Verdicts:
    """Check the parsed JSON of a file of verdicts.

    Raises:
        InputError: it is not of the format; the first problems are named.
    """
    found: Verdicts = _checked(Verdicts, content, where)
    return found


def _checked(model: Any, content: Any, where: str) -> Any:
    try:
        return model.model_validate_json(json.dumps(content))
    except ValidationError as error:
        problems = error.errors()
        texts = [f"{'.'.join(map(str, e['loc'])) or 'all'}: {e['msg']}" for e in problems[:_SHOWN]]
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(f"{storage.redact(where)}: {'; '.join(texts)}{more}") from None
