"""Building a memory bank where the models run, as one Ray task, and joining several.

What goes into a bank is the matter of `bank.inputs`, what is said of one that of `bank.report`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ntt_ray import storage
from ntt_ray.bank.file import BankFile
from ntt_ray.bank.inputs import BankInputs, read_bank
from ntt_ray.bank.join import join_banks
from ntt_ray.bank.report import BankExamples
from ntt_ray.bank.task import bank_task
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.models.spec import ModelSpec
from ntt_ray.run.cluster.placement import Resources
from ntt_ray.run.cluster.tasks import run_task
from ntt_ray.run.layout import BANK_FILE
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

if TYPE_CHECKING:
    from ntt_ray.bank.colours import Picture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltBank:
    """A bank, and the patch features of this config's references as pictures, by annotation id."""

    bank: BankFile
    colours: Mapping[int, Picture]


def build(
    config: Config, spec: ModelSpec, resources: Resources, inputs: BankInputs, encoder_digest: str
) -> BuiltBank:
    """Build the bank where the models run, and join it to the one it extends.

    Raises:
        InputError: another encoder made the bank that is to be extended.
    """
    task = bank_task(config, spec, inputs, encoder_digest)

    def build_there() -> tuple[bytes, dict[int, Picture]]:
        spec.set_up_torch()
        return task()

    with Stage("building the memory bank", at_once=False):  # the task has said that it begins
        data, pictures = run_task(build_there, options=resources.actor_options())
    return BuiltBank(BankFile.from_bytes(data, BANK_FILE), pictures)


def examples_of(inputs: BankInputs, built: BuiltBank, context_ratio: float) -> BankExamples:
    """The references of this config under the category ids of its bank."""
    references, negatives = inputs.in_bank()
    return BankExamples(references, negatives, built.colours, context_ratio)


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
