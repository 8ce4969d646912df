"""What matching again would do, and all that it refuses: known before Ray is started.

Proposals are matched with the settings that they were kept with; what may be another one is the
bank, and the settings of the method that need no image. It writes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ntt_ray import storage
from ntt_ray.bank.file import BankFile, bank_digest
from ntt_ray.bank.inputs import BankInputs, bank_sources, existing_bank
from ntt_ray.config import Config
from ntt_ray.errors import ConfigError, InputError, OutputMismatchError
from ntt_ray.models.spec import ModelSpec
from ntt_ray.records import ClassLabel
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.bank_ahead import known_digest
from ntt_ray.run.done import whole_shards
from ntt_ray.run.identity import Found, identity_of, with_unit_images
from ntt_ray.run.layout import MANIFEST_FILE, RECORD_FILE
from ntt_ray.run.local_manifest import ManifestFile, local_manifest
from ntt_ray.run.prepare import CheckClasses, check_output, classes_of
from ntt_ray.run.proposal_shard import PROPOSING, existing_proposals, keeps_proposals
from ntt_ray.run.record import (
    Identity,
    RunRecord,
    check_same_run,
    differences,
    read_record,
    recorded_run,
)
from ntt_ray.run.shard import existing_shards
from ntt_ray.settings import MethodSettings
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

# what may be another one than the proposals were kept with; of the threshold see `_refusals`
FREE = (
    *("bank", "proposals.embeddings"),
    *(f"method.{name}" for name in MethodSettings.model_fields if name not in PROPOSING),
)


@dataclass(frozen=True)
class Begun:
    """What is there of an output that was matched again.

    Attributes:
        recorded: its record; None where it was not begun.
        done: ids of the units whose labels are there.
    """

    recorded: RunRecord | None
    done: frozenset[int]


@dataclass(frozen=True)
class RematchPlan:
    """What matching again would do, before anything is started.

    Attributes:
        config: the settings, with those of the kept proposals where the config leaves them open.
        source: the output that keeps the proposals.
        kept: its record.
        manifest: its manifest file.
        sizes: how many images each unit has.
        sources: the references, checked, or the ready bank.
        bank: the bank; None where it must be built first, for which the encoder is loaded.
        begun: what is there of the output.
    """

    config: Config
    source: str
    kept: RunRecord
    manifest: ManifestFile
    sizes: tuple[int, ...]
    sources: BankInputs | BankFile
    bank: BankFile | None
    begun: Begun

    @property
    def classes(self) -> Sequence[ClassLabel]:
        """The classes that will be labelled."""
        return classes_of(self.sources)

    def identity(self, bank: str) -> Identity:
        """What the output is, with the digest of the bank."""
        found = replace(_found(self.config, self.kept), bank=bank)
        return identity_of(self.config, self.manifest, found)


def make_rematch_plan(
    config: Config, source: str, check: CheckClasses | None = None
) -> RematchPlan:
    """Check all that can be known before anything is started.

    Arguments and errors are those of `rematch.rematch`.
    """
    config.refuse_boxes("rematch", "proposals that are kept were asked without any")
    source, store = storage.absolute(source).rstrip("/"), Storage(config.storage_options)
    if source.endswith((".yaml", ".yml")):
        raise InputError(f"--from {storage.redact(source)}: is a config; name the output of a run")
    check_output(config.output)
    kept = _kept_run(source, config.output, store)
    if reasons := config.method.unlike_kept():
        raise ConfigError(
            "kept proposals cannot be matched so; label anew, or set to null:",
            [f"method.{name}: {why}" for name, why in reasons.items()],
        )
    manifest = _manifest(source, kept, store)
    config = _with_kept_settings(config, kept, manifest)
    _refuse_other_settings(config, kept, manifest, source)
    if (references := config.references) is not None and not store.exists(references.annotations):
        where = storage.redact(references.annotations)
        raise InputError(f"references.annotations: {where}: no such file")
    with Stage("looking at the references", at_once=False):
        sources = bank_sources(config, store)
    check_names = None if check is None else check(classes_of(sources))
    if check_names is not None:
        check_names(manifest_file.name_batches(manifest))
    bank = _known_bank(config, store, sources, kept, source)
    sizes = tuple(manifest_file.unit_sizes(manifest))
    lost = sorted(set(range(len(sizes))) - existing_proposals(source, store))
    if lost:
        raise InputError(
            f"{storage.redact(source)}: {len(lost)} of {len(sizes)} units have no kept proposals, "
            f"the first is {lost[0]}. Finish that run: ntt-ray label, after deleting the labels of "
            "units whose proposals were lost"
        )
    begun = begun_output(config, kept, manifest, store)
    plan = RematchPlan(config, source, kept, manifest, sizes, sources, bank, begun)
    if plan.begun.recorded is not None:
        digest = plan.begun.recorded.identity.bank if bank is None else bank_digest(bank.data)
        check_same_output(plan, plan.identity(digest))
    return plan


def _kept_run(source: str, output: str, store: Storage) -> RunRecord:
    where = storage.redact(source)
    if source.rstrip("/") == output.rstrip("/"):
        raise InputError(
            f"output: {where} holds the run whose proposals are matched; name another one"
        )
    kept = recorded_run(source, store)
    if kept.rematched_from is not None:
        raise InputError(
            f"--from {where}: was matched again itself and keeps no proposals; name the output "
            f"that it was made of, {kept.rematched_from}"
        )
    if not keeps_proposals(kept):
        raise InputError(
            f"--from {where}: that run kept no proposals. Label with proposals.keep: true first"
        )
    return kept


def _manifest(source: str, kept: RunRecord, store: Storage) -> ManifestFile:
    with contextlib.suppress(FileNotFoundError):
        manifest = local_manifest(source, store)
        if manifest.sha256 == kept.identity.manifest:
            return manifest
    raise InputError(
        f"{storage.redact(storage.join(source, MANIFEST_FILE))}: is missing, or not the manifest "
        f"that {RECORD_FILE} speaks of; the command that made that run writes it again"
    )


def _with_kept_settings(config: Config, kept: RunRecord, manifest: ManifestFile) -> Config:
    """The config with what only the run that kept the proposals says."""
    config = with_unit_images(config, manifest, kept)
    if config.proposals.keep:
        return config
    proposals = {
        **kept.identity.plain()["proposals"],
        "embeddings": kept.identity.makes_embeddings,
    }
    return config.model_copy(update={"proposals": type(config.proposals)(**proposals)})


def _found(config: Config, kept: RunRecord) -> Found:
    """What the kept proposals were made with, but for what the config says itself."""
    found = Found.as_recorded(kept)
    if config.models.device != "auto":
        found = replace(found, device=config.models.device)
    if config.models.precision != "auto":
        found = replace(found, precision=config.models.precision)
    encoder = config.models.encoder
    checkpoint = encoder.checkpoint
    is_here = checkpoint is None or storage.is_uri(checkpoint) or Path(checkpoint).is_file()
    if is_here and (digest := known_digest(encoder)) is not None:
        found = replace(found, digests={**found.digests, "encoder": digest})
    return found


def _refuse_other_settings(
    config: Config, kept: RunRecord, manifest: ManifestFile, source: str
) -> None:
    here = identity_of(config, manifest, _found(config, kept)).plain()
    found = _refusals(kept.identity.plain(), here)
    if found:
        raise OutputMismatchError(
            f"{storage.redact(source)} kept its proposals with other settings; restore them, or "
            "label anew:",
            found,
        )


def _refusals(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Differences that matching again cannot have: a threshold may be raised, and not lowered."""
    found = []
    for line in differences(dict(there), dict(here)):
        path = line.partition(":")[0]
        if path == "method.min_predicted_iou":
            old, new = (float(side["method"]["min_predicted_iou"]) for side in (there, here))
            if new < old:
                found.append(f"{line}: proposals below {old:g} were not kept")
        elif not any(path == free or path.startswith(f"{free}.") for free in FREE):
            found.append(line)
    return found


