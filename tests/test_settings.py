"""The settings that the config and the method share."""

import pickle
import subprocess
import sys

import pytest
from pydantic import ValidationError

from ntt_ray.config import build_config
from ntt_ray.settings import DecodeSettings, MethodSettings, TileSettings


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
