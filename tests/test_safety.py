"""Nothing that comes from a user or a store is ever executed, and nothing is written elsewhere."""

import ast
import json
from pathlib import Path

import pytest

from ntt_ray.errors import InputError
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel, ImageEntry, ImageLabels
from ntt_ray.run.layout import journal_uri, shard_uri
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from ntt_ray.storage import Storage, join
from tests.support.merging import merge_shards
from tests.support.paths import ROOT

SOURCES = sorted(
    path
    for folder in ("ntt_ray", "jobs", "benchmarks", "demo")
    for path in (ROOT / folder).rglob("*.py")
)
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__"}  # as bare names; re.compile is another
METHODS = {
    "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
    "pandas.read_pickle", "pd.read_pickle",
}  # fmt: skip


def found_in(source: str) -> list[str]:
    """What a module does that could run what it reads."""
    found = []
    tree = ast.parse(source)
    loaders = {"yaml.SafeLoader"} | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(b) for b in node.bases] == ["yaml.SafeLoader"]
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names} - {"UnpicklingError"}
            found += [node.module] if names and (node.module or "").split(".")[0] in MODULES else []
        elif isinstance(node, ast.Call):
            found += _unsafe_call(node, loaders)
    return found


def _unsafe_call(node: ast.Call, loaders: set[str]) -> list[str]:
    name = ast.unparse(node.func)
    options = {k.arg: ast.unparse(k.value) for k in node.keywords}
    last = name.split(".")[-1]
    if name == "yaml.load" and loaders & {*map(ast.unparse, node.args[1:2]), options.get("Loader")}:
        return []
    if name in CALLS or name in METHODS:
        return [name]
    if name == "torch.load" and options.get("weights_only") != "True":
        return ["torch.load without weights_only=True"]
    if options.get("allow_pickle", "False") != "False":
        return [f"{last} with allow_pickle"]
    if (
        options.get("shell", "False") != "False"
        or options.get("trust_remote_code", "False") != "False"
    ):
        return [f"{last} with shell or trust_remote_code"]
    return []


UNSAFE = {
    "import pickle": "pickle",
    "from cloudpickle import loads": "cloudpickle",
    "eval('1')": "eval",
    "exec(text)": "exec",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)": "yaml.load",
    "class Own(yaml.Loader): pass\nyaml.load(text, Own)": "yaml.load",
    "torch.load(path)": "torch.load without weights_only=True",
    "torch.load(path, weights_only=False)": "torch.load without weights_only=True",
    "np.load(path, allow_pickle=True)": "load with allow_pickle",
    "subprocess.run(text, shell=True)": "run with shell or trust_remote_code",
}


@pytest.mark.parametrize(("source", "named"), UNSAFE.items(), ids=UNSAFE)
def test_the_check_sees_it(source, named):
    assert found_in(source) == [named]


@pytest.mark.parametrize(
    "source",
    ["re.compile(x)", "model.eval()", "torch.load(p, weights_only=True)", "yaml.safe_load(x)",
     "np.load(p)", "torch.compile(m)", "from pickle import UnpicklingError",
     "class Own(yaml.SafeLoader): pass\nyaml.load(x, Own)", "yaml.load(x, Loader=yaml.SafeLoader)"],
)  # fmt: skip
def test_the_check_lets_the_safe_pass(source):
    assert found_in(source) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_can_run(path):
    assert found_in(path.read_text()) == []


OUTSIDE = {
    "up": "../x.jpg",
    "up, later": "a/../../x.jpg",
    "up, with backslashes": "..\\x.jpg",
    "absolute": "/etc/x.jpg",
    "absolute, with a backslash": "\\x.jpg",
    "another store": "s3://other/x.jpg",
}


@pytest.mark.parametrize("name", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("prefix", ["/data/run", "s3://bucket/run", "https://host/run"])
def test_names_stay_below_their_prefix(name, prefix):
    with pytest.raises(InputError, match="leads out of"):
        join(prefix, name)


@pytest.mark.parametrize("name", OUTSIDE.values(), ids=OUTSIDE)
def test_hostile_file_names_in_shards_write_nothing_elsewhere(name, tmp_path):
    """Shards may come from elsewhere: their file names are text in COCO, and never paths."""
    output, store = str(tmp_path / "deep" / "run"), Storage()
    labels = [ImageLabels.labelled(ImageEntry(1, name, ""), (4, 5), ())]
    store.publish_bytes(shard_uri(output, 0), table_to_bytes(labels_to_table(labels), {}))
    for images_per_file in (None, 1):
        written, _ = merge_shards(
            output,
            [0],
            store,
            classes=[ClassLabel(1, "../../class")],
            info={},
            thresholds=Thresholds(0.0),
            profiles=("coco", "coco-results"),
            images_per_file=images_per_file,
        )
        coco = json.loads((Path(output) / next(iter(written["coco"].files))).read_text())
        assert [image["file_name"] for image in coco["images"]] == [name]
    written = {path.parent for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {Path(output), Path(output) / "labels"}


def test_the_names_of_a_run_follow_from_numbers():
    assert shard_uri("/out", 7) == "/out/labels/shard-000007.parquet"
    assert journal_uri("/out", 7) == "/out/labels/shard-000007.journal.json"
