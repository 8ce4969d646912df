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
from ntt_ray.run.manifest_writer import unit_images
from ntt_ray.run.prepare import check_images
from ntt_ray.run.record import make_record, write_record
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
