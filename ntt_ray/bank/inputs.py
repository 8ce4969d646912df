"""What a memory bank is made of, checked before anything is started; and the bank that is there.

It starts nothing and writes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ntt_ray import storage
from ntt_ray.bank.file import BankFile
from ntt_ray.bank.join import joined_classes, joint_digest
from ntt_ray.coco_input import read_coco
from ntt_ray.config import Config, NegativesConfig
from ntt_ray.errors import InputError
from ntt_ray.records import ClassLabel, ReferenceSet
from ntt_ray.references.background import Surroundings, surroundings_digest, surroundings_of
from ntt_ray.references.dataset import check_images, chosen_references
from ntt_ray.references.negatives import negatives_of, used_classes
from ntt_ray.run.layout import BANK_FILE
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankInputs:
    """What a bank is made of, after every image was looked at.

    Attributes:
        references: the references of this config.
        negatives: its negatives under the category ids of the references, or None.
        digest: SHA-256 of the references, the negatives, the images of both, and of what else
            decides what is kept of them.
        base: the bank that the references are added to, or None.
        surroundings: what lies around the references, where that becomes negatives.
    """

    references: ReferenceSet
    negatives: ReferenceSet | None
    digest: str
    base: BankFile | None
    surroundings: tuple[Surroundings, ...] = ()

    def in_bank(self) -> tuple[ReferenceSet, ReferenceSet | None]:
        """References and negatives under the category ids of the bank that they make."""
        ids = {label.name: label.category_id for label in self.classes()}
        negatives = None if self.negatives is None else self.negatives.renumbered(ids)
        return self.references.renumbered(ids), negatives

    def classes(self) -> tuple[ClassLabel, ...]:
        """The classes of the bank that they make."""
        if self.base is None:
            return self.references.classes
        return joined_classes((self.base.classes, self.references.classes), ("", ""))


def checked_inputs(config: Config, store: Storage) -> BankInputs:
    """Load and check the references of a config.

    Raises:
        ReferencesError: with every problem of the references, or of the negatives.
        InputError: the bank to extend is missing, damaged, the run's own, or without the patches
            that the method needs.
    """
    block, ratio = config.references, config.method.context_ratio
    assert block is not None
    if block.extends == storage.join(config.output, BANK_FILE):
        raise InputError("references.extends: is this run's own bank; choose another output")
    references = chosen_references(block, store)
    digest, negatives = check_images(references, store, ratio), None
    if block.negatives is not None:
        negatives = negatives_of(_load_negatives(block.negatives, store), references.classes)
        digest = joint_digest(digest, check_images(negatives, store, ratio))
    surroundings: tuple[Surroundings, ...] = ()
    if block.background is not None:
        surroundings = surroundings_of(read_coco(block.annotations, store), references)
        how = [block.background.per_image, config.models.proposer.image_size]
        digest = joint_digest(digest, surroundings_digest(surroundings), str(how))
    if config.method.correspondence is not None:
        digest = joint_digest(digest, "patches")
    base = None
    if block.extends is not None:
        base = read_bank(block.extends, store, "references.extends")
        _check_patches(config, base, "references.extends")
    return BankInputs(references, negatives, digest, base, surroundings)


def bank_sources(config: Config, store: Storage) -> BankInputs | BankFile:
    """The ready bank that a config names, or its references, checked; see `checked_inputs`.

    Raises:
        InputError: the ready bank is missing, damaged, or without the patches that the method
            needs; further errors as of `checked_inputs`.
        ReferencesError: as of `checked_inputs`.
    """
    if config.bank is not None:
        bank = read_bank(config.bank, store)
        _check_patches(config, bank, storage.redact(config.bank))
        return bank
    return checked_inputs(config, store)


def _check_patches(config: Config, bank: BankFile, source: str) -> None:
    if config.method.correspondence is not None:
        bank.check_patches(source)


def existing_bank(
    config: Config, store: Storage, sources: BankInputs | BankFile, encoder: dict[str, Any]
) -> BankFile | None:
    """The ready bank, or the one below the output if the same references and encoder made it.

    Args:
        config: the run.
        store: access to files.
        sources: what `bank_sources` gave for the config.
        encoder: what identifies the encoder in a bank.

    Raises:
        InputError: another encoder made the ready bank.
    """
    if isinstance(sources, BankFile):
        sources.check_encoder(encoder, storage.redact(str(config.bank)))
        return sources
    uri = storage.join(config.output, BANK_FILE)
    try:
        data = store.read_bytes(uri)
    except FileNotFoundError:
        return None
    try:
        bank = BankFile.from_bytes(data, storage.redact(uri))
    except InputError as error:
        logger.warning("the bank is built again: %s", error)
        return None
    before = () if sources.base is None else sources.base.history()
    history = bank.history()
    same = history[:-1] == before and history[-1].references == sources.digest
    return bank if same and dict(bank.encoder) == encoder else None


def _load_negatives(block: NegativesConfig, store: Storage) -> ReferenceSet:
    if block.classes is None:
        used = used_classes(read_coco(block.annotations, store))
        block = block.model_copy(update={"classes": used})
    return chosen_references(block, store)


def read_bank(uri: str, store: Storage, key: str = "bank") -> BankFile:
    """Read a bank file.

    Raises:
        InputError: it is missing or damaged; `key` is the setting that names it.
    """
    try:
        data = store.read_bytes(uri)
    except FileNotFoundError:
        where = storage.missing_folder(uri)
        raise InputError(f"{key}: {storage.redact(uri)}: no such file{where}") from None
    return BankFile.from_bytes(data, storage.redact(uri))
