"""Folders of images with a metadata file, as Hugging Face's imagefolder has."""

import json
import logging

import pytest

from ntt_ray.errors import InputError
from ntt_ray.settings import TableColumns
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.schema import SCHEMA
from ntt_ray.storage import Storage


@pytest.fixture
def folder(tmp_path):
    for name in ("train/a.png", "train/deep/b.png", "test/c.png", "d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    rows = [{"file_name": "deep/b.png", "caption": "of b"}, {"file_name": "a.png", "caption": None}]
    lines = [json.dumps(row) for row in [*rows, {"file_name": "gone.png", "caption": "x"}]]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines))
    (tmp_path / "test" / "metadata.csv").write_text("file_name,caption,id\nc.png,of c,7\n")
    (tmp_path / "test" / "other_metadata.csv").write_text("nothing")
    return tmp_path


def _listed(folder, **columns):
    return list_images(str(folder), None, Storage(), columns=TableColumns(**columns))


def test_kept_columns_stand_with_their_images(folder, caplog):
    table = _listed(folder, keep=("caption",))
    assert table.drop_columns(["uri", "image_id"]).to_pylist() == [
        {"file_name": name, "key": None, "source": None, "caption": caption}
        for name, caption in (
            ("d.png", None),
            ("test/c.png", "of c"),
            ("train/a.png", None),
            ("train/deep/b.png", "of b"),
        )
    ]
    assert "1 images of" in caplog.text
    assert "and 1 of its rows no image" in caplog.text


def test_unless_they_are_asked_for_it_is_a_folder_of_images(folder, caplog):
    caplog.set_level(logging.INFO, "ntt_ray")
    assert _listed(folder).schema.equals(SCHEMA)
    assert "metadata.jsonl" in caplog.text


def test_what_is_wrong_is_named(folder):
    with pytest.raises(
        InputError, match=r"columns\.keep: there is no column 'x' in .*metadata\.csv"
    ):
        _listed(folder, keep=("x",))
    with pytest.raises(InputError, match=r"columns\.image: .*are files"):
        _listed(folder, image="caption")
    (folder / "metadata.csv").write_text("file_name,caption\ntrain/a.png,again\n")
    with pytest.raises(InputError, match="name an image more than once"):
        _listed(folder, keep=("caption",))
    (folder / "metadata.csv").write_text("file_name,caption\n../a.png,up\n")
    with pytest.raises(InputError, match="leads out of"):
        _listed(folder, keep=("caption",))
    for name in ("metadata.csv", "test/metadata.csv", "train/metadata.jsonl"):
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"columns\.keep: .*without any of metadata\.parquet, "):
        _listed(folder, keep=("caption",))


@pytest.mark.parametrize("name", ["", "data-00000-of-00001.arrow"])
def test_what_save_to_disk_wrote_is_refused_with_the_way(tmp_path, name):
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"x")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"Arrow files, .* write them by ds\.to_parquet"):
        _listed(tmp_path / name)
