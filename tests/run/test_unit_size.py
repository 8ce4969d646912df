"""How large the units of a run are when nobody says it, and that a resume keeps to it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ntt_ray.config import build_config
from ntt_ray.errors import InputError
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run import manifest_writer
from ntt_ray.run.identity import with_unit_images
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.run.manifest import recorded_unit_images
from ntt_ray.run.manifest_writer import unit_images, write_manifest
from ntt_ray.run.prepare import check_images, new_manifest
from ntt_ray.run.record import make_record, write_record
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.schema import without_sizes
from ntt_ray.storage import Storage
from tests.support.run_files import manifest_table
from tests.support.verify_run import identity

STORE = Storage()
# images -> images of a unit, units
AUTO = {
    1: (4, 1),
    37: (4, 10),
    256: (4, 64),
    300: (5, 60),
    1000: (16, 63),
    16_384: (256, 64),
    10_000_000: (256, 39_063),
}


@pytest.mark.parametrize(("images", "expected"), AUTO.items())
def test_what_auto_makes_of_a_number_of_images(images, expected):
    per_unit = unit_images(images, "auto")
    assert (per_unit, -(-images // per_unit)) == expected
    assert unit_images(images, 1024) == 1024


@pytest.fixture
def auto(golden_config):
    """A config that leaves the size to us, of four images."""
    return build_config({**golden_config, "job": {}})


def _begin(config, images, per_unit):
    """A run that began with units of that size."""
    table = manifest_table(manifest_file.entries_at(images.manifest, range(4)))
    manifest = manifest_writer.manifest_bytes(table, per_unit)
    STORE.publish_bytes(f"{config.output}/{MANIFEST_FILE}", manifest)
    begun = make_record(
        identity=identity(manifest, b"bank", per_unit),
        config=config.resolved(),
        classes=(),
        units=1,
        images=4,
    )
    write_record(config.output, begun, STORE)


def test_a_new_run_records_the_number(auto):
    images = check_images(auto, STORE)
    assert images.sizes == (4,)
    assert with_unit_images(auto, images.manifest, images.recorded).job.images_per_unit == 4
    assert recorded_unit_images(images.manifest) == 4


@pytest.mark.parametrize("per_unit", [1, 3, 256])
def test_a_resume_keeps_the_units_that_the_run_began_with(auto, per_unit):
    _begin(auto, check_images(auto, STORE), per_unit)
    there = check_images(auto, STORE)
    assert sum(there.sizes) == 4
    assert len(there.sizes) == -(-4 // per_unit)
    assert with_unit_images(auto, there.manifest, there.recorded).job.images_per_unit == per_unit
    # and where the manifest is lost, it is listed again as it was
    Path(auto.output, MANIFEST_FILE).unlink()
    again = check_images(auto, STORE)
    assert again == replace(there, lost=True)


def test_another_size_that_is_asked_for_is_still_refused_or_lost(auto):
    _begin(auto, check_images(auto, STORE), 3)
    job = auto.job.model_copy(update={"images_per_unit": 2})
    other = auto.model_copy(update={"job": job})
    there = check_images(other, STORE)
    found = with_unit_images(other, there.manifest, there.recorded)
    assert found == other  # compared as it stands
    Path(auto.output, MANIFEST_FILE).unlink()
    with pytest.raises(InputError, match=r"manifest\.parquet: is missing"):
        check_images(other, STORE)


@pytest.fixture
def large(tmp_path, golden_config):
    """A config of six images of 2 MiB each, of which a unit holds two."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        with (folder / f"{number}.png").open("wb") as stream:
            stream.truncate(2 << 20)
    data = {**golden_config, "images": str(folder), "image_root": None}
    return build_config({**data, "job": {"images_per_unit": 4, "unit_mb": 5}})


def _begin_large(config, manifest, **job):
    """A run that began with a manifest, and recorded these settings of `job`."""
    STORE.publish_stream(f"{config.output}/{MANIFEST_FILE}", manifest.chunks())
    resolved = config.resolved()
    resolved["job"] = {
        name: value for name, value in resolved["job"].items() if name != "unit_mb"
    } | job
    sizes = manifest_file.unit_sizes(manifest)
    begun = make_record(
        identity=identity(b"".join(manifest.chunks()), b"bank", 4),
        config=resolved,
        classes=(),
        units=len(sizes),
        images=sum(sizes),
    )
    write_record(config.output, begun, STORE)


def test_units_of_large_images_end_at_their_bytes(large):
    assert check_images(large, STORE).sizes == (2, 2, 2)
    assert new_manifest(large, STORE) == check_images(large, STORE).manifest


@pytest.mark.parametrize("unit_mb", [5, 2, 1000])
def test_a_resume_keeps_units_that_ended_at_their_bytes(large, unit_mb):
    _begin_large(large, new_manifest(large, STORE), unit_mb=5)
    job = large.job.model_copy(update={"unit_mb": unit_mb})
    config = large.model_copy(update={"job": job})
    there = check_images(config, STORE)
    assert (there.sizes, there.lost) == ((2, 2, 2), False)
    Path(config.output, MANIFEST_FILE).unlink()
    assert check_images(config, STORE) == replace(there, lost=True)


def test_a_run_of_a_version_that_did_not_count_bytes_keeps_its_units(large):
    table = list_images(large.images, None, STORE)
    older = write_manifest(iter([without_sizes(table)]), 4, None)
    _begin_large(large, older)
    there = check_images(large, STORE)
    assert (there.sizes, there.lost) == ((4, 2), False)
    Path(large.output, MANIFEST_FILE).unlink()
    assert check_images(large, STORE) == replace(there, lost=True)
