from itertools import pairwise

import numpy as np
import pytest

from ntt_ray.merge import fragments
from ntt_ray.merge.fragments import FOUND, IMAGES, KEPT, Fragment, Layout, Slice
from ntt_ray.merge.instances import ShardIndex


def _shard(shard_id, kept, found=None):
    kept = np.array(kept, np.int32)
    found = kept if found is None else np.array(found, np.int32)
    return ShardIndex(shard_id, "", found, kept, len(kept), 0, 0, 1000 * int(found.sum()), 20)


def test_small_shards_share_a_fragment():
    layout = Layout([_shard(0, [1, 2]), _shard(3, [0, 4], [5, 5])])
    both = (Slice(0, 0, 2), Slice(3, 0, 2))
    assert layout.rows == 4
    assert layout.fragments(KEPT, 0, 4, 1) == [Fragment(both, 1, 7)]
    assert layout.fragments(FOUND, 0, 4, 1) == [Fragment(both, 1, 13)]
    assert layout.fragments(IMAGES, 0, 4, 1) == [Fragment(both, 1, 4)]


@pytest.mark.parametrize(
    ("start", "stop", "slices"),
    [
        (0, 1, (Slice(0, 0, 1),)),
        (1, 3, (Slice(0, 1, 2), Slice(3, 0, 1))),
        (3, 9, (Slice(3, 1, 2),)),
        (4, 9, ()),
    ],
    ids=["start", "across", "end", "beyond"],
)
def test_rows_of_a_file(start, stop, slices):
    layout = Layout([_shard(0, [1, 2]), _shard(3, [0, 4])])
    found = layout.fragments(KEPT, start, stop, 1)
    assert tuple(part for fragment in found for part in fragment.slices) == slices


def test_nothing_gives_no_fragment():
    assert Layout([]).fragments(KEPT, 0, 1, 1) == []
    assert Layout([_shard(0, [])]).fragments(KEPT, 0, 1, 1) == []


@pytest.mark.parametrize("limit", [1, 1000, 2500, 5000, 10**9])
def test_any_size_of_fragments_holds_every_row_once_and_counts_on(monkeypatch, limit):
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", limit)
    rng = np.random.default_rng(limit)
    shards = [_shard(number, rng.integers(0, 4, 7)) for number in range(5)]
    found = Layout(shards).fragments(KEPT, 0, 35, 1)
    rows = [(p.shard_id, r) for f in found for p in f.slices for r in range(p.start, p.stop)]
    assert rows == [(shard, row) for shard in range(5) for row in range(7)]
    assert found[0].first_id == 1
    for before, after in pairwise(found):
        assert after.first_id == before.first_id + before.items
    assert sum(fragment.items for fragment in found) == sum(int(s.kept.sum()) for s in shards)
    largest = max(int(s.kept.max()) for s in shards) * 1200
    for fragment in found:
        items = sum(int(shards[p.shard_id].kept[p.start : p.stop].sum()) for p in fragment.slices)
        assert items == fragment.items
        assert items * 1190 <= limit + largest
