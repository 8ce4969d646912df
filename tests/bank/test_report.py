"""The report of a bank: what it names, and that its page is safe and the same every time."""

import re
from dataclasses import replace

import numpy as np
import pytest

from ntt_ray.records import ClassLabel, Reference, ReferenceSet
from tests.support.bank_page import CLASSES, HOSTILE, _bank, _cloud, _examples, _write
from tests.support.banks import file_of


def test_what_stands_out_is_named(tmp_path):
    report, page = _write(tmp_path / "run", _bank(), _examples(tmp_path))
    by_kind = {item["kind"]: item for item in report["findings"]}
    assert set(by_kind) == {"mislabelled", "duplicate", "untold"}
    assert by_kind["mislabelled"]["references"] == [5]
    assert "nut, annotation 6 in <i>5.png: looks like <script>" in by_kind["mislabelled"]["text"]
    assert by_kind["duplicate"]["references"] == [0, 1]
    assert by_kind["duplicate"]["text"].endswith("the same object")
    assert by_kind["untold"]["text"].startswith("cog: fewer than 3 references")
    assert report["references"][5]["nearest_class"] == HOSTILE
    assert report["references"][12]["own"] is None
    assert report["matrix"][2][2] is None
    assert report["matrix"][0][1] == report["matrix"][1][0]
    assert page.count('data-testid="reference"') == 13
    assert page.count("data:image/jpeg") == 13
    assert page.count("data:image/png") == 12


def _tiles(page) -> dict[str, tuple[str, str]]:
    """Number and caption of each tile, by its title."""
    pattern = r'<h2>([^<]+)</h2><p class="number">([^<]+)</p><p>([^<]*)</p>'
    return {title: (number, text) for title, number, text in re.findall(pattern, page)}


def test_the_tiles_count_what_their_captions_say(tmp_path):
    """Two exchanged references of two classes of two: too few to call unusual, and not 0."""
    features = [_cloud(0, 6), _cloud(1, 6)]
    features = [np.stack([own[0], other[1]]) for own, other in (features, features[::-1])]
    features.append(_cloud(2, 4))
    report, page = _write(tmp_path / "few", file_of(CLASSES, features), None)
    assert [item["kind"] for item in report["findings"]] == ["untold"]
    nearer = [row for row in report["references"] if row["own"] < row["nearest"]]
    number, text = _tiles(page)["Mislabelled?"]
    assert (int(number), len(nearer) > 0) == (len(nearer), True)
    assert text == "nearer to another class than to their own; 0 unusually so and named below"

    _, page = _write(tmp_path / "run", _bank(), _examples(tmp_path))
    assert _tiles(page)["Mislabelled?"][1].endswith("; 1 unusually so and named below")
    assert _tiles(page)["Duplicates"] == ("1", "pairs that say the same twice")


def test_a_duplicate_of_two_classes_is_counted_as_such(tmp_path):
    examples = _examples(tmp_path)
    cog = examples.references.references[-1]
    twice = Reference(99, 5, cog.image, cog.size_hw, cog.bbox_xywh, cog.rle)
    references = tuple(r for r in examples.references.references if r.annotation_id != 11)
    examples = replace(examples, references=ReferenceSet(CLASSES, (*references, twice)))
    _, page = _write(tmp_path / "run", _bank(), examples)
    assert (
        _tiles(page)["Duplicates"][1] == "pairs that say the same twice; 1 of them as two classes"
    )


def test_the_page_is_safe_and_the_same_every_time(tmp_path):
    pages = [_write(tmp_path / name, _bank(2), _examples(tmp_path, negatives=2)) for name in "ab"]
    assert pages[0] == pages[1]
    page = pages[0][1]
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<i>5.png" not in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "$" not in page
    assert "Negative references" in page
    assert [row["number"] for row in pages[0][0]["negatives"]] == [1, 2]


def test_a_ready_bank_has_numbers_and_no_crops(tmp_path):
    report, page = _write(tmp_path / "run", _bank(), None)
    assert [i["kind"] for i in report["findings"]] == ["mislabelled", "untold"]
    assert report["findings"][0]["text"].startswith("nut, reference 6: looks like")
    assert "data:image" not in page
    assert 'data-testid="matrix"' in page


def test_of_an_extended_bank_the_last_references_are_known(tmp_path):
    report, page = _write(tmp_path / "run", _bank(), _examples(tmp_path, last_nuts=2))
    assert [row["annotation_id"] for row in report["references"][:6]] == [None] * 4 + [1, 2]
    assert page.count("data:image/jpeg") == 9


def test_an_image_that_went_away_leaves_an_empty_place(tmp_path):
    examples = _examples(tmp_path)
    (tmp_path / "<i>5.png").unlink()
    _, page = _write(tmp_path / "run", _bank(), examples)
    assert page.count("data:image/jpeg") == 12


@pytest.mark.parametrize("classes", [45])
def test_many_classes_stay_readable(tmp_path, classes):
    labels = tuple(ClassLabel(i + 1, f"class {i}") for i in range(classes))
    rng = np.random.default_rng(0)
    bank = file_of(labels, [rng.normal(size=(15, 64)).astype(np.float32) for _ in labels])
    report, page = _write(tmp_path / "run", bank, None)
    assert len(report["matrix"]) == classes
    assert "and 15 more classes, in bank.json" in page
    assert page.count('data-testid="reference"') == 30 * 10
