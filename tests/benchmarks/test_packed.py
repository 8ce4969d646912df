"""Packed images are read with few requests: at most one GET a unit and one for each index pass."""

from benchmarks.packed import index_memory, made_images, measured, table


def test_requests_of_every_form():
    found = measured(made_images(24, 2_000), units=3)
    assert found["loose files"].gets == [8, 8, 8]
    for form in ("tar", "tar.gz", "zip"):
        assert found[form].gets == [1, 1, 1], form
    for form, most in {"tar": 1, "tar.gz": 1, "zip": 4}.items():  # a zip: its directory, headers
        assert found[form].listing["get_object"] <= most, form
    for form in ("Parquet", "Hugging Face folder"):
        assert max(found[form].gets) <= 4, form
    rows = table(found).splitlines()
    assert len(rows) == 2 + len(found)


def test_an_index_takes_little_memory():
    _, megabytes = index_memory(2_000)
    assert 0 < megabytes < 300
