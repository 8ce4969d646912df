"""Both passes of a merge, for tests that have shards and no run."""

from ntt_ray.merge.fragments import Layout
from ntt_ray.merge.passes import MergeCounts, count_shards, write_profiles
from ntt_ray.merge.rendering import Merge, Source, map_here


def merge_shards(
    output,
    shard_ids,
    store,
    *,
    classes,
    info,
    thresholds,
    profiles,
    images_per_file=None,
    uris=None,
    mapper=map_here,
    image_url=None,
    val_share=0.1,
    split_seed=0,
    **options,
):
    """What each profile wrote, and counts."""
    source = Source(output, store, thresholds, uris)
    shards = count_shards(source, shard_ids, mapper)
    own = {"image_url": image_url, "val_share": val_share, "split_seed": split_seed}
    merge = Merge(source, Layout(shards), classes, info, images_per_file, mapper, **own)
    return write_profiles(merge, profiles, **options), MergeCounts.of(shards)
