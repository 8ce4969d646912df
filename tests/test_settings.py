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
    TAKEN_COLUMNS,
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
