"""Which module may import what: data and imports flow downwards only."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "ntt_ray"
# Rooms from the bottom to the top: each imports itself and what stands before it, never after.
ROOMS = (
    "errors",
    "stages",
    "intervals",
    "yaml_input",
    "masks",
    "mask_encoding",
    "settings",
    "records",
    "images",
    "storage",
    "json_input",
    "config",
    "coco_input",
    "run.cluster",
    "run.layout",
    "pages",
    "models",
    "references",
    "bank",
    "method",
    "proposals",
    "sources",
    "run",
    "merge",
    "evaluate",
    "report",
    "verify",
    "calibrate",
    "review",
    "plan",
    "reproduce",
    "demo",
    "api",
    "cli",
    "__main__",
)
EXCEPTIONS: set[tuple[str, str]] = set()  # pairs of modules where the first leads to a later room
HEAVY = {"torch", "ray", "pyarrow"}
# folder or module -> what it never imports, directly
FORBIDDEN = {
    "records.py": HEAVY,
    "settings.py": HEAVY,
    "errors.py": HEAVY,
    "config.py": HEAVY,
    "references": {"ray", "torch"},
    "images.py": {"ray", "torch"},
    "masks.py": {"ray", "torch"},
    "mask_encoding.py": {"ray", "torch"},
    "coco_input.py": HEAVY,
    "json_input.py": HEAVY,
    "merge": {"ray", "torch"},
    "evaluate": {"ray", "torch"},
    "report": {"ray", "torch"},
    "pages": {"ray", "torch"},
    "verify": {"ray", "torch"},
    "demo": {"ray", "torch"},
    "review": {"ray", "torch"},
    "reproduce": {"ray", "torch"},
    "models": {"ray"},
    "method": {"ray", "pyarrow", "ntt_ray.config", "ntt_ray.storage"},
    "proposals": {"ray", "ntt_ray.config", "ntt_ray.storage"},
    "cli": {"torch", "ray"},
    "api.py": {"ray"},
}
# asks SAM2 for the masks of boxes
MAY = {"references/boxes.py": {"torch"}}
# a dependency has one home
HOMES = {
    "pydantic": {
        *("config.py", "settings.py", "json_input.py", "coco_input.py"),
        *("run/record.py", "merge/record.py", "merge/calibration.py", "review/records.py"),
    },
    "pydantic_core": {"json_input.py"},
    "msgspec": {"json_input.py"},
    "fsspec": {"storage"},
    "pycocotools.mask": {"masks.py"},
    "pycocotools.cocoeval": {"evaluate/average_precision.py"},
    "faster_coco_eval": {"evaluate/average_precision.py"},
    "ray": {"run/chain.py", "run/actor.py", "run/cluster"},
    "timm": {"models"},
    "sam2": {"models/sam2"},
    "triton": {"models/sam2/decoder"},
    "typer": {"cli"},
    "jinja2": {"pages/environment.py"},
}


@functools.cache
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
    path = PACKAGE / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def _room(module: str) -> str | None:
    """The room of a module of the package, by its name without ``ntt_ray.``."""
    rooms = [room for room in ROOMS if _is_below(module, room)]
    return max(rooms, key=len) if rooms else None


@functools.cache
def _modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


@pytest.mark.parametrize("module", _modules())
def test_imports_flow_downwards(module):
    own = _room(module)
    assert own is not None, f"{module} stands in no room of ROOMS"
    for name in _imports(_modules()[module]):
        inner = name.removeprefix("ntt_ray.")
        if inner == name or (room := _room(inner)) is None or (module, inner) in EXCEPTIONS:
            continue
        assert ROOMS.index(room) <= ROOMS.index(own), f"{module} ({own}) imports {inner} ({room})"


def test_every_exception_is_needed():
    for module, inner in EXCEPTIONS:
        assert f"ntt_ray.{inner}" in _imports(_modules()[module]), (module, inner)


@pytest.mark.parametrize("place", FORBIDDEN)
def test_forbidden_imports(place):
    for path in _files(place):
        # the command line may import them inside a command, not when it is loaded
        names = _imports(path, top_level_only=place == "cli")
        forbidden = FORBIDDEN[place] - MAY.get(path.relative_to(PACKAGE).as_posix(), set())
        wrong = {n for n in names for bad in forbidden if _is_below(n, bad)}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"


@pytest.mark.parametrize("dependency", HOMES)
def test_a_dependency_has_one_home(dependency):
    for path in sorted(PACKAGE.rglob("*.py")):
        if any(_is_below(name, dependency) for name in _imports(path)):
            relative = path.relative_to(PACKAGE).as_posix()
            homes = HOMES[dependency]
            assert any(relative == home or relative.startswith(home + "/") for home in homes), (
                f"{relative} imports {dependency}"
            )


def test_modules_of_kernels_are_imported_where_a_kernel_is_asked_for():
    """They import Triton, which is not there on every machine and takes a second where it is."""
    kernels = {
        f"ntt_ray.{module}"
        for module, path in _modules().items()
        if any(_is_below(name, "triton") for name in _imports(path))
    }
    decoder = "ntt_ray.models.sam2.decoder"
    assert {f"{decoder}.upscale_kernel", f"{decoder}.transform_kernels"} <= kernels
    kernels.add(f"{decoder}.fused_transform")  # is imported where it is used, as they are
    for module, path in _modules().items():
        if f"ntt_ray.{module}" not in kernels:
            assert not _imports(path, top_level_only=True) & kernels, module


def test_models_do_not_import_each_other():
    for name in ("dinov2.py", "dinov3.py", "vit.py"):
        imports = _imports(PACKAGE / "models" / name)
        assert not any(_is_below(n, "ntt_ray.models.sam2") for n in imports)
    for path in _files("models/sam2"):
        assert not {n for n in _imports(path) if "dinov" in n}


def test_fetch_and_write_processes_start_without_torch_or_ray():
    code = (
        "import sys, ntt_ray.run.fetch, ntt_ray.run.write; "
        "sys.exit(', '.join({'torch', 'ray', 'timm'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_driver_of_a_run_does_without_torch():
    """It would take three seconds at the start, and 650 MB for as long as the run takes."""
    rooms = ("run.label", "run.status", "merge.job", "evaluate.job", "report.job")
    modules = (*rooms, "plan.estimate", "verify.verify")
    code = (
        f"import sys, {', '.join(f'ntt_ray.{name}' for name in modules)}; "
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


def test_each_test_module_mirrors_one_of_the_package_or_says_its_subject():
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        relative = path.relative_to(ROOT / "tests")
        mirrored = PACKAGE / relative.with_name(relative.name.removeprefix("test_"))
        assert mirrored.exists() or ast.get_docstring(ast.parse(path.read_text())), relative


def test_no_test_imports_another():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        others = {n for n in _imports(path) if any(p.startswith("test_") for p in n.split("."))}
        assert not others, f"{path.relative_to(ROOT)} imports {others}: share it in tests/support"
