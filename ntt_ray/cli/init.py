"""``ntt-ray init``: a config to start from, and the scripts that ``ray job submit`` names."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from ntt_ray.cli.app import app, say
from ntt_ray.errors import InputError

# script -> the command that it is
JOBS = {
    "build_bank": "bank",
    "label": "label",
    "rematch": "rematch",
    "merge": "merge",
    "evaluate": "evaluate",
}
_SCRIPT = '''"""``ray job submit -- python jobs/{name}.py CONFIG``: the command ``{program}``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ntt_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "{command}")
    main()
'''


@app.command()
def init(
    path: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="Name of the config to write: my.yaml.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Write every setting with its default and its meaning.")
    ] = False,
    jobs: Annotated[
        str | None,
        typer.Option(
            "--jobs", metavar="DIR", help="Write the scripts for `ray job submit` into this folder."
        ),
    ] = None,
) -> None:
    """Write a config to start from; asks nothing, and writes over nothing.

    Example: ntt-ray init my.yaml
    """
    if path is None and jobs is None:
        raise InputError("name the config to write, as in: ntt-ray init my.yaml")
    texts = {} if path is None else {Path(path): _config(path, full)}
    if jobs is not None:
        texts |= {Path(jobs) / f"{name}.py": job_script(name) for name in JOBS}
    _write_new(texts)
    if path is not None and not full:
        say(f"change its lines 1, 2 and 3, then: ntt-ray run {path} --dry-run")


def starter(name: str) -> str:
    """The text of a packaged config: ``minimal.yaml`` or ``photos.yaml``."""
    folder = resources.files("ntt_ray") / "cli" / "starter"
    return (folder / name).read_text(encoding="utf-8")


def job_script(name: str) -> str:
    """The text of ``jobs/NAME.py``."""
    return _SCRIPT.format(name=name, command=JOBS[name], program=f"ntt-ray {JOBS[name]}")


def _config(path: str, full: bool) -> str:
    if not path.endswith((".yaml", ".yml")):
        raise InputError(f"{path}: name a file that ends in .yaml")
    text = starter("photos.yaml" if full else "minimal.yaml")
    return text if full else text.replace("my.yaml", path)


def _write_new(texts: dict[Path, str]) -> None:
    """Write files that must not be there yet, all or none."""
    for path in texts:
        if path.exists() or path.is_symlink():
            raise InputError(f"{path}: is there already; choose another name, or remove it first")
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
        say(f"wrote {path}")
