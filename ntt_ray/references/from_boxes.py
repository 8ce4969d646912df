"""References with boxes to references with masks: one Ray task, a COCO file and a page of pictures.

The rule that makes a mask of a box is in `references.boxes`.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ntt_ray import storage
from ntt_ray.coco_input import read_coco
from ntt_ray.config import Config
from ntt_ray.errors import InputError, NttRayError, ReferencesError, noted
from ntt_ray.masks import Rle, rle_area, segmentation_to_rle
from ntt_ray.models.spec import ModelSpec
from ntt_ray.records import ImageEntry
from ntt_ray.references.dataset import checked_box, decode_sized, image_entry, without_strays
from ntt_ray.references.page import ReferenceView, render_reference, render_references
from ntt_ray.references.subset import subset_coco
from ntt_ray.references.validate import TITLE, Choice, choose_annotations
from ntt_ray.run.cluster.connect import connect, decide
from ntt_ray.run.cluster.tasks import run_task
from ntt_ray.settings import AnnotatedOrientation
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

if TYPE_CHECKING:
    from ntt_ray.models.interfaces import BoxPrompter

logger = logging.getLogger(__name__)


# the annotation of a reference with the mask that it has now, and its picture
Masked = tuple[Mapping[str, Any], ReferenceView]


@dataclass(frozen=True)
class BoxWork:
    """The references of one image.

    Attributes:
        entry: the image.
        size_hw: height and width of the image according to the file, in pixels.
        annotations: the references as they stand in the file.
        boxes_xywh: the checked box of each reference, in pixels.
        rles: the mask that each reference has, None where it has a box only.
        orientation: how the image was seen when it was annotated.
    """

    entry: ImageEntry
    size_hw: tuple[int, int]
    annotations: tuple[Mapping[str, Any], ...]
    boxes_xywh: tuple[tuple[float, float, float, float], ...]
    rles: tuple[Rle | None, ...]
    orientation: AnnotatedOrientation = "auto"


def make_masks(
    config: Config, *, replace: bool = False
) -> tuple[dict[str, Any], str, Counter[str]]:
    """Make masks of the boxes of a config's references.

    Args:
        config: names the references and the proposer.
        replace: whether masks that are there are made again of their boxes.

    Returns:
        The COCO file of the chosen references, a page with a picture of each, and how many masks
        come from where, by the keys of `references.page.SOURCES`.

    Raises:
        ReferencesError: boxes or images that cannot be used, all of them named.
    """
    block = config.references
    if block is None:
        raise InputError("references: the config has none; give them with --annotations")
    store = Storage(config.storage_options)
    coco = read_coco(block.annotations, store)
    choice = choose_annotations(coco, **block.choice())
    root = block.image_root or block.annotations.rsplit("/", 1)[0]
    work = _work(choice, root, block.orientation, replace)
    boxes = sum(rle is None for item in work for rle in item.rles)
    logger.info("making masks of %d boxes in %d images", boxes, len(work))
    masked = _masked(config, work, store)
    references = [masked[a["id"]] for a in choice.annotations]
    info = {
        "description": "references whose masks were made of boxes by ntt-ray references from-boxes",
        "proposer": config.models.proposer.name,
        "min_predicted_iou": config.method.min_predicted_iou,
    }
    views = [view for _, view in references]
    page = render_references(views, [(label.category_id, label.name) for label in choice.classes])
    made = subset_coco(coco, choice, [annotation for annotation, _ in references], info)
    return made, page, Counter(view.source for view in views)


def _work(
    choice: Choice, image_root: str, orientation: AnnotatedOrientation, replace: bool
) -> list[BoxWork]:
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in choice.annotations:
        by_image[annotation["image_id"]].append(annotation)
    problems: list[str] = []
    work = []
    for image_id, own in sorted(by_image.items()):
        image = choice.images[image_id]
        size_hw = (image["height"], image["width"])
        boxes, rles = [], []
        for annotation in own:
            with noted(problems, f"annotation {annotation['id']}", ValueError):
                boxes.append(checked_box(annotation, image))
                rles.append(None if replace else _given_mask(annotation, size_hw))
        try:
            entry = image_entry(image, image_root)
            parts = tuple(own), tuple(boxes), tuple(rles)
            work.append(BoxWork(entry, size_hw, *parts, orientation))
        except (ValueError, InputError) as error:
            problems.append(str(error))
    if problems:
        raise ReferencesError(TITLE, problems)
    return work


def _given_mask(annotation: Mapping[str, Any], size_hw: tuple[int, int]) -> Rle | None:
    """The mask that is there; None where there is none, or one without a pixel."""
    given = without_strays(annotation)
    rle = segmentation_to_rle(given, *size_hw) if given else None
    return rle if rle is not None and rle_area(rle) else None


def _masked(config: Config, work: Sequence[BoxWork], store: Storage) -> dict[int, Masked]:
    connect()
    resources = decide(config.job, config.models.device)
    spec = ModelSpec(config.models, resources.device, "fp32", store).uncompiled()
    options, least = resources.actor_options(), config.method.min_predicted_iou
    with Stage("making masks of boxes", at_once=False):
        masked = run_task(mask_all, spec, list(work), least, options=options)
    for number, (_, view) in masked.items():
        if view.source == "box":
            text = "annotation %d in %s keeps its box as mask: %s"
            logger.warning(text, number, view.file_name, view.note)
    return masked


def mask_all(
    spec: ModelSpec, work: Sequence[BoxWork], min_predicted_iou: float
) -> dict[int, Masked]:
    """The Ray task: all images, one at a time, by annotation id."""
    spec.set_up_torch()
    prompter = spec.load_box_prompter()
    problems: list[str] = []
    masked: dict[int, Masked] = {}
    for item in work:
        try:
            masked.update(_mask_image(item, prompter, min_predicted_iou, spec.store))
        except FileNotFoundError:
            problems.append(
                f"image {item.entry.file_name}: there is no file {storage.redact(item.entry.uri)}"
                f"{storage.missing_folder(item.entry.uri)}"
            )
        except NttRayError as error:
            problems.append(f"image {item.entry.file_name}: {error}")
    if problems:
        raise ReferencesError(TITLE, problems)
    return masked


def _mask_image(
    item: BoxWork, prompter: BoxPrompter, min_predicted_iou: float, store: Storage
) -> dict[int, Masked]:
    from ntt_ray.references.boxes import BoxMask, masks_from_boxes

    image_rgb = decode_sized(store.read_bytes(item.entry.uri), item.size_hw, item.orientation)
    bare = [box for box, rle in zip(item.boxes_xywh, item.rles, strict=True) if rle is None]
    made = iter(masks_from_boxes(image_rgb, bare, prompter, min_predicted_iou) if bare else ())
    masks = [next(made) if rle is None else BoxMask.given(rle) for rle in item.rles]
    masked: dict[int, Masked] = {}
    for annotation, box, mask in zip(item.annotations, item.boxes_xywh, masks, strict=True):
        view = render_reference(
            image_rgb,
            box,
            mask.rle,
            annotation,
            file_name=item.entry.file_name,
            source="doubtful" if mask.doubtful else mask.source,
            note=mask.note(),
        )
        masked[annotation["id"]] = (mask.annotation(annotation), view)
    return masked
