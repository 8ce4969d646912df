"""CONFIG or OUTPUT: the settings of a run, from its config or from what its output says of it.

Of an output the settings are those that the run began with, ``run.json``, and for what is merged
those of its last merge, ``merge.json``.

What is a file is a config; a folder or a URI is the output of a run, wherever it was copied to.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntt_ray import storage
from ntt_ray.config import Config, build_config, load_config
from ntt_ray.errors import ConfigError, InputError
from ntt_ray.run.layout import MERGE_FILE, RECORD_FILE
from ntt_ray.storage import Storage

if TYPE_CHECKING:
    from ntt_ray.run.record import RunRecord

logger = logging.getLogger("ntt_ray")
_HIDDEN = "***"  # in place of a secret in a record


def settings_of(place: str, overrides: Sequence[str] | None) -> Config:
    """The settings of a config file, or those of the run in an output and of its last merge.

    The output is where it is named, not where it was when the run began.

    Raises:
        ConfigError: there is neither a file nor a folder, or the settings cannot be used.
        InputError: there is no run in the output, or it does not say with which settings.
    """
    given = list(overrides or ())
    if not is_output(place):
        if not Path(place).exists():
            where = storage.missing_folder(place)
            raise ConfigError(f"{place}: no such config file, and no output of a run{where}", [])
        return load_config(place, given)
    output = place.rstrip("/").removesuffix(f"/{RECORD_FILE}")
    content = _recorded(output, given)
    own = [override("output", output), *given]
    title = f"{storage.redact(storage.join(output, RECORD_FILE))} has problems; name the config:"
    return build_config(content, own, title)


def output_settings(place: str, overrides: Sequence[str] | None, command: str) -> Config:
    """Settings of a command that needs no more of a run than its output, and access to it.

    Of an output they hold nothing else that is true: a run that has not begun has them too.
    """
    if is_output(place):
        return access_settings(place, overrides, command)
    return settings_of(place, overrides)


def access_settings(output: str, overrides: Sequence[str] | None, command: str) -> Config:
    """Settings of a command that has no config: of them only output and access to stores count."""
    base = {"images": "any", "bank": "any", "output": output}
    return build_config(base, overrides or (), f"ntt-ray {command}:")


def is_output(place: str) -> bool:
    """Whether an argument names the output of a run, and not a config file."""
    return storage.is_uri(place) or Path(place).is_dir() or Path(place).name == RECORD_FILE


def override(key: str, value: str | None) -> str:
    """What ``--set`` takes, for a text as it is: a path may hold signs that mean much in YAML."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _recorded(output: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config in the run record of an output, without the secrets that it does not hold."""
    from ntt_ray.run.record import recorded_run

    access = [text for text in overrides if text.startswith("storage_options")]
    settings = access_settings(output, access, "--set")
    recorded = recorded_run(settings.output, Storage(settings.storage_options))
    if not recorded.config:
        where = storage.redact(storage.join(output, RECORD_FILE))
        raise InputError(f"{where}: does not say with which settings; name the config instead")
    hidden: list[str] = []
    merged = _last_merge(settings.output, recorded, Storage(settings.storage_options))
    content: dict[str, Any] = _shown({**recorded.config, **merged}, "", hidden)
    if hidden:
        logger.warning(
            "%s keeps no secrets, and %s had some: they come from the environment, from --set, or "
            "name the config instead",
            RECORD_FILE,
            ", ".join(hidden),
        )
    return content


def _last_merge(output: str, recorded: RunRecord, store: Storage) -> dict[str, Any]:
    """The block ``merge`` of the last merge of the run, where there is one that says it."""
    from ntt_ray.merge.record import read_merge_record

    try:
        merged = read_merge_record(output, store)
    except InputError:  # another merge mends it
        return {}
    if merged is None or merged.labels_hash != recorded.labels_hash or not merged.settings:
        return {}
    if merged.settings != recorded.config.get("merge"):
        logger.info("what is merged is as in the last merge, see %s", MERGE_FILE)
    return {"merge": merged.settings}


def _shown(value: Any, path: str, hidden: list[str]) -> Any:
    """A tree of plain data without the keys whose values are hidden, whose paths are noted."""
    if isinstance(value, list):
        return [_shown(item, path, hidden) for item in value]
    if not isinstance(value, dict):
        return value
    paths = {key: f"{path}.{key}" if path else str(key) for key in value}
    hidden += [paths[key] for key, item in value.items() if item == _HIDDEN]
    return {key: _shown(item, paths[key], hidden) for key, item in value.items() if item != _HIDDEN}
