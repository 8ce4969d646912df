"""The memory bank of a run: what goes into it, whether the one there can be used, building it.

Building runs as one Ray task where the models run. Beside the bank lie ``bank.html`` and
``bank.json``, which say what its references can do.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ntt_ray import storage
from ntt_ray.bank.file import BankFile, bank_digest
from ntt_ray.bank.join import join_banks, joined_classes
from ntt_ray.bank.metrics import BankFacts
from ntt_ray.bank.report import BankExamples, write_bank_report
from ntt_ray.config import Config, NegativesConfig
from ntt_ray.errors import InputError
from ntt_ray.models.spec import ModelSpec
from ntt_ray.records import ClassLabel, ReferenceSet
from ntt_ray.references.background import (
    Surroundings,
    surroundings_digest,
    surroundings_of,
)
from ntt_ray.references.dataset import check_images, load_references, read_json
from ntt_ray.references.negatives import negatives_of, used_classes
from ntt_ray.run.cluster.placement import Resources
from ntt_ray.run.cluster.tasks import run_task
from ntt_ray.run.layout import BANK_FILE
from ntt_ray.storage import Storage

if TYPE_CHECKING:
    from ntt_ray.bank.colours import Picture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankInputs:
    """What a bank is made of, after every image was looked at.

    Attributes:
        references: of this config.
        negatives: under the ids of the references, or None.
        digest: of both and of their images.
        base: the bank that they are added to, or None.
        surroundings: of the references, where these become negatives.
    """

    references: ReferenceSet
    negatives: ReferenceSet | None
    digest: str
    base: BankFile | None
    surroundings: tuple[Surroundings, ...] = ()

    def in_bank(self) -> ReferenceSet:
        """The references under the category ids of the bank that they make."""
        return self.references.renumbered({c.name: c.category_id for c in self.classes()})

    def classes(self) -> tuple[ClassLabel, ...]:
        """The classes of the bank that they make."""
        if self.base is None:
            return self.references.classes
        return joined_classes((self.base.classes, self.references.classes), ("", ""))


@dataclass(frozen=True)
class BuiltBank:
    """A bank, and the patch features of this config's references as pictures, by annotation id."""

    bank: BankFile
    colours: Mapping[int, Picture]


def checked_inputs(config: Config, store: Storage) -> BankInputs:
    """Load and check the references of a config.

    Raises:
        ReferencesError: with every problem of the references, or of the negatives.
        InputError: the bank to extend is missing, damaged, or the run's own.
    """
    block, ratio = config.references, config.method.context_ratio
    assert block is not None
    references = load_references(block.annotations, block.image_root, store, **block.choice())
    digest, negatives = check_images(references, store, ratio), None
    if block.negatives is not None:
        negatives = negatives_of(_load_negatives(block.negatives, store), references.classes)
        both = f"{digest}\n{check_images(negatives, store, ratio)}"
        digest = hashlib.sha256(both.encode()).hexdigest()
    surroundings: tuple[Surroundings, ...] = ()
    if block.background is not None:
        surroundings = surroundings_of(read_json(block.annotations, store), references)
        how = [block.background.per_image, config.models.proposer.image_size]
        both = f"{digest}\n{surroundings_digest(surroundings)}\n{how}"
        digest = hashlib.sha256(both.encode()).hexdigest()
    base = None
    if block.extends is not None:
        if block.extends == storage.join(config.output, BANK_FILE):
            raise InputError("references.extends: is this run's own bank; choose another output")
        base = read_bank(block.extends, store, "references.extends")
    return BankInputs(references, negatives, digest, base, surroundings)


def _load_negatives(block: NegativesConfig, store: Storage) -> ReferenceSet:
    choice = block.choice()
    if block.classes is None:
        choice["classes"] = used_classes(read_json(block.annotations, store))
    return load_references(block.annotations, block.image_root, store, **choice)


def read_bank(uri: str, store: Storage, key: str = "bank") -> BankFile:
    """Read a bank file.

    Raises:
        InputError: it is missing or damaged; `key` is the setting that names it.
    """
    try:
        data = store.read_bytes(uri)
    except FileNotFoundError:
        raise InputError(f"{key}: {storage.redact(uri)}: no such file") from None
    return BankFile.from_bytes(data, storage.redact(uri))


def reusable_bank(
    output: str, store: Storage, encoder: dict[str, Any], inputs: BankInputs
) -> BankFile | None:
    """The bank already below the output, when the same references and encoder made it."""
    uri = storage.join(output, BANK_FILE)
    try:
        data = store.read_bytes(uri)
    except FileNotFoundError:
        return None
    bank = BankFile.from_bytes(data, uri)
    before = () if inputs.base is None else inputs.base.history()
    sources = bank.history()
    same = sources[:-1] == before and sources[-1].references == inputs.digest
    return bank if same and dict(bank.encoder) == encoder else None


