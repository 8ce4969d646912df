"""Which settings a resumed run may change: every key of the config is on one side."""

import tarfile
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from ntt_ray.config import Config, build_config
from ntt_ray.errors import InputError
from ntt_ray.run.identity import Found, identity_of
from ntt_ray.run.prepare import check_images
from ntt_ray.run.proposal_shard import proposals_hash
from ntt_ray.run.record import Identity, differences
from ntt_ray.sources import archives
from ntt_ray.storage import Storage
from tests.support.golden import GOLDEN_MODELS

DATA = {
    "images": "/photos",
    "output": "/out",
    "references": {"annotations": "/refs.json"},
    "models": GOLDEN_MODELS,
}
# Another value of every setting that may change labels, and where the difference is named.
REFUSED = {
    "images": ("/other", "images"),
    "image_root": ("/other", "image_root"),
    "columns.image": ("jpg", "columns"),
    "columns.key": ("id", "columns"),
    "columns.keep": (["caption"], "columns"),
    "models.encoder.name": ("dino_pico", "models.encoder.name"),
    "models.encoder.image_size": (126, "models.encoder.image_size"),
    "models.encoder.architecture.num_heads": (2, "models.encoder.architecture.num_heads"),
    "models.encoder.architecture.depth": (3, "models.encoder.architecture.depth"),
    "models.encoder.architecture.embed_dim": (32, "models.encoder.architecture.embed_dim"),
    "models.encoder.architecture.patch_size": (16, "models.encoder.architecture.patch_size"),
    "models.encoder.positional_debias": (20, "models.encoder.positional_debias"),
    "models.encoder.keep_aspect": (True, "models.encoder.keep_aspect"),
    "models.proposer.name": ("sam2_pico", "models.proposer.name"),
    "models.proposer.image_size": (512, "models.proposer.image_size"),
    "models.precision": ("bf16", "models.precision"),
    "models.device": ("cuda", "models.device"),
    "models.compile": (True, "models.compile"),
    "decode.orientation": ("stored", "decode.orientation"),
    "decode.max_pixels": (1000, "decode.max_pixels"),
    "decode.sixteen_bit": ("range", "decode.sixteen_bit"),
    "decode.background": ([255, 255, 255], "decode.background"),
    "method.points_per_side": (8, "method.points_per_side"),
    "method.min_predicted_iou": (0.5, "method.min_predicted_iou"),
    "method.nms_iou": (0.6, "method.nms_iou"),
    "method.max_detections": (50, "method.max_detections"),
    "method.context_ratio": (0.1, "method.context_ratio"),
    "method.diffusion.form": ("normalised", "method.diffusion"),
    "method.diffusion.alpha": (0.2, "method.diffusion"),
    "method.diffusion.power": (1.0, "method.diffusion"),
    "method.diffusion.steps": (20, "method.diffusion"),
    "method.prototypes.per_class": (2, "method.prototypes"),
    "method.prototypes.temperature": (0.1, "method.prototypes"),
    "method.prototypes.seed": (34, "method.prototypes"),
    "method.prompts.min_similarity": (0.4, "method.prompts"),
    "method.tiles.side": (512, "method.tiles"),
    "method.tiles.overlap": (0.5, "method.tiles"),
    "method.largest_component.min_share": (0.5, "method.largest_component"),
    "method.iou_power": (0.25, "method.iou_power"),
    "method.averaging.min_iou": (0.7, "method.averaging"),
    "method.correspondence.power": (0.5, "method.correspondence"),
    "method.all_outputs": (True, "method.all_outputs"),
    "method.refinement.min_iou": (0.6, "method.refinement"),
    "proposals.keep": (True, "proposals"),
    "job.images_per_unit": (7, "job.images_per_unit"),
}
# Compared by the content of what they name, not by their words; so is all below `references`.
BY_CONTENT = {
    "bank",
    "models.encoder.checkpoint",
    "models.proposer.checkpoint",
    "models.proposer.config",
    "method.preset",
    "proposals.boxes.uri",
}
# What means something with boxes only.
BOXES = DATA | {"proposals": {"grid": False, "boxes": {"uri": "/boxes.json"}}}
REFUSED_OF_BOXES = {
    "proposals.grid": (True, "proposals.grid"),
    "proposals.boxes.per_image": (30, "proposals.boxes.per_image"),
    "proposals.boxes.prompt": ("centre", "proposals.boxes.prompt"),
    "proposals.boxes.score_power": (0.5, "proposals.boxes.score_power"),
}
KEPT = {"proposals.embeddings"}  # goes with another only: `test_how_proposals_are_kept`
# Where the work runs and what is made of the labels.
ACCEPTED = {
    "images_allow_local": True,
    "job.unit_mb": 64,
    "output": "/moved",
    "storage_options": {"s3": {"endpoint_url": "http://127.0.0.1:1"}},
    "models.mirror": "/mirror",
    "decode.timeout_s": 5.0,
    "proposals.max_iou": 0.9,  # means nothing where they are not kept
    "decode.memory_mb": 1000,
    "job.actors.min": 3,
    "job.actors.share": 0.5,
    "job.actors.max": 4,
    "job.accelerator": "L4",
    "job.gpus_per_actor": 0.5,
    "job.cpus_per_actor": 2.0,
    "job.image_timeout_s": 5.0,
    "job.patience_s": 5.0,
    "job.hang_s": 50.0,
    "job.max_failed_fraction": 0.5,
    "job.max_unreachable_fraction": 0.5,
    "job.stop_on_drift": True,
    "job.strict_versions": True,
    "merge.min_score": 0.7,
    "merge.profiles": ["coco"],
    "merge.images_per_file": 10,
    "merge.image_url": "/data/{file_name}",
    "merge.val_share": 0.2,
    "merge.split_seed": 1,
    "merge.classes": ["cat"],
    "merge.rename": {"cat": "Cat"},
    "merge.calibration": "/calibration.json",
    "ground_truth": "/truth.json",
    "evaluator": "faster-coco-eval",
}
DIGESTS = {"encoder": "e", "proposer": "p", "proposer_config": "c"}


