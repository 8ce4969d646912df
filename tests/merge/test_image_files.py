"""Profiles with a file for each image give the same files through Ray tasks."""

import pytest

from ntt_ray.merge import fragments
from tests.support.profile_run import merged, write_run

PROFILES = ("coco-polygon", "yolo-seg", "labelstudio", "parquet", "semantic-png")


def _contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_tasks_give_the_same_files(tmp_path, monkeypatch):
    from ntt_ray.run.cluster.tasks import map_on_ray

    here, there = tmp_path / "here", tmp_path / "there"
    for output in (here, there):
        write_run(str(output))
    monkeypatch.setattr(fragments, "IMAGES_AT_ONCE", 2)
    written = merged(here, *PROFILES, uris=None)
    assert merged(there, *PROFILES, uris=None, mapper=map_on_ray) == written
    assert _contents(there) == _contents(here)
    assert len(_contents(here)) == 2 + 1 + (3 + 5) + 2 + 1 + (1 + 5)


def test_a_merge_that_was_killed_goes_on_to_the_same_files(tmp_path):
    write_run(str(tmp_path))
    merged(tmp_path, *PROFILES)
    whole = _contents(tmp_path)

    class Killed(Exception):
        pass

    def die(profile, done, total):
        raise Killed

    again = tmp_path / "again"
    write_run(str(again))
    for profile in PROFILES:
        with pytest.raises(Killed):
            merged(again, profile, progress=die)
    merged(again, *PROFILES)
    assert _contents(again) == whole
