from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError
from ntt_ray.sources import boxes as boxes_module
from ntt_ray.sources.boxes import PlacedBoxes, boxes_digest, placed_boxes
from ntt_ray.storage import Storage

NAMES, IDS = ["a.jpg", "b.jpg", "sub/c.jpg", "d.jpg"], [7, 3, 12, 5]
FOUND = [  # image id, x, y, width, height, score
    (12, 1, 2, 30, 40, 0.5),
    (7, 0, 0, 10, 10, 0.25),
    (12, 5, 6, 7, 8, 0.75),
    (7, 2.5, 0, 1, 4, 0.25),
    (99, 0, 0, 1, 1, 0.9),
    (5, 0, 0, 0, 9, 0.9),
]
EXPECTED = {
    "a.jpg": [(0, 0, 10, 10, 0.25), (2.5, 0, 3.5, 4, 0.25)],
    "sub/c.jpg": [(5, 6, 12, 14, 0.75), (1, 2, 31, 42, 0.5)],
}


def _results(rows: Any = FOUND, **more: Any) -> list[dict[str, Any]]:
    return [
        {"image_id": r[0], "category_id": 1, "bbox": list(r[1:5]), "score": r[5]} | more
        for r in rows
    ]


def _table(rows: Any = FOUND, column: str = "file_name") -> dict[str, Any]:
    names = dict(zip(IDS, NAMES)) | {99: "elsewhere.jpg"}
    own = [names[r[0]] if column == "file_name" else r[0] for r in rows]
    return {
        column: own,
        "bbox": [list(map(float, r[1:5])) for r in rows],
        "score": [r[5] for r in rows],
    }


def _json(path, data: Any) -> str:
    path.write_text(json.dumps(data))
    return str(path)


def _parquet(path, data: Any) -> str:
    pq.write_table(data if isinstance(data, pa.Table) else pa.table(data), path)
    return str(path)


def _read(uri: str, per_image: int = 100, *, with_ids: bool = True) -> PlacedBoxes:
    known: dict[Any, pa.ChunkedArray] = {"file_name": pa.chunked_array([NAMES[:2], NAMES[2:]])}
    if with_ids:
        known["image_id"] = pa.chunked_array([IDS])
    return placed_boxes(uri, Storage(), known, per_image)


def _by_name(found: PlacedBoxes) -> dict[str, list[tuple[float, ...]]]:
    rows: dict[str, list[tuple[float, ...]]] = {}
    for row, box, score in zip(found.rows, found.boxes_xyxy.tolist(), found.scores.tolist()):
        rows.setdefault(NAMES[row], []).append((*box, score))
    return rows


def _of_sides(folder) -> str:
    table = _table()
    sides = dict(zip(boxes_module.SIDES, zip(*table.pop("bbox"))))
    return _parquet(folder / "boxes.parquet", {**table, **{k: list(v) for k, v in sides.items()}})


def _fixed(folder) -> str:
    table = _table(column="image_id")
    boxes = pa.array(table["bbox"], pa.list_(pa.float32(), 4))
    names = pa.array(table["image_id"], pa.int32())
    return _parquet(folder / "b.parquet", {**table, "bbox": boxes, "image_id": names})


def _coco(folder) -> str:
    images = [{"id": n, "file_name": name} for n, name in enumerate([*NAMES, "elsewhere.jpg"])]
    ids = {image["file_name"]: image["id"] for image in images}
    rows = zip(_table()["file_name"], FOUND)
    data = {"images": images, "annotations": _results([(ids[n], *r[1:]) for n, r in rows])}
    return _json(folder / "coco.json", data)