def _made(data: dict[str, Any], **content: Any) -> dict[str, Any]:
    config = build_config(data)
    precision = config.models.precision.replace("auto", "fp32")
    device = config.models.device.replace("auto", "cpu")
    given = {"digests": DIGESTS, "manifest": b"m", "bank": "b", "boxes": None, **content}
    found = Found(given["bank"], given["digests"], precision, device, given["boxes"])
    return identity_of(config, given["manifest"], found).plain()


def _with(path: str, value: Any, base: dict[str, Any] = DATA) -> dict[str, Any]:
    def put(data: Any, keys: list[str]) -> Any:
        if not keys:
            return value
        return {**(data or {}), keys[0]: put((data or {}).get(keys[0]), keys[1:])}

    return put(base, path.split("."))


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))
        blocks = [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]
        yield from _leaves(blocks[0], f"{prefix}{name}.") if blocks else [prefix + name]


def test_every_setting_is_on_one_side():
    sides = [*REFUSED, *REFUSED_OF_BOXES, *BY_CONTENT, *ACCEPTED, *KEPT]
    leaves = [path for path in _leaves(Config) if not path.startswith("references.")]
    assert sorted(sides) == sorted(leaves)


@pytest.mark.parametrize("path", REFUSED)
def test_what_may_change_labels_is_refused(path):
    value, named = REFUSED[path]
    found = differences(_made(DATA), _made(_with(path, value)))
    assert [line.split(":")[0] for line in found] == [named]


@pytest.mark.parametrize("path", REFUSED_OF_BOXES)
def test_how_boxes_are_asked_changes_labels(path):
    value, named = REFUSED_OF_BOXES[path]
    before, after = _made(BOXES, boxes="d"), _made(_with(path, value, BOXES), boxes="d")
    assert [line.split(":")[0] for line in differences(before, after)] == [named]


