"""Building a memory bank as a task of plain values, which any process can run.

It does not know Ray, nor where the bank will lie.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ntt_ray.bank.inputs import BankInputs
from ntt_ray.bank.join import join_banks
from ntt_ray.config import Config
from ntt_ray.models.spec import ModelSpec

if TYPE_CHECKING:
    from ntt_ray.bank.colours import Picture

logger = logging.getLogger(__name__)


def bank_task(
    config: Config, models: ModelSpec, inputs: BankInputs, encoder_digest: str
) -> Callable[[], tuple[bytes, dict[int, Picture]]]:
    """The task that builds the bank of a config where it is called, and joins it to its base.

    Args:
        config: the run; it has references.
        models: how to load the encoder.
        inputs: the references of the config, checked.
        encoder_digest: SHA-256 of the encoder's checkpoint, in hex.

    Returns:
        A call that gives the bank as a file, and the patch features of the references as pictures,
        by annotation id.

    Raises:
        InputError: another encoder made the bank that is to be extended, or the call finds that
            the patches of the references would take too much room.
    """
    encoder_record = models.encoder_record(encoder_digest)
    if inputs.base is not None:
        inputs.base.check_encoder(encoder_record, "references.extends")
    logger.info(
        "building the memory bank: %d references of %d classes",
        len(inputs.references.references),
        len(inputs.references.classes),
    )
    background = config.references and config.references.background
    return partial(
        _build,
        models,
        inputs,
        encoder_record,
        ratio=config.method.context_ratio,
        side=config.models.proposer.image_size,
        per_background=background.per_image if background else 0,
        keep_patches=config.method.correspondence is not None,
    )


def _build(
    models: ModelSpec,
    inputs: BankInputs,
    encoder_record: dict[str, Any],
    *,
    ratio: float,
    side: int,
    per_background: int,
    keep_patches: bool,
) -> tuple[bytes, dict[int, Picture]]:
    # here, not above: the driver makes the task, and would load what only workers need
    from ntt_ray.bank.build import build_bank, load_backgrounds, load_crops
    from ntt_ray.bank.colours import PatchColours
    from ntt_ray.bank.memory import MemoryBank

    colours, negatives, store = PatchColours(), inputs.negatives, models.store
    bank = build_bank(
        inputs.references,
        load_crops(inputs.references, store, ratio),
        models.uncompiled().load_encoder(),
        encoder_record=encoder_record,
        reference_digest=inputs.digest,
        negative_crops=() if negatives is None else load_crops(negatives, store, ratio),
        backgrounds=load_backgrounds(inputs.surroundings, store, side),
        per_background=per_background,
        on_features=colours.add,
        keep_patches=keep_patches,
    )
    if inputs.base is not None:
        extended = MemoryBank.from_bytes(inputs.base.data, "references.extends")
        bank = join_banks((extended, bank), ("references.extends", "these references"))
    return bank.to_bytes(), colours.pictures()
