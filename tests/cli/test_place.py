"""CONFIG or OUTPUT: the settings that either gives."""

import json

import pytest
import yaml

from ntt_ray.cli.place import is_output, output_settings, override, settings_of
from ntt_ray.config import build_config
from ntt_ray.errors import ConfigError, InputError
from ntt_ray.merge.record import MergeRecord, write_merge_record
from ntt_ray.run import record
from ntt_ray.run.layout import MERGE_FILE, RECORD_FILE
from ntt_ray.storage import Storage
from tests.support.commands import run_command
from tests.support.verify_run import identity

SECRET = {"s3": {"endpoint_url": "http://127.0.0.1:1", "secret": "hidden", "key": "mine"}}


@pytest.fixture
def run(golden_config, tmp_path):
    """A config file, and the output of a run that began with it and was copied elsewhere."""
    data = {**golden_config, "storage_options": SECRET, "merge": {"min_score": 0.7}}
    config = build_config(data)
    file, output = tmp_path / "my.yaml", tmp_path / "copied"
    file.write_text(yaml.safe_dump(data))
    begun = record.make_record(
        identity=identity(b"manifest", b"bank", 4),
        config=config.resolved(),
        classes=(),
        units=1,
        images=4,
    )
    record.write_record(str(output), begun, Storage())
    return config, file, output


def test_either_gives_the_settings(run, caplog):
    config, file, output = run
    assert settings_of(str(file), []) == config
    for place in (output, f"{output}/", output / RECORD_FILE):
        found = settings_of(str(place), ["merge.images_per_file=9"])
        assert found.output == str(output)  # where it is now
        assert (found.merge.min_score, found.merge.images_per_file) == (0.7, 9)
        assert (found.images, found.references) == (config.images, config.references)


@pytest.fixture
def merged(run):
    """The same output, after merges with other settings than the run began with."""
    config, _, output = run
    recorded = record.recorded_run(str(output), Storage())

    def merge(labels_hash=recorded.labels_hash, **settings):
        own = build_config({**config.model_dump(), "merge": settings}).resolved()["merge"]
        made = MergeRecord(
            labels_hash=labels_hash,
            min_score=0.5,
            settings=own,
            profiles=("coco",),
            images_per_file=None,
            units=(),
            files={},
        )
        write_merge_record(str(output), made, Storage())

    return merge


def test_an_output_is_merged_as_it_was_last(run, merged, caplog):
    _, _, output = run
    caplog.set_level("INFO", "ntt_ray")
    merged(min_score=0.5, profiles=("coco", "coco-results"))
    found = settings_of(str(output), []).merge
    assert (found.min_score, found.profiles) == (0.5, ("coco", "coco-results"))
    assert settings_of(str(output), ["merge.min_score=0.3"]).merge.min_score == 0.3
    assert "as in the last merge, see merge.json" in caplog.text


def test_a_merge_of_other_labels_or_damage_says_nothing(run, merged):
    _, _, output = run
    merged("of another run", min_score=0.5)
    assert settings_of(str(output), []).merge.min_score == 0.7
    (output / MERGE_FILE).write_text("{")
    assert settings_of(str(output), []).merge.min_score == 0.7


def test_an_address_with_a_secret_is_not_taken_without_it(run, merged, caplog):
    _, _, output = run
    merged(image_url="https://me:word@host/{file_name}")
    assert "word" not in (output / MERGE_FILE).read_text()
    assert settings_of(str(output), []).merge.image_url is None
    assert "merge.image_url" in caplog.text


def test_secrets_that_a_record_does_not_hold_are_named(run, caplog):
    _, _, output = run
    found = settings_of(str(output), [override("storage_options.s3.key", "other")])
    assert found.storage_options == {"s3": {"endpoint_url": "http://127.0.0.1:1", "key": "other"}}
    assert "keeps no secrets, and storage_options.s3.key, storage_options.s3.secret" in caplog.text
    assert "hidden" not in caplog.text


def test_a_record_that_does_not_say(run):
    _, _, output = run
    content = json.loads((output / RECORD_FILE).read_text())
    (output / RECORD_FILE).write_text(json.dumps({**content, "config": {}}))
    with pytest.raises(InputError, match="name the config instead"):
        settings_of(str(output), [])
    assert output_settings(str(output), [], "status").output == str(output)


def test_what_is_neither(tmp_path):
    with pytest.raises(ConfigError, match=r"no such config file, and no output .*/gone\)$"):
        settings_of(str(tmp_path / "gone" / "my.yaml"), [])
    with pytest.raises(InputError, match="there is no run here; label first"):
        settings_of(str(tmp_path), [])


PLACES = {"s3://bucket/run": True, "memory://run/": True, "my.yaml": False, "run/run.json": True}


@pytest.mark.parametrize(("place", "output"), PLACES.items())
def test_which_is_which(place, output):
    assert is_output(place) == output


COMMANDS = ("run", "bank", "label", "merge", "evaluate", "report", "calibrate", "plan", "verify")


@pytest.mark.parametrize("command", [*COMMANDS, "references from-boxes"])
def test_every_command_takes_either(tmp_path, command):
    """They all ask the same function, which says that this folder holds no run."""
    options = ["--output", str(tmp_path / "refs.json")] if "boxes" in command else []
    done = run_command(*command.split(), str(tmp_path), *options)
    assert done.returncode == 2
    assert "there is no run here" in done.stderr


def test_status_and_average_take_either(run, tmp_path):
    _, file, output = run
    for place in (output, file):
        done = run_command("status", str(place), "--set", f"output={output}")
        assert done.returncode == 1
        assert "0 of 1 units done" in done.stderr
    done = run_command("average", str(file), str(output))
    assert "metrics.json: no such file" in done.stderr
