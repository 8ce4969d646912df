"""Which module may import what: data and imports flow downwards only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "ntt_ray"
HEAVY = {"torch", "ray", "pyarrow"}
# folder or module -> what it never imports, directly
FORBIDDEN = {
    "records.py": HEAVY,
    "errors.py": HEAVY,
    "config.py": HEAVY,
    "references": {"ray", "torch"},
    "images.py": {"ray", "torch"},
    "masks.py": {"ray", "torch"},
    "outputs": {"ray", "torch"},
    "quality": {"ray", "torch"},
    "demo": {"ray", "torch"},
    "protocols": {"ray", "torch", "ntt_ray.pipeline", "ntt_ray.models", "ntt_ray.quality"},
    "models": {"ray", "ntt_ray.matching", "ntt_ray.pipeline", "ntt_ray.config"},
    "matching": {"ray", "ntt_ray.models", "ntt_ray.config", "ntt_ray.storage", "pyarrow"},
    "labeler.py": {"ray", "pyarrow", "ntt_ray.models.dinov2", "ntt_ray.models.sam2"},
    "bank.py": {"ray", "pyarrow", "ntt_ray.models.dinov2", "ntt_ray.models.sam2"},
    "pipeline": {"pycocotools"},
    "cli": {"torch", "ray"},
}
# asks SAM2 for the masks of boxes
EXCEPTIONS = {"references/boxes.py": {"torch"}}
# a dependency has one home
HOMES = {
    "fsspec": {"storage"},
    "pycocotools.mask": {"masks.py"},
    "pycocotools.cocoeval": {"quality/average_precision.py"},
    "faster_coco_eval": {"quality/average_precision.py"},
    "ray": {"pipeline"},
    "timm": {"models"},
    "sam2": {"models"},
    "pydantic": {"config.py"},
    "typer": {"cli"},
}


def _imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _is_below(name: str, root: str) -> bool:
    return name == root or name.startswith(root + ".")


def _files(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("place", FORBIDDEN)
def test_forbidden_imports(place):
    for path in _files(place):
        # the command line may import them inside a command, not when it is loaded
        names = _imports(path, top_level_only=place == "cli")
        forbidden = FORBIDDEN[place] - EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), set())
        wrong = {n for n in names for bad in forbidden if _is_below(n, bad)}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("dependency", HOMES)
def test_a_dependency_has_one_home(dependency):
    for path in sorted(ROOT.rglob("*.py")):
        if any(_is_below(name, dependency) for name in _imports(path)):
            relative = path.relative_to(ROOT).as_posix()
            homes = HOMES[dependency]
            assert any(relative == home or relative.startswith(home + "/") for home in homes), (
                f"{relative} imports {dependency}"
            )


def test_models_do_not_import_each_other():
    assert not any(_is_below(n, "ntt_ray.models.sam2") for n in _imports(ROOT / "models/dinov2.py"))
    assert not any(_is_below(n, "ntt_ray.models.dinov2") for n in _imports(ROOT / "models/sam2.py"))


def test_fetch_and_write_processes_start_without_torch_or_ray():
    code = (
        "import sys, ntt_ray.pipeline.stages; "
        "sys.exit(', '.join({'torch', 'ray', 'timm'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_driver_of_a_run_does_without_torch():
    """It would take three seconds at the start, and 650 MB for as long as the run takes."""
    modules = ("run", "outcome", "sample", "status", "verify")
    code = (
        f"import sys, {', '.join(f'ntt_ray.pipeline.{name}' for name in modules)}; "
        "sys.exit(', '.join({'torch', 'timm'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_torch_or_ray():
    code = (
        "import sys, ntt_ray.cli; "
        "sys.exit(', '.join({'torch', 'ray', 'pyarrow', 'timm'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