def _known_bank(
    config: Config,
    store: Storage,
    sources: BankInputs | BankFile,
    kept: RunRecord,
    source: str,
) -> BankFile | None:
    """The ready bank, or one of the same references in either output; None: it must be built.

    Raises:
        InputError: another encoder made the ready bank, or the one that is to be extended.
    """
    encoder = ModelSpec(config.models).encoder_record(kept.identity.models.encoder.checkpoint)
    if isinstance(sources, BankInputs) and sources.base is not None:
        sources.base.check_encoder(encoder, "references.extends")
    places = [config.output, source]
    configs = [config.model_copy(update={"output": place}) for place in places]
    found = (existing_bank(own, store, sources, encoder) for own in configs)
    return next((bank for bank in found if bank is not None), None)


def begun_output(config: Config, kept: RunRecord, manifest: ManifestFile, store: Storage) -> Begun:
    """Look at the output.

    Raises:
        InputError: it holds something else.
    """
    recorded = read_record(config.output, store)
    shards = existing_shards(config.output, store)
    where = storage.redact(config.output)
    if recorded is None:
        if shards:
            raise InputError(f"{where}: holds shards but no {RECORD_FILE}; choose another output")
        return Begun(None, frozenset())
    if recorded.rematched_from is None:
        raise InputError(f"{where}: holds a run that labelled images; choose another output")
    units = shards & set(range(kept.plan.units))
    ids = manifest_file.UnitIds(manifest)
    done = whole_shards(config.output, units, recorded.labels_hash, ids, store)
    return Begun(recorded, done)


def check_same_output(plan: RematchPlan, identity: Identity) -> None:
    """Refuse an output that is another one.

    Raises:
        OutputMismatchError: with every difference.
    """
    assert plan.begun.recorded is not None
    check_same_run(plan.begun.recorded, identity, plan.config.output)
    there, here = plan.begun.recorded.rematched_from, storage.redact(plan.source)
    if there != here:
        raise OutputMismatchError(
            f"{storage.redact(plan.config.output)} was made of other proposals; choose another "
            "output, or name them:",
            [f"--from: {there} there, {here} here"],
        )
