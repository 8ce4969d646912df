"""The settings that the config and the method share."""

import pickle
import subprocess
import sys

import pytest
from pydantic import ValidationError

from ntt_ray.config import build_config
from ntt_ray.errors import ConfigError
from ntt_ray.merge.profiles import instance_table
from ntt_ray.run import shard
from ntt_ray.settings import (
    PRESETS,
    TAKEN_COLUMNS,
    ComponentSettings,
    DecodeSettings,
    MethodSettings,
    TableColumns,
    TileSettings,
)
from ntt_ray.sources.schema import packed_schema


def test_a_config_hands_them_on_as_they_are():
    given = {"images": "/i", "output": "/o", "bank": "/b"}
    config = build_config({**given, "method": {"tiles": {"side": 480}}})
    assert config.method == MethodSettings(tiles=TileSettings(side=480))
    assert config.decode == DecodeSettings()


def test_they_travel_to_workers_small():
    """With pickle, as Ray sends them; every unit and task carries them."""
    method = MethodSettings(tiles=TileSettings())
    sent = pickle.dumps(method)
    assert pickle.loads(sent) == method
    assert len(sent) < 1000


def test_they_are_checked_in_python_too_and_cannot_be_changed():
    with pytest.raises(ValidationError, match=r"(?s)nms_iou.*max_detection\b"):
        MethodSettings(nms_iou=2.0, max_detection=5)
    with pytest.raises(ValidationError, match="frozen"):
        MethodSettings().nms_iou = 0.6


def test_they_load_little():
    code = (
        "import sys, ntt_ray.settings; heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'yaml'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kept_columns_have_names_of_their_own():
    """No column of a shard or of the instance table may come from somewhere else."""
    columns = {*shard.SCHEMA.names, *packed_schema().names, *instance_table.SCHEMA.names}
    columns |= {field.name for field in shard.ANNOTATION}
    assert columns == TAKEN_COLUMNS
    for keep, message in ((("a", "bbox"), "bbox: shards"), (("a", "a"), "once"), (("",), "once")):
        with pytest.raises(ConfigError, match=message):
            build_config(
                {"images": "/i", "output": "/o", "bank": "/b", "columns": {"keep": list(keep)}}
            )


def test_columns_can_be_set_on_the_command_line():
    given = {"images": "/i", "output": "/o", "bank": "/b"}
    sets = ["images=s3://b/x.parquet", "columns.keep=[a, b]", "columns.key=id"]
    config = build_config(given, sets)
    assert config.columns == TableColumns(key="id", keep=("a", "b"))
    assert config.images == "s3://b/x.parquet"


CLEAN = PRESETS["clean"]
OTHER = {"largest_component": ComponentSettings(min_share=0.5), "nms_iou": 0.6}


def test_a_preset_stands_for_the_settings_that_it_names():
    expanded = MethodSettings(preset="clean")
    assert expanded == MethodSettings(preset="clean", **CLEAN)
    assert expanded.named() == MethodSettings(**CLEAN).named()
    assert expanded.of_preset() == MethodSettings(**CLEAN).model_dump(
        mode="json", include=set(CLEAN)
    )
    assert MethodSettings().of_preset() == {}


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("off", [False, True])
def test_what_is_given_beside_a_preset_comes_first(name, off):
    value = None if off else OTHER[name]
    found = MethodSettings(preset="clean", **{name: value})
    assert getattr(found, name) == value != CLEAN[name]
    others = {key: CLEAN[key] for key in CLEAN if key != name}
    assert found.named() == MethodSettings(**others, **{name: value}).named()
    assert set(found.of_preset()) == set(others)


def test_a_preset_is_set_on_the_command_line_and_read_again_from_a_record():
    given = {"images": "/i", "output": "/o", "bank": "/b", "method": {"preset": "clean"}}
    config = build_config(given, ["method.nms_iou=0.5"])
    assert config.method == MethodSettings(preset="clean", nms_iou=0.5)
    assert build_config(config.resolved()) == config
    assert config.resolved()["method"]["largest_component"] == {"min_share": 1.0}


def test_a_preset_of_which_nothing_is_left_is_refused():
    """As where its line in the example config is changed, and those of its settings are left."""
    defaults = MethodSettings().model_dump(include=set(CLEAN))
    with pytest.raises(ValidationError, match=r"clean stands for .* all of these are given"):
        MethodSettings(preset="clean", **defaults)


def test_what_is_off_is_not_named():
    assert set(MethodSettings().named()) == {
        "points_per_side",
        "min_predicted_iou",
        "nms_iou",
        "max_detections",
        "context_ratio",
    }
    assert MethodSettings(all_outputs=True).named()["all_outputs"] is True
