"""The package from Python: label a few images, read what a run has labelled, match it again.

Owns what `import ntt_ray` offers; ``docs/python.md`` shows it. Millions of images are a run's
matter: ``ntt-ray run``, or the modules of `ntt_ray.run`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt_ray import records, storage
from ntt_ray.bank.file import BankFile
from ntt_ray.config import Config, build_config, load_config
from ntt_ray.errors import ImageError, InputError, RunIncompleteError, StorageError
from ntt_ray.images import RgbImage, decode_image, pillow_to_rgb
from ntt_ray.records import ImageEntry, ImageLabels, Status
from ntt_ray.settings import DecodeSettings
from ntt_ray.storage import Storage

if TYPE_CHECKING:
    from ntt_ray.method.labeler import Labeler
    from ntt_ray.method.tiling import TiledLabeler
    from ntt_ray.models.spec import ModelSpec
    from ntt_ray.proposals.keeping import KeptLabeler

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]
StorageOptions: TypeAlias = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Detection(records.Detection):
    """One labelled instance with the name of its class; `mask` gives its pixels."""

    name: str


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """What is known of one image.

    Attributes:
        image_id: id of the image in its run; of images labelled here the position, from 1.
        file_name: name of the image in its run, or the path it was read from; empty for pixels.
        size_hw: height and width in pixels; None where the image could not be read.
        status: ``ok`` with detections, ``empty`` without any, ``failed`` if it could not be read.
        error: why it failed, for a person to read; else None.
        detections: the instances found, by falling score.
        embedding: ``(C,)`` float32 of length 1, the mean of the encoder's features of the image;
            None unless the run has `proposals.embeddings`, and where the image failed or its
            proposals were kept by a version that did not keep it.
    """

    image_id: int
    file_name: str
    size_hw: tuple[int, int] | None
    status: Status
    error: str | None
    detections: tuple[Detection, ...]
    embedding: records.Embedding | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, labels: ImageLabels, names: Mapping[int, str]) -> Self:
        """The labels of an image, with the names of classes by category id."""
        size_hw = None
        if labels.height is not None and labels.width is not None:
            size_hw = labels.height, labels.width
        entry, found = labels.entry, tuple(_named(found, names) for found in labels.detections)
        return cls(
            *(entry.image_id, entry.file_name, size_hw, labels.status, labels.error, found),
            embedding=labels.embedding,
        )


class ImageLabeler:
    """Both models and a memory bank in this process; `load_labeler` makes one.

    Attributes:
        classes: names of the classes that it labels, by rising category id.
    """

    def __init__(
        self,
        labeler: Labeler | TiledLabeler | KeptLabeler,
        classes: Sequence[records.ClassLabel],
        decode: DecodeSettings,
        store: Storage,
    ) -> None:
        self.classes = tuple(label.name for label in classes)
        self._names = {label.category_id: label.name for label in classes}
        self._labeler, self._decode, self._store = labeler, decode, store

    @overload
    def label(self, images: ImageLike) -> LabelledImage: ...  # type: ignore[overload-overlap]
    @overload
    def label(self, images: Iterable[ImageLike]) -> list[LabelledImage]: ...
    def label(self, images: Any) -> LabelledImage | list[LabelledImage]:
        """Label one image, or several one after the other.

        Args:
            images: one image or several; each a path, a URI, a Pillow image, or a uint8 array
                ``(height, width, 3)`` in RGB order.

        Returns:
            One labelled image for one, a list for several. Of several, one that cannot be read
            has the status ``failed`` and its reason.

        Raises:
            ImageError: the only image cannot be read.
            InputError: what was given is no image at all, or an array of another form.
        """
        if not _are_several(images):
            return self._labelled(1, images)
        return [self._labelled_or_failed(n, image) for n, image in enumerate(images, start=1)]

    def _labelled(self, number: int, image: Any) -> LabelledImage:
        image_rgb = self._pixels(image)
        from ntt_ray.proposals.keeping import KeptLabeler

        embedding = None
        if isinstance(self._labeler, KeptLabeler):
            ((found, embedding),) = self._labeler.label_and_embed([image_rgb])
        else:
            (found,) = self._labeler.label([image_rgb])
        size_hw = image_rgb.shape[0], image_rgb.shape[1]
        labels = ImageLabels.labelled(_entry(number, image), size_hw, found, embedding=embedding)
        return LabelledImage.of(labels, self._names)

    def _labelled_or_failed(self, number: int, image: Any) -> LabelledImage:
        try:
            return self._labelled(number, image)
        except (ImageError, StorageError) as error:
            return LabelledImage.of(
                ImageLabels.failed(_entry(number, image), str(error)), self._names
            )

    def _pixels(self, image: Any) -> RgbImage:
        if isinstance(image, Image.Image):
            return pillow_to_rgb(image, self._decode)
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise InputError(
                    f"an array must be uint8 (height, width, 3), not {image.dtype} {image.shape}"
                )
            return image
        if not isinstance(image, (str, os.PathLike)):
            raise InputError(
                f"{type(image).__name__} is no image; give a path, a URI, a Pillow image or a "
                "uint8 array (height, width, 3)"
            )
        uri = storage.absolute(os.fspath(image))
        try:
            return decode_image(self._store.read_bytes(uri), self._decode)
        except FileNotFoundError:
            raise ImageError(f"{storage.redact(uri)}: there is no such file") from None
        except ImageError as error:
            raise ImageError(f"{storage.redact(uri)}: {error}") from None


def load_labeler(
    source: Config | str | os.PathLike[str],
    overrides: Sequence[str] = (),
    storage_options: StorageOptions | None = None,
) -> ImageLabeler:
    """Load both models and a memory bank into this process.

    Args:
        source: the output of a run, which is labelled with as that run was; a memory bank, a
            ``.safetensors`` file; or a config, loaded or as the path of its YAML. A config's bank
            is the one it names, or the one below its output where that fits its references, or it
            is built here from them (and kept nowhere; ``ntt-ray bank`` keeps it).
        overrides: settings as ``--set`` takes them: ``models.proposer.name=sam2_hiera_t``. A bank
            knows its encoder; all else has the default of the config unless it is said here.
        storage_options: access to stores, passed to fsspec by protocol; None: the config's.

    Raises:
        NttRayError: settings, references, bank or checkpoints cannot be used; its kinds are in
            `ntt_ray.errors`.
    """
    config = _settings_of(source, overrides, Storage(storage_options or {}))
    store = Storage(config.storage_options if storage_options is None else storage_options)
    from ntt_ray.models.spec import ModelSpec
    from ntt_ray.run.loading import loaded_image_labeler

    config.refuse_boxes("a labeller of single images", "boxes are those of the images of a run")
    models = ModelSpec.here(config.models, store).uncompiled()
    bank = _bank_of(config, models)
    labeler = loaded_image_labeler(models, bank.data, config.method, config.proposals)
    return ImageLabeler(labeler, bank.classes, config.decode, store)


def rematch(
    source: Config | str | os.PathLike[str],
    kept: str | os.PathLike[str],
    overrides: Sequence[str] = (),
) -> str:
    """Match the kept proposals of a run again: other references, classes or thresholds, no GPU.

    What ``ntt-ray rematch`` does before it merges; Ray is joined or started. The encoder is loaded
    only where the references are new and there is no bank of them.

    Args:
        source: the config of the new run, loaded or as the path of its YAML; its output is written.
        kept: the output of the run that kept its proposals.
        overrides: settings as ``--set`` takes them.

    Returns:
        The output, for `read_labels`.

    Raises:
        NttRayError: settings, proposals, bank or references cannot be used; its kinds are in
            `ntt_ray.errors`.
    """
    from ntt_ray.run.rematch import rematch as match_again

    if isinstance(source, Config):
        data = source.model_dump(mode="json")
        config = build_config(data, overrides) if overrides else source
    else:
        config = load_config(os.fspath(source), overrides)
    match_again(config, os.fspath(kept), lambda *_: None)
    return config.output


def read_labels(
    output: str | os.PathLike[str],
    storage_options: StorageOptions | None = None,
    *,
    partial: bool = False,
    embeddings: bool = True,
) -> Iterator[LabelledImage]:
    """Iterate over the images of a run in order, one shard in memory at a time.

    Every image of the run comes, also those without detections and those that failed; detections
    of all scores come, where merged files leave out those below ``merge.min_score``. Of a run with
    `proposals.embeddings` images and detections have their `embedding`.

    Args:
        output: the prefix of the run.
        storage_options: access to stores, passed to fsspec by protocol.
        partial: read what is there although shards are missing.
        embeddings: read them where the run has them; without, it is faster.

    Raises:
        InputError: there is no run, or a shard is damaged.
        RunIncompleteError: shards are missing.
    """
    from ntt_ray.run.record import recorded_run
    from ntt_ray.run.shard import existing_shards, iter_labels, read_shard

    place, store = storage.absolute(os.fspath(output)), Storage(storage_options or {})
    recorded = recorded_run(place, store)
    names = {label.category_id: label.name for label in recorded.class_labels}
    units = recorded.plan.units
    shards = sorted(existing_shards(place, store) & set(range(units)))
    if len(shards) < units and not partial:
        raise RunIncompleteError(
            f"{storage.redact(place)}: {units - len(shards)} of {units} shards are missing; label "
            "the rest, or read what is there with partial=True"
        )
    embedded = embeddings and recorded.identity.makes_embeddings
    return (
        LabelledImage.of(labels, names)
        for shard_id in shards
        for labels in iter_labels(
            read_shard(place, shard_id, store, embeddings=embedded), embedded=embedded
        )
    )


def _are_several(images: Any) -> bool:
    """Whether this is more than one image; what is neither is refused as one."""
    if isinstance(images, np.ndarray):
        return images.ndim == 4
    return isinstance(images, Iterable) and not isinstance(images, (str, bytes))


def _named(found: records.Detection, names: Mapping[int, str]) -> Detection:
    values = {one.name: getattr(found, one.name) for one in fields(found)}
    return Detection(**values, name=names[found.category_id])


def _entry(number: int, image: Any) -> ImageEntry:
    name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else ""
    return ImageEntry(number, name, name)


def _settings_of(
    source: Config | str | os.PathLike[str], overrides: Sequence[str], store: Storage
) -> Config:
    """The config that `load_labeler` is given, or what a bank or an output says of one."""
    if isinstance(source, Config):
        return build_config(source.model_dump(mode="json"), overrides) if overrides else source
    place = os.fspath(source)
    if place.endswith((".yaml", ".yml")):
        return load_config(place, overrides)
    uri, title = storage.absolute(place), f"{storage.redact(place)}, with what was said here:"
    settings = _of_bank(uri, store) if place.endswith(".safetensors") else _of_run(uri, store)
    return build_config(settings, overrides, title)


def _of_bank(uri: str, store: Storage) -> dict[str, Any]:
    from ntt_ray.bank.inputs import read_bank

    encoder = dict(read_bank(uri, store).encoder)
    del encoder["checkpoint"]  # its digest: `_bank_of` compares it
    return {"images": "any", "output": "any", "bank": uri, "models": {"encoder": encoder}}


def _of_run(output: str, store: Storage) -> dict[str, Any]:
    from ntt_ray.run.layout import BANK_FILE
    from ntt_ray.run.record import read_record

    recorded = read_record(output, store)
    if recorded is None:
        raise InputError(
            f"{storage.redact(output)}: there is no run here; give the output of a run, a "
            ".safetensors bank or a .yaml config"
        )
    bank = storage.join(output, BANK_FILE)
    return {**recorded.config, "references": None, "bank": bank, "storage_options": {}}


def _bank_of(config: Config, models: ModelSpec) -> BankFile:
    """The bank that a config names, has below its output, or makes of its references."""
    from ntt_ray.bank.inputs import BankInputs, bank_sources, existing_bank
    from ntt_ray.bank.task import bank_task
    from ntt_ray.models.published import file_digest

    digest = file_digest(models.checkpoint("encoder"))
    sources = bank_sources(config, models.store)
    bank = existing_bank(config, models.store, sources, models.encoder_record(digest))
    if bank is not None:
        return bank
    assert isinstance(sources, BankInputs)
    return BankFile.from_bytes(bank_task(config, models, sources, digest)()[0], "the new bank")
