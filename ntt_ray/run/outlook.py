"""What a start would use, found out without Ray: weights, devices, the cluster, the files.

A run asks this before it starts Ray, so that what cannot work is refused at once; a dry run shows
it. On a cluster the nodes may have weights, networks and GPUs that this machine has not: there it
is said and not refused.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import NttRayError, WeightsError
from ntt_ray.models.cache import cached_path, cannot_fetch
from ntt_ray.models.published import BUNDLED, PUBLISHED
from ntt_ray.run.cluster.connect import check_address, local_layout
from ntt_ray.run.cluster.placement import fit
from ntt_ray.run.layout import LABELS_FOLDER, REPORT_PAGE
from ntt_ray.sources.image_list import is_list
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
ANSWER_S = 4.0  # how long a server is waited for that shall say whether it has a file


@dataclass(frozen=True)
class Weights:
    """Where the weights of a model come from.

    Attributes:
        name: the name of the model.
        where: where they are, in words, without secrets.
        problem: why they could not be fetched by this machine now; None where they can, or are
            there.
    """

    name: str
    where: str
    problem: str | None = None


def check_outlook(config: Config, store: Storage) -> list[Weights]:
    """Refuse what cannot work on this machine, before Ray is started; gives where weights are.

    Raises:
        ConfigError: a GPU is asked for, and this machine has none, or none of that kind.
        WeightsError: a checkpoint is neither there nor within reach.
        ClusterError: nothing answers where ``RAY_ADDRESS`` points to.
    """
    check_address()
    if _works_here():
        layout = local_layout()
        if config.models.device == "cuda" or config.job.accelerator is not None:
            fit(config.job, config.models.device, layout)
    found = find_weights(config, store)
    for weights in found:
        if weights.problem is not None and _works_here():
            raise WeightsError(weights.problem)
        if weights.problem is not None:
            logger.warning("seen from this machine, %s", weights.problem)
    if output_is_among_images(config):
        logger.warning(
            "the output lies inside of `images`: what is a picture there (class maps, say) counts "
            "as an image of a run that is started later. Choose another output, if you can"
        )
    return found


def describe(config: Config, weights: Sequence[Weights]) -> list[str]:
    """Lines for people: preset, weights (as `check_outlook` gives them), device, Ray and files."""
    output, profiles = storage.redact(config.output), ", ".join(config.profiles)
    return [
        *preset_lines(config),
        *(f"weights: {found.name}, {found.where}" for found in weights),
        f"device: {_device(config)}",
        f"Ray: {_ray()}",
        f"output: {storage.join(output, LABELS_FOLDER)}/, merged files ({profiles}) and "
        f"{REPORT_PAGE} in {output}",
    ]


def preset_lines(config: Config) -> list[str]:
    """What the preset stands for, but for what is given beside it; no line without a preset."""
    method = config.method
    if method.preset is None:
        return []
    return [f"method.preset: {method.preset}, of which stands {json.dumps(method.of_preset())}"]


def find_weights(config: Config, store: Storage) -> list[Weights]:
    """Where the weights of both models come from; servers are asked at the same time."""
    asking = [
        _in_background(_find, block.name, block.checkpoint, config.models.mirror, store)
        for block in (config.models.encoder, config.models.proposer)
    ]
    return [found.result() for found in asking]


def output_is_among_images(config: Config) -> bool:
    """Whether the output lies below a prefix that is listed for images."""
    prefix = f"{config.images.rstrip('/')}/"
    return not is_list(config.images) and f"{config.output.rstrip('/')}/".startswith(prefix)


def _find(name: str, checkpoint: str | None, mirror: str | None, store: Storage) -> Weights:
    if checkpoint is not None:
        return Weights(name, storage.redact(checkpoint))
    if name in BUNDLED:
        return Weights(name, "which come with this package")
    published = PUBLISHED[name]
    cached = cached_path(published)
    if cached.is_file():
        return Weights(name, f"cached on this machine: {cached}")
    uris = [storage.join(mirror, published.file_name)] if mirror else []
    for uri in (*uris, published.url):
        shown = storage.redact(uri)
        there = _is_there(uri, store)
        if there is True:
            return Weights(name, f"not on this machine yet; they are fetched from {shown}")
        if there is not False:
            break
    why = "there is no such file" if there is False else str(there)
    return Weights(name, f"NOT WITHIN REACH: {shown} ({why})", cannot_fetch(shown, why))


def _is_there(uri: str, store: Storage) -> bool | str:
    """Whether a file is there; a text says why that is not known."""
    asked = replace(
        store, options={**store.options, "retries": {"attempts": 1}}, patience_s=0.0
    ).exists
    try:
        return _in_background(asked, uri).result(ANSWER_S) or _is_refused(uri)
    except NoAnswerError:
        return f"no answer within {ANSWER_S:g} s"
    except NttRayError as error:
        return storage.redact(str(error))


def _is_refused(uri: str) -> bool | str:
    """False, or that nothing answers there: fsspec calls a web file missing then, too."""
    found = urlsplit(uri)
    if found.scheme not in ("http", "https") or found.hostname is None:
        return False
    try:
        port = found.port or (443 if found.scheme == "https" else 80)
        socket.create_connection((found.hostname, port), timeout=ANSWER_S / 2).close()
    except OSError as error:
        return f"no connection to {found.hostname}: {error.strerror or error}"
    return False


def _in_background(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Call in a thread of its own, which nothing waits for at the end of the program."""
    future: Future[R] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def _works_here() -> bool:
    """Whether Ray works on this machine alone."""
    return not os.environ.get("RAY_ADDRESS")


def _device(config: Config) -> str:
    wanted = config.models.device
    if not _works_here():
        return f"{wanted}, which the nodes of the cluster decide" if wanted == "auto" else wanted
    gpus = sum(node.gpus for node in local_layout().nodes)
    found = f"{gpus:g} GPUs on this machine" if gpus else "no GPU on this machine"
    if wanted == "cpu":
        return "cpu, as models.device says"
    return f"{'cuda' if gpus else 'cpu'}; {found}"


def _ray() -> str:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return "is started on this machine, and ends with the command"
    return f"the cluster of RAY_ADDRESS={storage.redact(address)} is joined"
