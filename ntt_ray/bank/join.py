"""Memory banks to one bank: classes by name, features copied, the history kept.

What is joined equals what all references would give in one go, bit by bit, when their order is
the same. It does not know files.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from ntt_ray.bank.file import BankFile, Source, encoder_differences
from ntt_ray.errors import InputError
from ntt_ray.records import MAX_CATEGORY_ID, ClassLabel

if TYPE_CHECKING:
    from ntt_ray.bank.memory import MemoryBank

T = TypeVar("T")
logger = logging.getLogger(__name__)


def join_banks(banks: Sequence[MemoryBank], names: Sequence[str]) -> MemoryBank:
    """Join banks: classes of one name become one class, with the references of all banks.

    The first bank that has a class gives its id. An id that another class has already is replaced
    by the next one above all ids of the banks. Joining in steps gives what joining at once gives,
    up to ids that had to be replaced. Patches of references are kept where all banks have them,
    and what is left out is said in the log. How references were cut (`method.context_ratio`) is not
    in a bank and cannot be compared.

    Args:
        banks: at least one, in the order in which their references are kept.
        names: what to call each bank in an error.

    Raises:
        InputError: other encoders made them, they share references, or a class name is ambiguous.
    """
    from ntt_ray.bank.memory import MemoryBank

    _check_encoders(banks, names)
    history = [BankFile.from_bytes(b.to_bytes(), n).history() for b, n in zip(banks, names)]
    _check_no_source_twice(history, names)
    labels = joined_classes([bank.classes for bank in banks], names)
    rows = [{label.name: k for k, label in enumerate(bank.classes)} for bank in banks]

    def joined(parts: Sequence[Sequence[Sequence[T]]]) -> list[list[T]]:
        return [
            [one for row, own in zip(rows, parts) if c.name in row for one in own[row[c.name]]]
            for c in labels
        ]

    with_patches = [name for bank, name in zip(banks, names) if bank.patches is not None]
    if with_patches and len(with_patches) < len(banks):
        logger.warning(
            "the patch features of %s are left out of the joined bank, for other banks have none",
            ", ".join(with_patches),
        )
    every_patch = len(with_patches) == len(banks)
    sources = [source for own in history for source in own]
    digests = [source.references for source in sources]
    return MemoryBank.from_means(
        labels,
        joined([bank.means() for bank in banks]),
        encoder=banks[0].encoder,
        reference_digest=digests[0] if len(digests) == 1 else joint_digest(*digests),
        negatives=joined([bank.negative_means() for bank in banks]),
        sources=sources if len(sources) > 1 else (),
        patches=joined([bank.reference_patches() for bank in banks]) if every_patch else (),
    )


def joint_digest(*lines: str) -> str:
    """SHA-256 over several digests, in hex."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def joined_classes(
    parts: Sequence[Sequence[ClassLabel]], names: Sequence[str]
) -> tuple[ClassLabel, ...]:
    """The classes of joined banks by rising id; see `join_banks` for the rule.

    Raises:
        InputError: a bank has a class name twice, or no category id is left above all of them.
    """
    ids: dict[str, int] = {}
    spare = max(label.category_id for part in parts for label in part) + 1
    for part, source in zip(parts, names, strict=True):
        own = [label.name for label in part]
        if repeated := sorted({name for name in own if own.count(name) > 1}):
            raise InputError(f"{source}: has the class name {repeated[0]!r} twice; cannot join it")
        for label in part:
            if label.name in ids:
                continue
            if label.category_id in ids.values():
                if spare > MAX_CATEGORY_ID:
                    raise InputError(
                        f"{source}: class {label.name!r} needs another id than "
                        f"{label.category_id}, and none is left above {MAX_CATEGORY_ID}; build "
                        "one of the banks with smaller category ids"
                    )
                ids[label.name], spare = spare, spare + 1
            else:
                ids[label.name] = label.category_id
    ordered = sorted(ids.items(), key=lambda item: item[1])
    return tuple(ClassLabel(identity, name) for name, identity in ordered)


def _check_encoders(banks: Sequence[MemoryBank], names: Sequence[str]) -> None:
    first, dim = banks[0], banks[0].features.shape[2]
    for bank, source in zip(banks[1:], names[1:], strict=True):
        differences = encoder_differences(first.encoder, names[0], bank.encoder, source)
        if bank.features.shape[2] != dim:
            differences.append(
                f"{dim} channels in {names[0]}, {bank.features.shape[2]} in {source}"
            )
        if differences:
            raise InputError(
                f"banks of different encoders cannot be joined: {'; '.join(differences)}. Build "
                "one of them again with the other's encoder"
            )


def _check_no_source_twice(history: Sequence[Sequence[Source]], names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for sources, name in zip(history, names, strict=True):
        for source in sources:
            if source.references in seen:
                raise InputError(
                    f"{seen[source.references]} and {name} hold the same references "
                    f"({source.references[:12]}); joined, they would count twice"
                )
            seen[source.references] = name
