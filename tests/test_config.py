from pathlib import Path

import pytest

from ntt_ray.config import build_config, load_config
from ntt_ray.errors import ConfigError

MINIMAL = {"images": "/data/images", "output": "/data/out", "bank": "/data/bank.safetensors"}


def test_defaults_are_the_papers():
    config = build_config(MINIMAL)
    assert config.models.encoder.name == "dinov2_vitl14"
    assert config.models.proposer.name == "sam2_hiera_l"
    assert config.method.model_dump() == {
        "preset": None,
        "points_per_side": 32,
        "min_predicted_iou": 0.4,
        "nms_iou": 0.5,
        "max_detections": 100,
        "context_ratio": 0.2,
        **dict.fromkeys(("diffusion", "prototypes", "prompts", "tiles")),
        "all_outputs": False,
        **dict.fromkeys(("refinement", "largest_component", "averaging", "iou_power")),
        "correspondence": None,
    }


def test_all_problems_at_once_by_dotted_path():
    data = {
        "images": "/data/images",
        "output": 3,
        "refs": {},
        "models": {
            "encoder": {"nam": "x", "image_size": "5"},
            "proposer": {"name": "sam2_hiera_x"},
        },
        "job": {"cpus_per_actor": 0},
        "merge": {"profiles": ["cocoo"]},
    }
    with pytest.raises(ConfigError) as caught:
        build_config(data, ["method.nms_iou=2", "job.actor=3", "nonsense"])
    text = "\n".join(caught.value.problems)
    for part in (
        "output: input should be a valid string (it is 3)",
        "refs: unknown key",
        "models.encoder.nam: unknown key; did you mean name?",
        "models.encoder.image_size: input should be a valid integer",
        "models.proposer.name: 'sam2_hiera_x' is not one of",
        "method.nms_iou: input should be less than or equal to 1",
        "job.actor: unknown key; did you mean actors?",
        "job.cpus_per_actor: input should be greater than 0",
        "merge.profiles.0:",
        "--set nonsense: write it as",
    ):
        assert part in text
    assert caught.value.exit_status == 2


MISPLACED = {
    "references.bank=x": "references.bank: unknown key here; did you mean bank at the top of the",
    "min_score=0.5": "min_score: unknown key here; did you mean merge.min_score?",
    "method.keep=true": "method.keep: unknown key here; did you mean columns.keep or ",
    "job.encoder=dinov2_vitb14": "job.encoder: unknown key here; did you mean models.encoder?",
    "job.colour=5": "job.colour: unknown key; known keys: ",
}


@pytest.mark.parametrize(("given", "problem"), MISPLACED.items(), ids=MISPLACED)
def test_a_key_in_a_wrong_place_is_told_where_it_belongs(given, problem):
    with pytest.raises(ConfigError) as caught:
        build_config(MINIMAL, [given])
    assert any(line.startswith(problem) for line in caught.value.problems)


