"""What comes after labelling, checked before it: a typo in it must not wait for the last image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

from ntt_ray import storage
from ntt_ray.coco_input import Truth, checked_truth, read_coco
from ntt_ray.config import Config
from ntt_ray.errors import InputError, did_you_mean
from ntt_ray.json_input import read_json
from ntt_ray.merge.calibration import Calibration, calibrated
from ntt_ray.merge.classes import choose_classes
from ntt_ray.records import ClassLabel
from ntt_ray.storage import Storage

READ_BYTES = 64 << 20  # a larger ground truth is only looked for: reading it would take a while


def check_ahead(
    config: Config, classes: Sequence[ClassLabel], store: Storage
) -> Callable[[Iterator[list[str]]], None]:
    """Check `merge` and `ground_truth` against the classes that will be labelled.

    Returns:
        What checks the file names of the images that will be labelled, given in batches: one of
        them at least is in the ground truth.

    Raises:
        InputError: a class, a calibration or the ground truth is missing or does not fit, or the
            merge does not write what is evaluated.
    """
    choose_classes(classes, config.merge.classes, config.merge.rename)
    uri = config.merge.calibration
    if uri is not None:
        if not store.exists(uri):
            raise InputError(
                f"merge.calibration: {storage.redact(uri)}: no such file; `ntt-ray calibrate` "
                "writes one"
            )
        found = Calibration.parse(read_json(uri, store), uri)
        calibrated(found, uri, tuple(classes), config.merge.min_score)
    truth = None
    if config.ground_truth is not None:
        if "coco-results" not in config.profiles:
            raise InputError(
                "merge.profiles: evaluation reads results.json; add coco-results, or set "
                "ground_truth to null"
            )
        truth = _read_truth(config.ground_truth, [label.name for label in classes], store)
    return functools.partial(_check_names, truth)


def _read_truth(uri: str, classes: Sequence[str], store: Storage) -> Truth | None:
    try:
        size = store.size(uri)
    except FileNotFoundError:
        where = f"ground_truth: {storage.redact(uri)}: no such file"
        raise InputError(f"{where}{storage.missing_folder(uri)}") from None
    if size > READ_BYTES:
        return None
    truth = checked_truth(read_coco(uri, store))
    names = sorted(category.name for _, category in truth.categories.sound())
    if names and not set(names) & set(classes):
        raise InputError(
            f"ground_truth: none of the run's classes is in it; it has {', '.join(names)}"
            f"{did_you_mean(classes[0], names)}"
        )
    return truth


def _check_names(truth: Truth | None, batches: Iterator[list[str]]) -> None:
    if truth is None:
        return
    names = {image.file_name for _, image in truth.images.sound()}
    for batch in batches:
        if not names.isdisjoint(batch):
            return
    raise no_common_image(batch[0], next(iter(names), "none"))


def no_common_image(of_run: str, of_truth: str) -> InputError:
    """What is said where no image of a run is in its ground truth, with a name of either."""
    return InputError(
        "ground_truth: none of the run's images is in it; file names must be equal "
        f"(the run has {of_run!r}, the ground truth {of_truth!r})"
    )
