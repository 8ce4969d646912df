"""Which folder on a path is missing: said beside every file that is not there."""

from __future__ import annotations

from pathlib import Path

from ntt_ray.storage.uris import is_uri


def missing_folder(path: str) -> str:
    """The end of a message on a missing file: the first folder above it that is not there.

    Nothing where the folder of the file is there, and of a URI, whose folders are only names.
    """
    if is_uri(path):
        return ""
    above = [folder for folder in Path(path).parents if not folder.is_dir()]
    return f" (there is no folder {above[-1]})" if above else ""
