"""From the settings to models that fit this cluster: device, precision, checkpoints.

The first step of a run that starts something: Ray, and a task that loads both models. It does not
know the method.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ntt_ray.config import DINOV3_LICENCE, Config
from ntt_ray.models.spec import ModelSpec
from ntt_ray.run.cluster.connect import connect, decide, layout
from ntt_ray.run.cluster.placement import Resources
from ntt_ray.run.cluster.tasks import run_task
from ntt_ray.run.outlook import check_outlook
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedModels:
    """Models whose checkpoints were found to fit.

    Attributes:
        spec: how to load both models.
        resources: what an actor reserves, and how many actors there may be.
        digests: SHA-256 of the files ``encoder``, ``proposer`` and, if any, ``proposer_config``.
    """

    spec: ModelSpec
    resources: Resources
    digests: Mapping[str, str]

    @property
    def encoder_record(self) -> dict[str, Any]:
        """What identifies the encoder in a memory bank."""
        return self.spec.encoder_record(self.digests["encoder"])


def start_models(config: Config, store: Storage) -> CheckedModels:
    """Join or start Ray, decide where the models run, and check that their checkpoints fit.

    Raises:
        WeightsError: a checkpoint is missing, damaged or does not fit.
        ConfigError: a GPU is asked for, and there is none.
        ClusterError: Ray cannot be started or joined.
    """
    check_outlook(config, store)
    connect()
    if config.models.encoder.is_dinov3:
        logger.info("%s", DINOV3_LICENCE)
    spec, resources = _decided(config, store)
    with Stage("loading weights once, to check them", at_once=False):
        options = {"num_cpus": 0.5, "max_retries": 1, "max_calls": 1}
        digests = run_task(spec.checked_digests, options=options)
    return CheckedModels(spec, resources, digests)


def start_encoder(config: Config, store: Storage) -> CheckedModels:
    """Join or start Ray, and find where the encoder alone runs; errors as of `start_models`."""
    connect()
    spec, resources = _decided(config, store)
    digest = run_task(spec.encoder_digest, options={"num_cpus": 0.5, "max_retries": 1})
    return CheckedModels(spec, resources, {"encoder": digest})


def _decided(config: Config, store: Storage) -> tuple[ModelSpec, Resources]:
    """Where the models run, and in which precision."""
    resources = decide(config.job, config.models.device)
    precision = config.models.precision
    if precision == "auto":
        on_gpu = resources.device == "cuda"
        precision = "bf16" if on_gpu and _has_bf16(resources) else "fp32"
    return ModelSpec(config.models, resources.device, precision, store), resources


def _has_bf16(resources: Resources) -> bool:
    """Whether every kind of GPU of the cluster computes in bfloat16."""

    def look() -> bool:
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    options = resources.actor_options()
    kinds = {node.accelerator for node in layout().nodes if node.gpus and node.accelerator}
    kind_options = [{"accelerator_type": kind} for kind in sorted(kinds)]
    if resources.accelerator is not None or not kinds:
        kind_options = [{}]
    return all(run_task(look, options=options | kind) for kind in kind_options)