WRONG = {
    "no source of classes": ({"bank": None}, "either references or bank"),
    "kept proposals that the classes choose": (
        {"proposals": {"keep": True}, "method": {"prompts": {}}},
        "Set method.prompts to null, or proposals.keep to false",
    ),
    "kept proposals without logits": (
        {"proposals": {"keep": True}, "method": {"averaging": {}}},
        "Set method.averaging to null, or proposals.keep to false",
    ),
    "kept proposals without patches": (
        {"proposals": {"keep": True}, "method": {"correspondence": {}}},
        "Set method.correspondence to null, or proposals.keep to false",
    ),
    "no overlap wanted": (
        {"method": {"refinement": {"min_iou": 0.0}}},
        "refinement.min_iou: .*greater",
    ),
    "no preset": ({"method": {"preset": "clen"}}, "method.preset: input should be 'clean'"),
    "a preset of another type": ({"method": {"preset": ["clean"]}}, "method.preset: input should"),
    "nothing left of a preset": (
        {"method": {"preset": "clean", "largest_component": None, "nms_iou": 0.5}},
        "method.preset: clean stands for .*delete them, or the preset",
    ),
    "embeddings of what is not kept": (
        {"proposals": {"embeddings": True}},
        "set proposals.keep to true",
    ),
    "embeddings beside a column of that name": (
        {"proposals": {"keep": True, "embeddings": True}, "columns": {"keep": ["embedding"]}},
        "columns of the name embedding; rename it",
    ),
    "no grid and no boxes": ({"proposals": {"grid": False}}, r"proposals.grid: false needs boxes"),
    "scores of boxes that the grid has not": (
        {"proposals": {"boxes": {"uri": "b.json", "score_power": 1.0}}},
        r"proposals.boxes.score_power: needs grid: false",
    ),
    "boxes that are kept": (
        {"proposals": {"boxes": "b.json", "keep": True}},
        r"proposals.keep: nothing is kept of boxes",
    ),
    "boxes and prompts": (
        {"proposals": {"boxes": "b.json"}, "method": {"prompts": {}}},
        "proposals.boxes and method.prompts exclude each other",
    ),
    "boxes and tiles": (
        {"proposals": {"boxes": "b.json"}, "method": {"tiles": {}}},
        "proposals.boxes and method.tiles exclude each other",
    ),
    "boxes without a place": ({"proposals": {"boxes": {}}}, "proposals.boxes.uri: is needed"),
    "boxes of nowhere": ({"proposals": {"boxes": ""}}, "proposals.boxes.uri: string should have"),
    "a list": ({"merge": {"profiles": {"parquet": {}}}}, "profiles: input should be a list"),
    "two sources": ({"references": {"annotations": "a"}}, "exactly one"),
    "true is not a number": ({"job": {"images_per_unit": True}}, "images_per_unit"),
    "patch": ({"models": {"encoder": {"image_size": 512}}}, "not a multiple of 14"),
    "as many places as channels": (
        {"models": {"encoder": {"name": "dinov2_vits14", "positional_debias": 384}}},
        "encoder.positional_debias: 384 of 384 channels leave nothing of a feature; take 383",
    ),
    "as many places as patches": (
        {"models": {"encoder": {"image_size": 70, "positional_debias": 25}}},
        "positional_debias: 25: features of 25 patches differ in 24 directions at most",
    ),
    "places of many sizes": (
        {"models": {"encoder": {"positional_debias": 5, "keep_aspect": True}}},
        "encoder.positional_debias: and keep_aspect exclude each other",
    ),
    "proportions of DINOv3": (
        {
            "models": {
                "encoder": {
                    "name": "dinov3_vits16",
                    "checkpoint": "c",
                    "image_size": 512,
                    "keep_aspect": True,
                }
            }
        },
        "encoder.keep_aspect: is for DINOv2",
    ),
    "compiled for every size": (
        {"models": {"compile": True, "encoder": {"keep_aspect": True}}},
        "models.compile: and encoder.keep_aspect exclude each other",
    ),
    "no places": (
        {"models": {"encoder": {"positional_debias": 0}}},
        "positional_debias: input should be greater than or equal to 1",
    ),
    "stride": ({"models": {"proposer": {"image_size": 1000}}}, "not a multiple of 32"),
    "own size without file": (
        {"models": {"encoder": {"architecture": {"embed_dim": 8, "depth": 1, "num_heads": 1}}}},
        "models.encoder.checkpoint: is needed",
    ),
    "missing in a block": ({"bank": None, "references": {}}, "references.annotations: is needed"),
    "nothing to merge into": ({"merge": {"profiles": []}}, "merge.profiles: name one or more"),
    "a profile twice": ({"merge": {"profiles": ["coco", "coco"]}}, "merge.profiles: .* each once"),
    "an empty path": ({"output": ""}, "output: string should have at least 1"),
    "a word or a bool": ({"models": {"compile": "x"}}, "models.compile: input should be 'cuda"),
}


@pytest.mark.parametrize(("change", "text"), WRONG.values(), ids=WRONG.keys())
def test_wrong_settings(change, text):
    with pytest.raises(ConfigError, match=text):
        build_config({**MINIMAL, **change})


def test_set_wins_and_reads_yaml_values():
    config = build_config(
        {**MINIMAL, "job": {"actors": 2}}, ["job.actors=auto", "merge.profiles=[coco]"]
    )
    assert config.job.actors == "auto"
    assert config.merge.profiles == ("coco",)


def test_local_paths_become_absolute_and_uris_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = build_config({"images": "photos", "output": "s3://bucket/run", "bank": "b"})
    assert config.images == str(tmp_path / "photos")
    assert config.output == "s3://bucket/run"


def test_unreadable_files(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="key: value"):
        load_config(str(tmp_path / "list.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(str(tmp_path / "bad.yaml"))


def test_no_secrets_in_the_record():
    config = build_config(
        {
            **MINIMAL,
            "images": "https://user:hunter2@host/x",
            "storage_options": {"s3": {"secret": "hunter2", "client_kwargs": {"token": "hunter2"}}},
        }
    )
    assert "hunter2" not in str(config.resolved())
    with pytest.raises(ConfigError) as caught:
        build_config({**MINIMAL, "storage_options": {"s3": "hunter2"}, "images": 5})
    assert "images" in str(caught.value)


def test_a_long_value_in_a_message_is_cut_after_its_password_was_removed():
    with pytest.raises(ConfigError) as caught:
        build_config({**MINIMAL, "images": ["https://user:" + "pw" * 50 + "@host/x"]})
    assert "pwpw" not in str(caught.value)
    assert "//host/x" in str(caught.value)
