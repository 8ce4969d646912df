"""The sample of a plan with other references or thresholds: from what was kept of it, in seconds.

A sample keeps its proposals, and any kept sample of the same images will do, whatever its bank
was: it is found by what proposals depend on. The result is an output of its own beside it.
"""

from __future__ import annotations

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError, OutputMismatchError
from ntt_ray.evaluate.job import evaluate_run
from ntt_ray.merge.job import merge
from ntt_ray.plan.estimate import sample_file, sample_of
from ntt_ray.report.job import report_run
from ntt_ray.run.layout import PLAN_FOLDER, SAMPLE_FILE
from ntt_ray.run.prepare import new_manifest
from ntt_ray.run.rematch import OnUnit, rematch
from ntt_ray.run.rematch_plan import make_rematch_plan
from ntt_ray.storage import Storage

ENDING = "-again"  # of the folder: what is labelled under the same name has a plan.json


def match_sample_again(config: Config, images: int, seed: int, on_unit: OnUnit) -> Config:
    """Match a kept sample of a run's images with the references and thresholds of a config.

    Args:
        config: the whole run; nothing of it is started.
        images: how many images the sample has.
        seed: seed of the sampling.
        on_unit: called for each finished unit of the sample, as `run.rematch.rematch` does.

    Returns:
        The config of the sample's own run, whose report shows its gallery.

    Raises:
        InputError: no sample of these images was kept, or none with the settings that decide what
            is proposed; why each will not do is said.
    """
    store = Storage(config.storage_options)
    entries, own = sample_of(config, images, seed, store, new_manifest(config, store))
    own = own.model_copy(update={"output": own.output + ENDING})
    refused = []
    for folder in _samples(config, sample_file(entries), store):
        sample = own.model_copy(update={"images": storage.join(folder, SAMPLE_FILE)})
        try:
            make_rematch_plan(sample, folder)
        except (InputError, OutputMismatchError) as error:
            refused.append(str(error))
            continue
        rematch(sample, folder, on_unit)
        merge(sample)
        if sample.ground_truth is not None:
            evaluate_run(sample)
        report_run(sample)
        return sample
    why = "".join(f"\n  {text}" for text in refused)
    raise InputError(
        f"--again: no sample of {len(entries)} images of seed {seed} is kept that fits; label one "
        f"first, without --again{why}"
    )


def _samples(config: Config, content: bytes, store: Storage) -> list[str]:
    """Folders of the samples below a run's output that were labelled and have these images."""
    place = storage.join(config.output, PLAN_FOLDER)
    names = [name.rpartition("/")[0] for name in store.list_files(place, (SAMPLE_FILE,))]
    folders = [storage.join(place, name) for name in sorted(names) if "/" not in name]
    files = ((folder, storage.join(folder, SAMPLE_FILE)) for folder in folders)
    return [folder for folder, file in files if store.read_bytes(file) == content]