def test_boxes_are_compared_by_their_file_and_not_by_its_name():
    elsewhere = _with("proposals.boxes.uri", "/moved.json", BOXES)
    assert differences(_made(BOXES, boxes="d"), _made(elsewhere, boxes="d")) == []
    found = differences(_made(BOXES, boxes="d"), _made(BOXES, boxes="e"))
    assert found == ["proposals.boxes.sha256: 'd' there, 'e' here"]
    assert [line.split(":")[0] for line in differences(_made(DATA), _made(BOXES, boxes="d"))] == [
        "proposals"
    ]


@pytest.mark.parametrize("path", ACCEPTED)
def test_what_cannot_is_accepted(path):
    assert differences(_made(DATA), _made(_with(path, ACCEPTED[path]))) == []


def test_how_proposals_are_kept():
    kept = {**DATA, "proposals": {"keep": True}}
    other = {**DATA, "proposals": {"keep": True, "max_iou": 0.9}}
    found = differences(_made(kept), _made(other))
    assert [line.split(":")[0] for line in found] == ["proposals.max_iou"]
    embedded = {**DATA, "proposals": {"keep": True, "embeddings": True}}
    found = differences(_made(kept), _made(embedded))
    assert [line.split(":")[0] for line in found] == ["proposals.embeddings"]
    hashes = [proposals_hash(Identity.model_validate(_made(data))) for data in (kept, embedded)]
    assert hashes[0] == hashes[1]


def test_a_preset_is_what_it_stands_for():
    by_hand = {"largest_component": {}, "nms_iou": 0.7}
    preset = _made({**DATA, "method": {"preset": "clean"}})
    assert preset == _made({**DATA, "method": by_hand})
    assert preset["method"]["largest_component"] == {"min_share": 1.0}
    assert "preset" not in preset["method"]


def test_nms_that_is_off_is_missing_and_differs():
    off = _made({**DATA, "method": {"nms_iou": None}})
    assert "nms_iou" not in off["method"]
    assert differences(_made(DATA), off) == ["method.nms_iou: 0.5 there, None here"]


def test_options_that_are_off_are_not_named():
    """So that runs begun before an option existed go on, and say the same of themselves."""
    assert set(_made(DATA)["method"]) == {
        "points_per_side",
        "min_predicted_iou",
        "nms_iou",
        "max_detections",
        "context_ratio",
    }
    assert "proposals" not in _made(DATA)
    encoder = _made(DATA)["models"]["encoder"]
    assert set(encoder) == {"name", "image_size", "checkpoint", "architecture"}


CONTENT = {
    "manifest": ({"manifest": b"other images"}, ["manifest"]),
    "references": ({"bank": "of other references"}, ["bank"]),
    "checkpoints": (
        {"digests": {"encoder": "E", "proposer": "P", "proposer_config": "C"}},
        ["models.encoder.checkpoint", "models.proposer.checkpoint", "models.proposer.config"],
    ),
}


@pytest.mark.parametrize("content", CONTENT)
def test_files_are_compared_by_what_is_in_them(content):
    changed, named = CONTENT[content]
    found = differences(_made(DATA), _made(DATA, **changed))
    assert [line.split(":")[0] for line in found] == named


def test_a_packed_tar_that_many_units_would_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL_BYTES", 0)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for number in range(archives.MOST_READS + 1):
            tar.addfile(tarfile.TarInfo(f"{number}.png"))
    data = DATA | {"images": str(tmp_path / "a.tar.gz"), "output": str(tmp_path / "out")}
    for per_unit, refused in ((1, True), (2, False)):
        config = build_config(data | {"job": {"images_per_unit": per_unit}})
        with pytest.raises(InputError, match="9 units") if refused else nullcontext():
            assert len(check_images(config, Storage()).sizes) == 5
