"""The commands of a review with names that nobody should give."""

import json

import pytest
from typer.testing import CliRunner

from ntt_ray.cli import app
from ntt_ray.errors import InputError
from ntt_ray.records import ClassLabel
from tests.support import review_run

NASTY = "[/red]\nnext\x1b[31m <b>\"'"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A run with a class of a nasty name and one without a label, and the path of its config."""
    classes = (ClassLabel(2, "disc"), ClassLabel(5, NASTY), ClassLabel(9, "never seen"))
    monkeypatch.setattr(review_run, "CLASSES", classes)
    config = review_run.review_run(tmp_path / "made")
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config.resolved()))
    return config, path


def review(command, path, *arguments):
    given = ["review", command, str(path), *map(str, arguments)]
    return CliRunner().invoke(app, given, catch_exceptions=False)


def test_names_are_neither_markup_nor_orders_to_a_terminal(made, tmp_path):
    path = made[1]
    said = review("draw", path, "--labels", "1000000", "--images", "99999")
    assert "drew 32 of 32 labels" in said.output
    draw = json.loads((tmp_path / "made/run/review/draw.json").read_text())
    verdicts = {"draw": draw["sha256"], "design": draw["design"], "reviewer": "[/bold] ../../x"}
    file = tmp_path / "verdicts.json"
    file.write_text(json.dumps(verdicts | {"labels": {str(draw["labels"][0]["id"]): "right"}}))
    assert "[/bold] ../../x: 1 labels" in review("import", path, file).output
    said = review("estimate", path)
    assert said.exit_code == 0
    assert "[/red]" in said.output
    assert "never seen" in said.output
    assert "\x1b[31m" not in said.output
    said = review("references", path, "--output", tmp_path / "refs.json")
    assert said.exit_code == 0
    assert "\x1b" not in said.output


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[31m", "x" * 300])
def test_reviewers_have_names_that_can_be_shown(made, tmp_path, name):
    path = made[1]
    review("draw", path, "--labels", "3")
    draw = json.loads((tmp_path / "made/run/review/draw.json").read_text())
    verdicts = {"draw": draw["sha256"], "design": draw["design"], "reviewer": "anna"}
    verdicts["labels"] = {str(draw["labels"][0]["id"]): "right"}
    file = tmp_path / "verdicts.json"
    file.write_text(json.dumps(verdicts))
    with pytest.raises(InputError, match="--reviewer: a reviewer has a name of 1 to 200"):
        review("import", path, file, "--reviewer", name)
    file.write_text(json.dumps(verdicts | {"reviewer": name}))
    with pytest.raises(InputError, match="a reviewer has a name of 1 to 200"):
        review("import", path, file)


def test_an_order_from_the_command_line(made, tmp_path):
    said = review("draw", made[1], "--order", "outliers", "--labels", "4")
    assert "chose 4 of 32 labels by outliers" in said.output
    assert "no estimate is made of them" in said.output
    with pytest.raises(InputError, match="--against: goes with --order disagreement"):
        review("draw", made[1], "--against", "elsewhere")
    assert review("draw", made[1], "--order", "sideways").exit_code == 2
