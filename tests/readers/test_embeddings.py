"""The recipes for embeddings of ``docs/rematch.md`` run as they stand, on a run that made them."""

from __future__ import annotations

import numpy as np
import pytest

import ntt_ray
from tests.support.python_page import IMAGES, run_recipe, write_example

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_embeddings(run, tmp_path):  # `run` keeps the packages quiet and offline
    write_example(tmp_path, "proposals.keep=true", "proposals.embeddings=true")
    names, _ = run_recipe("Embeddings", tmp_path, "rematch.md")
    rows = list(ntt_ray.read_labels(tmp_path / "runs" / "demo" / "run"))
    assert names["embeddings"].shape == (IMAGES, 192)
    assert names["of_objects"].shape == (sum(len(row.detections) for row in rows), 192)
    assert np.linalg.norm(names["of_objects"], axis=1) == pytest.approx(1, abs=1e-3)
    (first, own), *others = names["nearest"]
    assert (first, own) == ("00001.jpg", pytest.approx(1, abs=1e-3))
    likeness = names["embeddings"] @ rows[0].embedding
    assert [value for _, value in others] == pytest.approx(sorted(likeness)[-2::-1], abs=1e-5)
