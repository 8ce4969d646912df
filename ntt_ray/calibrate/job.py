"""Labels the reference images, each with a bank that its own references are left out of.

Images of the same bytes are one picture, whatever their names and ids: it is labelled once, without
the references of all these images, and what is annotated in any of them counts as annotated. The
references of its near-copies are left out, too (see `copies`); each of them is labelled by itself,
since their masks may have other sizes. What a bank was extended from cannot be left out: nobody
knows any more which picture it came from.

The images are divided among tasks with the resources of a labelling actor. What the labels say of
score thresholds is the matter of `thresholds`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ntt_ray import storage
from ntt_ray.bank.file import bank_digest
from ntt_ray.bank.inputs import BankInputs
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.bank.padding import PaddedMeans
from ntt_ray.calibrate.copies import Signature, grouped, signature_of
from ntt_ray.calibrate.kept import PictureStore, check_kept_by
from ntt_ray.calibrate.page import Judged, render_calibration, render_judged, worst_first
from ntt_ray.calibrate.thresholds import ClassCalibration, calibrate, calibration_of, judge
from ntt_ray.config import Config
from ntt_ray.errors import InputError, NttRayError
from ntt_ray.evaluate.matching import GroundTruth
from ntt_ray.images import RgbImage
from ntt_ray.json_input import read_json
from ntt_ray.method.tiling import make_labeler
from ntt_ray.models.spec import ModelSpec
from ntt_ray.pages.environment import counted
from ntt_ray.proposals.keeping import Keeper
from ntt_ray.proposals.kept import ImageProposals
from ntt_ray.proposals.matching import Matcher
from ntt_ray.records import (
    ClassLabel,
    Detection,
    ImageEntry,
    ImageLabels,
    Reference,
    ReferenceSet,
)
from ntt_ray.references.background import images_of
from ntt_ray.references.dataset import decode_sized, read_all
from ntt_ray.run.cluster.tasks import run_tasks
from ntt_ray.run.identity import labelling_content, scores_content
from ntt_ray.run.layout import CALIBRATION_FILE, CALIBRATION_PAGE
from ntt_ray.run.prepare import ReferenceRun, prepare_references
from ntt_ray.settings import AnnotatedOrientation, MethodSettings
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

IMAGES_PER_TASK = 16  # a task loads both models first
MAX_NAMED = 8

_Labelled = tuple[ImageLabels, frozenset[int]]  # with the category ids of the bank


@dataclass(frozen=True)
class Picture:
    """What one or more images of the reference file show.

    Attributes:
        entry: the image that stands for it.
        image_ids: ids of all images of the reference file that show it.
        uris: addresses of these images, of images of negatives that show it, and of near-copies.
        names: file names of the images at these addresses.
        size_hw: its height and width according to the reference file.
        orientation: how it was seen when it was annotated.
        digest: SHA-256 of the file's bytes in hex; empty where it could not be read.
    """

    entry: ImageEntry
    image_ids: tuple[int, ...]
    uris: frozenset[str]
    names: tuple[str, ...]
    size_hw: tuple[int, int]
    orientation: AnnotatedOrientation = "auto"
    digest: str = ""

    @property
    def key(self) -> str:
        """What its pixels depend on: the same picture has the same key in any reference file."""
        height, width = self.size_hw
        return f"{self.digest}-{self.orientation}-{width}x{height}"

    def read(self, store: Storage) -> RgbImage:
        """Its pixels ``(h, w, 3)`` as they were annotated; errors as of `decode_sized`."""
        return decode_sized(store.read_bytes(self.entry.uri), self.size_hw, self.orientation)


def calibrate_run(
    config: Config,
    *,
    wanted_precision: float | None = None,
    complete: bool = False,
    kept_by: str | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> list[ClassCalibration]:
    """Choose score thresholds from the references; write ``calibration.json`` and its page.

    Args:
        config: the run; needs references.
        wanted_precision: share of the detections that must be right, instead of the best F1.
        complete: whether every object of the run's classes is annotated in the reference images.
        kept_by: an output whose calibration kept proposals of reference pictures, which are taken
            where they fit, as those below the config's own output are.
        on_images: called with how many reference images are done, and how many there are.

    Raises:
        InputError: the config names a ready bank: there is no reference image to label; or an
            output is named whose calibration kept nothing, or the config keeps no proposals.
        ConfigError: the config names boxes.
    """
    store = check_calibration(config, kept_by)
    assert config.references is not None
    kept_by = kept_by and _prefix(kept_by)
    run = prepare_references(config, store)
    classes = run.inputs.classes()
    pictures = pictures_of(run.inputs, store)
    base = run.inputs.base
    extended = 0 if base is None else int(base.references.shots.sum())
    copies = warn_of(pictures, extended)
    coco = read_json(config.references.annotations, store)
    are_objects = config.references.crowds == "objects"
    truth = GroundTruth(one_image_each(coco, pictures, crowds_are_objects=are_objects), classes)
    judged: list[Judged] = []
    for labels, known in _labelled(config, run, pictures, store, kept_by):
        matches = truth.match(labels)
        if matches is None:
            raise InputError(
                f"references: image {labels.entry.file_name} has another size than the file says"
            )
        outcomes = judge(labels.detections, matches, complete=complete, classes=known)
        judged.append(Judged(labels, matches, outcomes))
        if on_images is not None:
            on_images(len(judged), len(pictures))
    judged.sort(key=lambda item: item.labels.entry.image_id)  # tasks end in any order
    seen = [item.outcomes for item in judged]
    found = calibrate(seen, classes, wanted_precision=wanted_precision)
    thresholds = {
        item.label.category_id: config.merge.min_score if item.threshold is None else item.threshold
        for item in found
    }
    shown = {picture.entry.image_id: picture for picture in pictures}
    views = [
        render_judged(item, _read(shown[item.labels.entry.image_id], store), thresholds)
        for item in worst_first(judged, thresholds)
    ]
    page = render_calibration(
        found,
        seen,
        views,
        wanted_precision=wanted_precision,
        complete=complete,
        copies=copies,
        extended=extended,
    )
    bank = bank_digest(run.bank)
    made_with = scores_content(labelling_content(config, run.found))
    calibration = calibration_of(
        found, wanted_precision=wanted_precision, bank=bank, made_with=made_with
    )
    page_uri = storage.join(config.output, CALIBRATION_PAGE)
    store.publish_bytes(page_uri, page.encode("utf-8", "replace"))
    store.publish_bytes(storage.join(config.output, CALIBRATION_FILE), calibration.to_bytes())
    return found


def check_calibration(config: Config, kept_by: str | None) -> Storage:
    """Refuse what cannot be calibrated, by the config alone; see `calibrate_run`.

    Returns:
        Access to the files of the config.
    """
    if kept_by is not None and not config.proposals.keep:
        raise InputError(
            "--from: proposals of pictures are kept, and taken, with proposals.keep: true"
        )
    if config.references is None:
        raise InputError(
            "calibrate: the config names a ready bank; references are needed, with their images"
        )
    config.refuse_boxes("calibrate", "the images of references have none")
    store = Storage(config.storage_options)
    if kept_by is not None:
        check_kept_by(_prefix(kept_by), store)
    return store


def _prefix(kept_by: str) -> str:
    return storage.absolute(kept_by).rstrip("/")


def warn_of(pictures: Sequence[Picture], extended: int) -> list[tuple[str, ...]]:
    """Say in the log which pictures are held out together, and that a base bank never is.

    Args:
        pictures: the pictures of the references.
        extended: how many references came with a bank that this one extends.

    Returns:
        File names of what is held out together, by picture.
    """
    copies = sorted({picture.names for picture in pictures if len(picture.uris) > 1})
    if copies:
        logger.warning(
            "references: copies of %s are held out together, also those encoded again or resized: "
            "%s%s",
            counted(len(copies), "picture"),
            "; ".join(" = ".join(names[:MAX_NAMED]) for names in copies[:MAX_NAMED]),
            " ..." if len(copies) > MAX_NAMED else "",
        )
    if extended:
        logger.warning(
            "references.extends: the %d references of that bank cannot be held out; where they are "
            "of pictures that are labelled here, precision and recall seem better than they are",
            extended,
        )
    return copies


def _read(picture: Picture, store: Storage) -> RgbImage | None:
    try:
        return picture.read(store)
    except (NttRayError, FileNotFoundError):
        return None


def one_image_each(
    coco: Mapping[str, Any], pictures: Sequence[Picture], *, crowds_are_objects: bool = False
) -> dict[str, Any]:
    """What of a COCO file lies in some pictures, each as one image with all its objects."""
    single = {"iscrowd": 0} if crowds_are_objects else {}
    ids = {i: picture.entry.image_id for picture in pictures for i in picture.image_ids}
    firsts = set(ids.values())
    return {
        "images": [image for image in coco["images"] if image["id"] in firsts],
        "annotations": [
            {**annotation, **single, "image_id": ids[annotation["image_id"]]}
            for annotation in coco["annotations"]
            if annotation["image_id"] in ids
        ],
        "categories": coco["categories"],
    }


def bank_without(
    bank: MemoryBank,
    references: ReferenceSet,
    uris: Collection[str],
    negatives: ReferenceSet | None = None,
    per_background: int = 0,
) -> MemoryBank:
    """The bank less some images' references; a class without any other reference is left out.

    Args:
        bank: holds the references last in each class; what it was extended from comes before.
        references: the references in the bank, under the bank's category ids.
        uris: addresses of the images that are left out.
        negatives: the negative references in the bank, under the bank's category ids.
        per_background: how many negatives each image of a class's references gave; in the bank
            they come before `negatives`.
    """
    positive = PaddedMeans(bank.features, bank.weights, bank.shots)
    own_rows = _rows_of(references, uris, bank.classes, bank.shots.tolist())
    positive = positive.without(own_rows)
    left = [k for k, count in enumerate(positive.shots.tolist()) if count]
    if not left:
        raise InputError(
            "calibrate: all references lie in one image, or in copies of it; without it there is "
            "nothing to compare"
        )
    against = bank.negatives
    if against is not None:
        shots = against.shots.tolist()
        rows = _background_rows(references, negatives, uris, bank.classes, shots, per_background)
        for k, dropped in _rows_of(negatives, uris, bank.classes, shots).items():
            rows[k] |= dropped
        against = against.without(rows)
        against = against.select(left) if against.shots[left].any() else None
    return MemoryBank(
        tuple(bank.classes[k] for k in left),
        **vars(positive.select(left)),
        encoder=bank.encoder,
        reference_digest=bank.reference_digest,
        negatives=against,
        patches=bank.patches and bank.patches.without(own_rows, bank.shots.tolist()),
    )


def _rows_of(
    references: ReferenceSet | None,
    uris: Collection[str],
    classes: Sequence[ClassLabel],
    shots: Sequence[int],
) -> dict[int, set[int]]:
    """Positions in a bank, by class index, of the references that lie in some images."""
    by_class: dict[int, list[Reference]] = defaultdict(list)
    for reference in () if references is None else references.references:
        by_class[reference.category_id].append(reference)
    rows = {}
    for k, label in enumerate(classes):
        own = by_class[label.category_id]
        before = shots[k] - len(own)
        if dropped := {before + n for n, r in enumerate(own) if r.image.uri in uris}:
            rows[k] = dropped
    return rows


def _background_rows(
    references: ReferenceSet,
    negatives: ReferenceSet | None,
    uris: Collection[str],
    classes: Sequence[ClassLabel],
    shots: Sequence[int],
    per_background: int,
) -> dict[int, set[int]]:
    """Positions, by class index, of negatives made of the surroundings of references."""
    rows: dict[int, set[int]] = {}
    for k, label in enumerate(classes):
        own = images_of(references, label.category_id)
        after = 0 if negatives is None else len(negatives.of_class(label.category_id))
        before = shots[k] - after - per_background * len(own)
        rows[k] = {
            before + per_background * n + row
            for n, entry in enumerate(own)
            for row in range(per_background)
            if entry.uri in uris
        }
    return rows


@dataclass(frozen=True)
class _Judging:
    """What a task needs to label pictures, each with the bank of all others.

    Attributes:
        models: how to load both models.
        method: the settings of the method.
        max_iou: the IoU at low resolution that two kept masks may have at most; None keeps all.
        bank: the bank's file.
        references: the references in the bank, under the bank's category ids.
        negatives: likewise the negative references.
        per_background: how many negatives each image of a class's references gave.
        kept: where proposals of pictures are kept; None where they are not.
    """

    models: ModelSpec
    method: MethodSettings
    max_iou: float | None
    bank: bytes
    references: ReferenceSet
    negatives: ReferenceSet | None
    per_background: int
    kept: PictureStore | None

    def others(self, bank: MemoryBank, picture: Picture) -> MemoryBank:
        """The bank without the references of a picture."""
        return bank_without(
            bank, self.references, picture.uris, self.negatives, self.per_background
        )


def _label(judging: _Judging, pictures: Sequence[Picture]) -> list[_Labelled]:
    """The Ray task: label pictures one by one; where proposals are kept, by what was kept."""
    models, method = judging.models, judging.method
    models.set_up_torch()
    bank = MemoryBank.from_bytes(judging.bank, "the bank")
    encoder = models.load_encoder()
    proposer = models.load_proposer(method.points_per_side, method.all_outputs, method.refinement)
    if judging.kept is not None:
        keeper = Keeper(encoder, proposer, method, judging.max_iou)
        rows = [_kept(keeper, picture, models.store) for picture in pictures]
        judging.kept.publish(rows, encoder.feature_dim)
        return [_matched(judging, bank, *item) for item in zip(pictures, rows, strict=True)]
    found = []
    for picture in pictures:
        image_rgb = picture.read(models.store)
        others = judging.others(bank, picture)
        (detections,) = make_labeler(encoder, proposer, others, method).label([image_rgb])
        found.append((_row(picture, detections), _category_ids(others)))
    return found


def _kept(keeper: Keeper, picture: Picture, store: Storage) -> ImageProposals:
    data = store.read_bytes(picture.entry.uri)
    (views,) = keeper.keep([decode_sized(data, picture.size_hw, picture.orientation)])
    seen = replace(picture, digest=hashlib.sha256(data).hexdigest())
    entry = ImageEntry(picture.entry.image_id, seen.key, "")
    return ImageProposals.kept(entry, picture.size_hw, views)


def _match(
    judging: _Judging, part: tuple[str, Sequence[Picture]]
) -> list[_Labelled] | tuple[str, Sequence[Picture]]:
    """The Ray task where a file has the proposals of pictures: no model is loaded.

    A file that is damaged, or gone, gives its pictures back, and why.
    """
    uri, pictures = part
    assert judging.kept is not None
    torch.set_num_threads(1)
    bank = MemoryBank.from_bytes(judging.bank, "the bank")
    try:
        rows = judging.kept.read(uri)
        kept = [rows[picture.key] for picture in pictures]
    except (InputError, KeyError, ValueError) as error:
        return str(error), pictures
    return [_matched(judging, bank, *item) for item in zip(pictures, kept, strict=True)]


def _matched(
    judging: _Judging, bank: MemoryBank, picture: Picture, row: ImageProposals
) -> _Labelled:
    others = judging.others(bank, picture)
    detections = Matcher(others, judging.method).detections(row.views, picture.size_hw)
    return _row(picture, detections), _category_ids(others)


def _row(picture: Picture, detections: tuple[Detection, ...]) -> ImageLabels:
    return ImageLabels.labelled(picture.entry, picture.size_hw, detections)


def _category_ids(bank: MemoryBank) -> frozenset[int]:
    return frozenset(label.category_id for label in bank.classes)


def _labelled(
    config: Config,
    run: ReferenceRun,
    pictures: Sequence[Picture],
    store: Storage,
    kept_by: str | None,
) -> Iterator[_Labelled]:
    """Labels of the pictures in any order, each with the classes that its bank had."""
    background = config.references and config.references.background
    kept = PictureStore.of(config, run.found, store) if config.proposals.keep else None
    judging = _Judging(
        *(run.models.uncompiled(), config.method, config.proposals.max_iou, run.bank),
        *run.inputs.in_bank(),
        background.per_image if background else 0,
        kept,
    )
    left = list(pictures)
    if kept is not None:
        by_key = {picture.key: picture for picture in pictures if picture.digest}
        outputs = [config.output, *([kept_by] if kept_by else [])]
        files = kept.files_of(by_key, outputs)
        known = {key for keys in files.values() for key in keys}
        level = logging.WARNING if kept_by and not known else logging.INFO
        logger.log(level, "proposals of %d of %d pictures are kept", len(known), len(pictures))
        left = [picture for picture in pictures if picture.key not in known]
        matching = [(uri, [by_key[key] for key in keys]) for uri, keys in files.items()]
        for labelled in run_tasks(partial(_match, judging), matching, {"num_cpus": 1}):
            if isinstance(labelled, list):
                yield from labelled
                continue
            why, given_back = labelled
            logger.warning("%s; its pictures are looked at again", why)
            left += given_back
    most = IMAGES_PER_TASK if kept is None or config.method.tiles is None else 1
    size = max(1, min(most, -(-len(left) // run.resources.actors)))
    parts = [left[start : start + size] for start in range(0, len(left), size)]
    for labelled in run_tasks(partial(_label, judging), parts, run.resources.actor_options()):
        yield from labelled


def pictures_of(inputs: BankInputs, store: Storage) -> list[Picture]:
    """What the images of the references show, by rising image id.

    Images of negatives count too: what is known of a picture must not help to label it.
    """
    references = {r.image: r for r in inputs.references.references}
    own = set(references)
    negatives = () if inputs.negatives is None else inputs.negatives.references
    entries = own | {r.image for r in negatives}
    seen = {r.image: r for r in negatives} | references
    same: dict[str, list[ImageEntry]] = defaultdict(list)
    signatures: dict[str, Signature | None] = {}
    for entry, data, _ in read_all(sorted(entries, key=lambda e: e.uri), store):
        digest = entry.uri if data is None else hashlib.sha256(data).hexdigest()
        same[digest].append(entry)
        if data is not None and digest not in signatures:
            signatures[digest] = signature_of(data, seen[entry].size_hw, seen[entry].orientation)
    groups = dict(zip(same, grouped([signatures.get(digest) for digest in same])))
    copies: dict[int, dict[str, str]] = defaultdict(dict)  # file names by address
    for digest, found in same.items():
        copies[groups[digest]] |= {entry.uri: entry.file_name for entry in found}
    pictures = []
    for digest, found in same.items():
        if shown := [entry for entry in found if entry in own]:
            ids = tuple(entry.image_id for entry in shown)
            all_of_it, one = copies[groups[digest]], references[shown[0]]
            uris, names = frozenset(all_of_it), tuple(sorted(all_of_it.values()))
            seen_so = one.size_hw, one.orientation
            known = "" if digest == shown[0].uri else digest
            pictures.append(Picture(shown[0], ids, uris, names, *seen_so, known))
    return sorted(pictures, key=lambda picture: picture.entry.image_id)
