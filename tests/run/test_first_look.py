"""What is said before anything is started of three images of the list."""

import io

import pytest
from PIL import Image

from ntt_ray.errors import RunIncompleteError
from ntt_ray.records import ImageEntry
from ntt_ray.run.first_look import look
from ntt_ray.storage import Storage


def _entries(folder, *names):
    return [ImageEntry(n, name, str(folder / name)) for n, name in enumerate(names, 1)]


def test_each_is_said_with_its_size_its_turn_or_what_is_wrong(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    (tmp_path / "b.jpg").write_bytes(b"<html>please log in</html>")
    assert look(_entries(tmp_path, "a.jpg", "b.jpg", "c.jpg"), Storage(), 5.0) == [
        "a.jpg: 40 x 30 pixels as stored, EXIF orientation 6",
        "b.jpg: no image (not an image but a web page)",
        "c.jpg: could not be read (there is no such file)",
    ]


def test_where_none_can_be_read_the_paths_are_named(tmp_path):
    with pytest.raises(RunIncompleteError, match="none of 2 images of the list") as caught:
        look(_entries(tmp_path, "a.jpg", "c.jpg"), Storage(), 5.0)
    for name in ("a.jpg", "c.jpg"):
        assert f"{tmp_path / name}: could not be read (there is no such file)" in str(caught.value)
