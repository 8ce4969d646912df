"""Which Ray is joined or started; the fake stands for ``ray.init``."""

import pytest
import ray

from ntt_ray.pipeline.resources import connect

CASES = {
    "a cluster that is named is joined": ("auto", None),
    # `ray start` leaves one behind, which takes none of our settings
    "without a name, not one that happens to be there": (None, "local"),
}


@pytest.mark.parametrize(("named", "address"), CASES.values(), ids=CASES.keys())
def test_which_ray(monkeypatch, named, address):
    asked = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    connect()
    assert asked[0]["address"] == address
    assert (asked[0]["_system_config"] is None) == bool(named)
