"""What a bank tells before the models are loaded: is it this encoder's, and of these references?

The same is checked again once the models are there, by digests; here it is refused before Ray is
asked for, where it is certain already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ntt_ray import storage
from ntt_ray.bank.file import BankFile, bank_digest
from ntt_ray.bank.inputs import BankInputs
from ntt_ray.config import Config, EncoderConfig
from ntt_ray.errors import InputError
from ntt_ray.models.published import BUNDLED, PUBLISHED, bundled_file, file_digest
from ntt_ray.models.spec import ModelSpec
from ntt_ray.run.layout import BANK_FILE
from ntt_ray.run.record import RunRecord, mismatch
from ntt_ray.storage import Storage

READ_BYTES = 64 << 20  # of a larger checkpoint the digest waits for the task that loads it
OTHER_REFERENCES = (
    "references: the bank there was made of other ones (their file, images, classes, shots, seed, "
    "negatives, background or extends changed, or method.context_ratio, or method.correspondence)"
)


def check_bank(
    config: Config, store: Storage, sources: BankInputs | BankFile, recorded: RunRecord | None
) -> None:
    """Refuse a ready bank of another encoder, and other references than a run began with.

    Raises:
        InputError: another encoder made the ready bank, or the one that is to be extended.
        OutputMismatchError: the output holds a run whose bank was made of other references.
    """
    if isinstance(sources, BankFile):
        _check_encoder(sources, storage.redact(str(config.bank)), config)
        return
    if sources.base is not None:
        _check_encoder(sources.base, "references.extends", config)
    if recorded is not None and _is_of_others(config, store, sources, recorded):
        raise mismatch(config.output, [OTHER_REFERENCES])


def _check_encoder(bank: BankFile, source: str, config: Config) -> None:
    """Compare with the encoder of the settings; a digest that is not known yet counts as equal."""
    digest = known_digest(config.models.encoder) or str(bank.encoder.get("checkpoint"))
    bank.check_encoder(ModelSpec(config.models).encoder_record(digest), source)


def known_digest(encoder: EncoderConfig) -> str | None:
    """SHA-256 of the encoder's checkpoint in hex, where nothing must be fetched to know it."""
    if encoder.checkpoint is None:
        if encoder.name in BUNDLED:
            return file_digest(bundled_file(BUNDLED[encoder.name]))
        return PUBLISHED[encoder.name].sha256
    path = Path(encoder.checkpoint)
    if storage.is_uri(encoder.checkpoint) or path.stat().st_size > READ_BYTES:
        return None
    return file_digest(path)


def _is_of_others(config: Config, store: Storage, sources: BankInputs, recorded: RunRecord) -> bool:
    """Whether the bank that the run began with is there, and was made of other references."""
    uri = storage.join(config.output, BANK_FILE)
    try:
        data = store.read_bytes(uri)
        if bank_digest(data) != recorded.identity.bank:
            return False
        *before, last = BankFile.from_bytes(data, storage.redact(uri)).history()
    except (FileNotFoundError, InputError):  # a lost bank is built again, and compared then
        return False
    base: Any = () if sources.base is None else sources.base.history()
    return tuple(before) != tuple(base) or last.references != sources.digest
