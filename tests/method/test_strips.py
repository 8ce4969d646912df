"""What strips do where memory is short; their pixels are tested in `test_masks_at_size`."""

import numpy as np
import pytest
import torch

from ntt_ray.method import strips
from ntt_ray.method.strips import strip_runs

LOGITS = torch.randn(9, 16, 16, generator=torch.Generator().manual_seed(0))


def test_strips_become_narrower_where_memory_is_short(monkeypatch):
    size_hw = (48, 64)
    expected, asked = strip_runs(LOGITS, size_hw), []
    column_strips = strips._column_strips

    def short(logits, size_hw, pixels_per_step):
        asked.append(pixels_per_step)
        for number, strip in enumerate(column_strips(logits, size_hw, pixels_per_step)):
            if len(asked) < 3 and number:  # the first strip has room
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield strip

    monkeypatch.setattr(strips, "_column_strips", short)
    monkeypatch.setattr(strips, "PIXELS_PER_STEP", 1600)
    monkeypatch.setattr(strips, "_LEAST_PIXELS", 200)
    for own, whole in zip(strip_runs(LOGITS, size_hw), expected, strict=True):
        np.testing.assert_array_equal(own, whole)
    assert asked == [1600, 400, 100]
    asked.clear()
    monkeypatch.setattr(strips, "_LEAST_PIXELS", 1601)
    with pytest.raises(torch.OutOfMemoryError):
        strip_runs(LOGITS, size_hw)