FORMS = {
    "COCO results": lambda f: _json(f / "results.json", _results()),
    "a COCO file with images of its own": _coco,
    "Parquet by file name": lambda f: _parquet(f / "b.parquet", _table()),
    "Parquet by image id, lists of fixed length": _fixed,
    "Parquet with a column for each side": _of_sides,
    "names as categories": lambda f: _parquet(
        f / "b.parquet",
        pa.table(_table() | {"file_name": pa.array(_table()["file_name"]).dictionary_encode()}),
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_each_image_gets_its_boxes_the_best_first(form, tmp_path):
    found = _read(form(tmp_path))
    assert _by_name(found) == EXPECTED
    assert found.has_scores
    counts = found.counts
    assert (counts.boxes, counts.used, counts.images, counts.images_without) == (6, 4, 2, 2)
    assert (counts.elsewhere, counts.over, counts.empty) == (1, 0, 1)
    assert counts.without == ("b.jpg", "d.jpg")
    assert counts.others in (("99",), ("elsewhere.jpg",))


def test_so_many_of_an_image_and_of_equal_ones_the_first(tmp_path):
    found = _read(_json(tmp_path / "r.json", _results()), per_image=1)
    assert _by_name(found) == {name: rows[:1] for name, rows in EXPECTED.items()}
    assert found.counts.over == 2


@pytest.mark.parametrize("held", [1, 3, 10])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_pieces_change_nothing(tmp_path, monkeypatch, held, at_once):
    random = np.random.default_rng(0)
    rows = [(IDS[random.integers(4)], n, 0, 1, 1, random.integers(4) / 4) for n in range(60)]
    uri = _json(tmp_path / "r.json", _results(rows))
    whole = _read(uri, per_image=5)
    monkeypatch.setattr(boxes_module, "MOST_HELD", held)
    monkeypatch.setattr(boxes_module, "BOXES_AT_ONCE", at_once)
    found = _read(uri, per_image=5)
    assert _by_name(found) == _by_name(whole)
    assert found.counts == whole.counts
    assert whole.counts.over == 40
    # as one would say it
    for row, name in enumerate(NAMES):
        own = sorted((r for r in rows if r[0] == IDS[row]), key=lambda r: -r[5])[:5]
        assert [box[0] for box in _by_name(found)[name]] == [r[1] for r in own]


def test_boxes_without_scores_count_alike(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "score"} for row in _results()]
    found = _read(_json(tmp_path / "r.json", rows), per_image=1)
    assert not found.has_scores
    assert _by_name(found)["sub/c.jpg"] == [(1, 2, 31, 42, 1.0)]
    table = {k: v for k, v in _table().items() if k != "score"}
    assert _by_name(_read(_parquet(tmp_path / "b.parquet", table), per_image=1)) == _by_name(found)


def _wrong(**change: Any) -> list[dict[str, Any]]:
    rows = _results()
    rows[2] |= change
    return rows


WRONG_JSON = {
    "not JSON": ("[{]", "not JSON"),
    "neither": ({"boxes": []}, "neither COCO results"),
    "no images": ({"annotations": _results()}, "neither COCO results"),
    "three numbers": (_wrong(bbox=[1, 2, 3]), r"results\[2\]: its bbox is not"),
    "a text": (_wrong(bbox=[1, 2, 3, "4"]), r"results\[2\]: its bbox is not"),
    "not a number": (_wrong(bbox=[1, 2, float("nan"), 4]), r"results\[2\]: its bbox is not"),
    "infinite": (_wrong(bbox=[1, 2, float("inf"), 4]), r"results\[2\]: its bbox is not"),
    "negative": (_wrong(bbox=[1, 2, -3, 4]), r"results\[2\]: its bbox has a negative width"),
    "an id of letters": (_wrong(image_id="a"), r"results\[2\]: its image_id is a text"),
    "no id": ([{"bbox": [1, 2, 3, 4]}], r"results\[0\]: has no whole-number image_id"),
    "a score of letters": (_wrong(score="x"), r"results\[2\]: its score is no number"),
    "a score above 1": (_wrong(score=1.5), r"results\[2\]: its score is not from 0 to 1"),
    "no score where others have one": (_wrong(score=None), r"results\[2\]: has no score"),
    "an annotation of no image": (
        {"images": [{"id": 12, "file_name": "a.jpg"}], "annotations": _results()},
        r"annotations\[1\]: there is no image with the id 7",
    ),
    "an image without a name": ({"images": [{"id": 1}], "annotations": []}, "has no file_name"),
}


@pytest.mark.parametrize("case", WRONG_JSON.values(), ids=WRONG_JSON.keys())
def test_malformed_json_is_refused_with_its_place(case, tmp_path):
    data, message = case
    path = tmp_path / "boxes.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(InputError, match=rf"^proposals.boxes: {path}: (?s:.*){message}"):
        _read(str(path))


def _changed(column: str, value: Any) -> dict[str, Any]:
    table = _table()
    table[column] = [*table[column][:2], value, *table[column][3:]]
    return table


WRONG_TABLES = {
    "no names": ({"bbox": [[1, 2, 3, 4]]}, "has no column 'image_id'"),
    "no boxes": ({"file_name": ["a.jpg"]}, "has no column 'bbox_x'"),
    "names that are numbers": (
        _table() | {"file_name": [1.5] * 6},
        "column file_name is of type double",
    ),
    "ids that are texts": (
        {"image_id": ["7"], "bbox": [[1, 2, 3, 4]]},
        "column image_id is of type string",
    ),
    "boxes of texts": (_table() | {"bbox": [["1"] * 4] * 6}, "column bbox holds string"),
    "boxes that are no lists": (_table() | {"bbox": [1.0] * 6}, "column bbox is of type double"),
    "scores of texts": (_table() | {"score": ["1"] * 6}, "column score holds string"),
    "three numbers": (_changed("bbox", [1.0, 2.0, 3.0]), "row 2: its bbox is not"),
    "a null": (_changed("bbox", None), "row 2: its bbox is not"),
    "a null in a box": (_changed("bbox", [1.0, None, 3.0, 4.0]), "row 2: its bbox has a value"),
    "not a number": (
        _changed("bbox", [1.0, float("nan"), 3.0, 4.0]),
        "row 2: its bbox has a value",
    ),
    "too large": (_changed("bbox", [1.0, 1e300, 3.0, 4.0]), "row 2: its bbox has a value"),
    "negative": (_changed("bbox", [1.0, 2.0, 3.0, -4.0]), "row 2: its bbox has a negative"),
    "no name": (_changed("file_name", None), "row 2: names no image"),
    "a score below 0": (_changed("score", -0.1), "row 2: its score is not from 0 to 1"),
    "no score": (_changed("score", None), "row 2: has no score"),
}


@pytest.mark.parametrize("case", WRONG_TABLES.values(), ids=WRONG_TABLES.keys())
def test_malformed_tables_are_refused_with_their_row(case, tmp_path):
    data, message = case
    with pytest.raises(InputError, match=f"proposals.boxes: (?s:.*){message}"):
        _read(_parquet(tmp_path / "boxes.parquet", data))


def test_ids_mean_nothing_where_the_images_have_none(tmp_path):
    with pytest.raises(InputError, match="by image_id alone"):
        _read(_json(tmp_path / "r.json", _results()), with_ids=False)


def test_boxes_of_other_images_alone_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none of its 2 boxes(?s:.*)99, 98(?s:.*)a.jpg, b.jpg"):
        _read(_json(tmp_path / "r.json", _results([(99, 0, 0, 1, 1, 0.1), (98, 0, 0, 1, 1, 0.1)])))
    with pytest.raises(InputError, match="none of its 0 boxes"):
        _read(_json(tmp_path / "r.json", []))


@pytest.mark.parametrize("name", ["boxes.csv", "boxes", "boxes.json.gz"])
def test_other_files_are_refused(name, tmp_path):
    (tmp_path / name).write_text("[]")
    with pytest.raises(InputError, match=r"from .json \(COCO\) and .parquet files"):
        _read(str(tmp_path / name))


def test_what_is_no_parquet_and_what_is_not_there(tmp_path):
    (tmp_path / "x.parquet").write_text("text")
    with pytest.raises(InputError, match="cannot be read"):
        _read(str(tmp_path / "x.parquet"))
    with pytest.raises(InputError, match="no such file"):
        boxes_digest(str(tmp_path / "y.parquet"), Storage())
