"""Building a memory bank as a task of plain values, which any process can run.

It does not know Ray, nor where the bank will lie.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ntt_ray.bank.inputs import BankInputs
from ntt_ray.bank.join import join_banks
from ntt_ray.config import Config
from ntt_ray.models.spec import ModelSpec

if TYPE_CHECKING:
    from ntt_ray.bank.colours import Picture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankTask:
    """What it takes to build a bank; `bank_task` makes it of a config.

    Attributes:
        models: how to load the encoder.
        inputs: the references, checked.
        encoder_digest: SHA-256 of the encoder's checkpoint, in hex.
        context_ratio: how much of its surroundings a reference is cut with, in sides of its box.
        side: pixels along each side of the square that images to label are brought to.
        per_background: rows that each image's background becomes; 0 where none is used.
    """

    models: ModelSpec
    inputs: BankInputs
    encoder_digest: str
    context_ratio: float
    side: int
    per_background: int

    def run(self) -> tuple[bytes, dict[int, Picture]]:
        """Build the bank here, and join it to the one it extends.

        Returns:
            The bank as a file, and the patch features of the references as pictures, by annotation
            id.
        """
        # here, not above: the driver makes the task, and would load what only workers need
        from ntt_ray.bank.build import build_bank, load_backgrounds, load_crops
        from ntt_ray.bank.colours import PatchColours
        from ntt_ray.bank.memory import MemoryBank

        inputs, store, ratio = self.inputs, self.models.store, self.context_ratio
        colours, negatives = PatchColours(), self.inputs.negatives
        bank = build_bank(
            inputs.references,
            load_crops(inputs.references, store, ratio),
            self.models.uncompiled().load_encoder(),
            encoder_record=self.models.encoder_record(self.encoder_digest),
            reference_digest=inputs.digest,
            negative_crops=() if negatives is None else load_crops(negatives, store, ratio),
            backgrounds=load_backgrounds(inputs.surroundings, store, self.side),
            per_background=self.per_background,
            on_features=colours.add,
        )
        if inputs.base is not None:
            extended = MemoryBank.from_bytes(inputs.base.data, "references.extends")
            bank = join_banks((extended, bank), ("references.extends", "these references"))
        return bank.to_bytes(), colours.pictures()


def bank_task(
    config: Config, models: ModelSpec, inputs: BankInputs, encoder_digest: str
) -> BankTask:
    """The task that builds the bank of a config.

    Args:
        config: the run; it has references.
        models: how to load the encoder.
        inputs: the references of the config, checked.
        encoder_digest: SHA-256 of the encoder's checkpoint, in hex.

    Raises:
        InputError: another encoder made the bank that is to be extended.
    """
    if inputs.base is not None:
        inputs.base.check_encoder(models.encoder_record(encoder_digest), "references.extends")
    logger.info(
        "building the memory bank: %d references of %d classes",
        len(inputs.references.references),
        len(inputs.references.classes),
    )
    background = config.references and config.references.background
    return BankTask(
        models=models,
        inputs=inputs,
        encoder_digest=encoder_digest,
        context_ratio=config.method.context_ratio,
        side=config.models.proposer.image_size,
        per_background=background.per_image if background else 0,
    )
