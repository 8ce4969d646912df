"""From a model spec and the bytes of a bank to a labeller that is ready to label.

The one place where both models and a bank meet. It does not know Ray, units or outputs.
"""

from __future__ import annotations

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.tiling import TiledLabeler, make_labeler
from ntt_ray.models.spec import ModelSpec
from ntt_ray.proposals.keeping import Keeper, KeptLabeler
from ntt_ray.proposals.matching import Matcher
from ntt_ray.run.job import BoxPrompts
from ntt_ray.settings import MethodSettings, ProposalSettings


def loaded_labeler(
    models: ModelSpec, bank: bytes, method: MethodSettings, boxes: BoxPrompts | None = None
) -> Labeler | TiledLabeler:
    """Load both models and join them with the memory bank in a file's bytes.

    Args:
        models: how to load them.
        bank: the memory bank's file.
        method: the settings of the method; with `boxes` without tiles.
        boxes: how the proposer is asked with boxes; None: not.

    Raises:
        WeightsError: a checkpoint is missing, damaged or does not fit its model.
        InputError: the bank is damaged, or its features have another width than the encoder's.
    """
    encoder = models.load_encoder()
    memory = MemoryBank.from_bytes(bank, "the memory bank")
    memory.check_width(encoder.feature_dim)
    proposer = models.load_proposer(method.points_per_side, method.all_outputs, method.refinement)
    if boxes is not None:
        asked = boxes.settings
        return Labeler(encoder, proposer, memory, method, boxes=asked, grid=boxes.grid)
    return make_labeler(encoder, proposer, memory, method)


def loaded_image_labeler(
    models: ModelSpec, bank: bytes, method: MethodSettings, proposals: ProposalSettings
) -> Labeler | TiledLabeler | KeptLabeler:
    """Load both models for images one by one; arguments and errors as of those around it."""
    if not proposals.keep:
        return loaded_labeler(models, bank, method)
    keeper = loaded_keeper(models, bank, method, proposals.max_iou)
    memory = MemoryBank.from_bytes(bank, "the memory bank")
    return KeptLabeler(keeper, Matcher(memory, method, embeddings=proposals.embeddings))


def loaded_keeper(
    models: ModelSpec, bank: bytes, method: MethodSettings, max_iou: float | None
) -> Keeper:
    """Load both models to keep what they propose; the bank is only checked.

    Args:
        models: how to load them.
        bank: the memory bank's file, which labels will be made with.
        method: the settings of the method.
        max_iou: the IoU at low resolution that two kept masks of an image may have at most; None
            keeps all masks.

    Raises:
        WeightsError, InputError: as of `loaded_labeler`.
    """
    encoder = models.load_encoder()
    MemoryBank.from_bytes(bank, "the memory bank").check_width(encoder.feature_dim)
    proposer = models.load_proposer(method.points_per_side, method.all_outputs, method.refinement)
    return Keeper(encoder, proposer, method, max_iou)
