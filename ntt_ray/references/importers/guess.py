"""Which tool an export comes from, by the files that only this tool writes.

It looks at names, and into a few JSON files; whether the export can be read is its reader's matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError
from ntt_ray.images import image_suffixes
from ntt_ray.references.importers import cvat, yolo
from ntt_ray.references.importers.shapes import read_listed
from ntt_ray.references.importers.voc import is_voc
from ntt_ray.storage import Storage

LOOKED_INTO = 20  # JSON files; the first that tells is believed
_WANTED = "name it with --from folder, labelme, cvat, yolo, labelstudio, voc, supervisely or darwin"


def guess_format(folder: str, store: Storage) -> str:
    """The name of the format of an export, as ``--from`` takes it.

    Raises:
        InputError: there is no file below the folder, none or more than one format fits, or a COCO
            file lies there, which needs no conversion.
    """
    names, shown = store.list_files(folder), storage.redact(folder)
    if not names:
        missing = storage.missing_folder(f"{folder.rstrip('/')}/any")
        raise InputError(f"{shown}: there is no file in it{missing}")
    found = sorted(set(_by_names(names)) | set(_by_content(folder, names, store)))
    if "coco" in found:
        raise InputError(
            f"{shown}: holds a COCO file, which needs no conversion: name it as "
            f"references.annotations. If it is something else, {_WANTED}"
        )
    if len(found) > 1:
        raise InputError(f"{shown}: looks like {' and '.join(found)}; {_WANTED}")
    if not found:
        if not any("/" in name and name.lower().endswith(image_suffixes()) for name in names):
            raise InputError(f"{shown}: no format that is known; {_WANTED}")
        found = ["folder"]
    return found[0]


def _by_names(names: list[str]) -> Iterable[str]:
    if is_voc(names):
        yield "voc"
    if cvat.FILE in names:
        yield "cvat"
    if any(name in names for name in yolo.NAMES_FILES):
        yield "yolo"


def _by_content(folder: str, names: list[str], store: Storage) -> list[str]:
    for name in [name for name in names if name.lower().endswith(".json")][:LOOKED_INTO]:
        try:
            kind = _kind(json.loads(read_listed(folder, name, store)))
        except (ImageError, ValueError, RecursionError):
            continue  # the reader will say so
        if kind is not None:
            return [kind]
    return []


def _kind(content: Any) -> str | None:
    """What a JSON file is; None for one of something else."""
    if isinstance(content, list):
        tasks = content and all(isinstance(task, dict) and "data" in task for task in content)
        return "labelstudio" if tasks else None
    if isinstance(content, dict) and isinstance(content.get("shapes"), list):
        return "labelme"
    if isinstance(content, dict) and isinstance(content.get("objects"), list):
        return "supervisely"
    if isinstance(content, dict) and {"item", "annotations"} <= content.keys():
        return "darwin"
    coco = isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()
    return "coco" if coco else None