def build(
    config: Config,
    spec: ModelSpec,
    resources: Resources,
    inputs: BankInputs,
    encoder_digest: str,
    store: Storage,
) -> BuiltBank:
    """Build the bank where the models run, and join it to the one it extends.

    Raises:
        InputError: another encoder made the bank that is to be extended.
    """
    record = spec.encoder_record(encoder_digest)
    if inputs.base is not None:
        inputs.base.check_encoder(record, "references.extends")
    logger.info(
        "building the memory bank: %d references of %d classes",
        len(inputs.references.references),
        len(inputs.references.classes),
    )
    ratio, side = config.method.context_ratio, config.models.proposer.image_size
    base, background = inputs.base, config.references and config.references.background

    def build_here() -> tuple[bytes, dict[int, Picture]]:
        import torch

        from ntt_ray.bank.build import build_bank, load_backgrounds, load_crops
        from ntt_ray.bank.colours import PatchColours
        from ntt_ray.bank.memory import MemoryBank

        if spec.device == "cpu":
            torch.set_num_threads(1)
        colours = PatchColours()
        negatives = inputs.negatives
        bank = build_bank(
            inputs.references,
            load_crops(inputs.references, store, ratio),
            spec.uncompiled().load_encoder(),
            encoder_record=record,
            reference_digest=inputs.digest,
            negative_crops=() if negatives is None else load_crops(negatives, store, ratio),
            backgrounds=load_backgrounds(inputs.surroundings, store, side),
            per_background=background.per_image if background else 0,
            on_features=colours.add,
        )
        if base is not None:
            extended = MemoryBank.from_bytes(base.data, "references.extends")
            bank = join_banks((extended, bank), ("references.extends", "these references"))
        return bank.to_bytes(), colours.pictures()

    data, pictures = run_task(build_here, options=resources.actor_options())
    return BuiltBank(BankFile.from_bytes(data, BANK_FILE), pictures)


def report_bank(
    output: str, bank: BankFile, store: Storage, examples: BankExamples | None = None
) -> dict[str, Any]:
    """Write ``bank.html`` and ``bank.json``, and give the content of the latter.

    Args:
        output: the run's prefix.
        bank: what to look at.
        store: access to files.
        examples: its references; without them, for a bank that came ready, no crops are shown.
    """
    none = tuple(np.zeros((0, 1), dtype=np.float32) for _ in bank.classes)
    facts = BankFacts(
        digest=bank_digest(bank.data),
        classes=bank.classes,
        features=bank.references.rows(),
        negatives=none if bank.negatives is None else bank.negatives.rows(),
        encoder=dict(bank.encoder),
        sources=tuple((s.bank, s.references, dict(s.shots)) for s in bank.history()),
    )
    return write_bank_report(output, store, facts, examples)


def examples_of(inputs: BankInputs, built: BuiltBank, context_ratio: float) -> BankExamples:
    """The references of this config under the category ids of its bank."""
    ids = {label.name: label.category_id for label in inputs.classes()}
    negatives = inputs.negatives
    return BankExamples(
        references=inputs.in_bank(),
        negatives=None if negatives is None else negatives.renumbered(ids),
        colours=built.colours,
        context_ratio=context_ratio,
    )


def join_files(uris: Sequence[str], output: str) -> tuple[BankFile, list[str]]:
    """Join bank files into one; the original files stay.

    Returns:
        The joined bank, and a line for each class whose id was changed.

    Raises:
        InputError: fewer than two banks, banks that cannot be joined, or one named as output.
    """
    if len(uris) < 2:
        raise InputError("joining needs two banks or more")
    store, names = Storage(), [storage.redact(uri) for uri in uris]
    places = [storage.absolute(uri) for uri in uris]
    if storage.absolute(output) in places:
        raise InputError(f"--output: {storage.redact(output)} is one of the banks that are joined")
    from ntt_ray.bank.memory import MemoryBank

    files = [read_bank(place, store) for place in places]
    banks = [MemoryBank.from_bytes(file.data, name) for file, name in zip(files, names)]
    joined = join_banks(banks, names)
    ids = {label.name: label.category_id for label in joined.classes}
    changes = [
        f"class {label.name}: id {label.category_id} in {name} is {ids[label.name]} here"
        for bank, name in zip(banks, names, strict=True)
        for label in bank.classes
        if ids[label.name] != label.category_id
    ]
    data = joined.to_bytes()
    store.publish_bytes(storage.absolute(output), data)
    return BankFile.from_bytes(data, output), changes
