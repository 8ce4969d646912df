"""Every stage of golden case a against the paper's own code, through the public functions.

The comparison and its tolerances are those of ``golden/compare.py``.
"""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from ntt_ray.bank.build import build_bank, crop_tensors, load_crops
from ntt_ray.bank.masked_mean import mask_at_patches
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.config import Architecture
from ntt_ray.images import resize_square
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.pooling import resize_matrix
from ntt_ray.method.suppression import inclusive_boxes, nms_order, ranking
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.inputs import normalize_imagenet, to_input
from ntt_ray.models.sam2.proposer import Sam2Proposer
from ntt_ray.references.dataset import load_references
from ntt_ray.settings import MethodSettings
from ntt_ray.storage import Storage
from tests.support.golden import GOLDEN, GOLDEN_MODELS

_spec = importlib.util.spec_from_file_location("golden_compare", GOLDEN.parent / "compare.py")
compare = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(compare)

META = json.loads((GOLDEN / "golden" / "meta.json").read_text())
TARGETS = {t["id"]: t for t in json.loads((GOLDEN / "targets.json").read_text())["images"]}
TOLERANCES = Namespace(
    allow_unmatched=0, min_mask_iou=0.99, score_tol=1e-3, box_tol=1.0, box_share=0.02,
    ignore_order=False,
)  # fmt: skip


def check_stages(name: str, candidate: dict[str, np.ndarray]) -> None:
    """Compare arrays with a golden file; every array given must be one that is there."""
    gold = np.load(GOLDEN / "golden" / name)
    unknown = set(candidate) - set(compare.base(set(gold.files)))
    assert not unknown, f"not in {name}: {unknown}"
    given = _Arrays(candidate)
    rows = compare.compare_npz(gold, given, name, 1.0)
    assert len(rows) == len(candidate)
    wrong = [f"{stage}: {text}" for stage, ok, text in rows if not ok]
    assert not wrong, "\n".join(wrong)


class _Arrays(dict):
    """Looks like an opened .npz file."""

    @property
    def files(self) -> list[str]:
        return list(self)


@pytest.fixture(scope="module")
def encoder() -> Dinov2Encoder:
    return Dinov2Encoder.load(
        GOLDEN / "weights" / "dino_nano.pth",
        name="dino_nano",
        image_size=112,
        architecture=Architecture(embed_dim=64, depth=2, num_heads=4),
    )


@pytest.fixture(scope="module")
def proposer() -> Sam2Proposer:
    return Sam2Proposer.load(
        GOLDEN / "weights" / "sam2_nano.pt",
        name="sam2_nano",
        image_size=256,
        points_per_side=16,
        config=GOLDEN / "weights" / "sam2_nano.yaml",
    )


@pytest.fixture(scope="module")
def references(golden_references):
    return load_references(str(golden_references), str(GOLDEN / "refs"), Storage())


@pytest.fixture(scope="module")
def bank(references, encoder) -> MemoryBank:
    crops = load_crops(references, Storage(), 0.2)
    return build_bank(references, crops, encoder, encoder_record={}, reference_digest="")


def test_references(references, encoder):
    crops = {c.reference.annotation_id: c for c in load_crops(references, Storage(), 0.2)}
    candidate = {}
    for item in META["references"]:
        key = item["key"]
        image, soft = crop_tensors(crops[item["ann_id"]], encoder.image_size)
        features = encoder.encode(image[None])[0]
        candidate |= {
            f"{key}.crop_image": image.numpy(),
            f"{key}.crop_mask": soft.numpy(),
            f"{key}.encoder_input": encoder.prepare(image[None])[0].numpy(),
            f"{key}.patch_feats": features.flatten(0, 1).numpy(),
            f"{key}.mask_at_patches": mask_at_patches(soft, (8, 8)).flatten().numpy(),
        }
    check_stages("refs.npz", candidate)


def test_memory(bank):
    assert [c.category_id for c in bank.classes] == META["category_ids_in_index_order"]
    means = bank.features.sum(dim=1) / bank.shots[:, None]
    check_stages(
        "memory.npz",
        {
            "instance_mean_feats": bank.features.numpy(),
            "class_prototypes": means.numpy(),
            "class_prototypes_normed": bank.prototypes().numpy(),
            "class_pixel_weighted_mean": bank.weighted_means().numpy(),
        },
    )


@pytest.mark.parametrize(
    "strips",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["run lengths", "strips"],
)
@pytest.mark.parametrize("image_id", TARGETS)
def test_target(image_id, strips, encoder, proposer, bank):
    image = np.asarray(Image.open(GOLDEN / "targets" / TARGETS[image_id]["file_name"]))[..., :3]
    size_hw = image.shape[:2]
    inputs = to_input([resize_square(image, 256)])
    features = encoder.encode(inputs)[0]
    sam = proposer.encode_images(inputs)
    everything, iou = proposer.predict(sam, -1.0)
    chosen = iou[:, 1:].argmax(dim=1) + 1
    logits = everything.logits
    moments = [logits.mean((1, 2)), logits.flatten(1).std(1), logits.amin((1, 2))]
    moments.append(logits.amax((1, 2)))

    labeler = Labeler(encoder, proposer, bank, MethodSettings())
    labeler.strips = strips
    (proposals,) = proposer.propose(inputs, 0.4)
    kept = labeler.match(features, proposals)
    boxes = inclusive_boxes(kept.proposals.logits > 0)
    after_nms = nms_order(boxes, kept.proposals.predicted_iou, kept.labels, 0.5)
    merged = labeler.merge(labeler.suppress(kept), size_hw)
    order = ranking(merged.scores, merged.candidates.proposals.index, 100)
    decay = merged.scores / merged.candidates.scores
    rows = torch.searchsorted(proposals.index, merged.candidates.proposals.index)
    upscale = resize_matrix(8, 64)
    at_mask_size = torch.einsum("yi,xj,ijc->yxc", upscale, upscale, features)
    best = labeler.best(features, proposals, size_hw)
    final_boxes = torch.tensor([d.bbox_xywh for d in best.detections(labeler.category_ids)])
    final_boxes[:, 2:] += final_boxes[:, :2] - 1  # inclusive corners, as the paper's code has them

    check_stages(
        f"target_{image_id}.npz",
        {
            "sam_input_u8": resize_square(image, 256),
            "sam_input": normalize_imagenet(inputs)[0].numpy(),
            "dino_input": encoder.prepare(inputs)[0].numpy(),
            "dino_patch_feats": features.flatten(0, 1).numpy(),
            "sam_image_embed": sam.embedding[0].numpy(),
            "sam_high_res_feats_0": sam.high_res_0[0].numpy(),
            "sam_high_res_feats_1": sam.high_res_1[0].numpy(),
            "points": proposer.points.numpy(),
            "pred_iou_all4": iou.numpy(),
            "chosen_output": chosen.numpy().astype(np.int8),
            "pred_iou": everything.predicted_iou.numpy(),
            "lr_mask": (logits > 0).numpy(),
            "lr_logits": logits.numpy(),
            "lr_logits_f16": logits.numpy(),
            "lr_logit_mean_std_min_max": torch.stack(moments, dim=1).numpy(),
            "kept": proposals.index.numpy().astype(np.int32),
            "feats_at_mask_res": at_mask_size.flatten(0, 1).numpy(),
            "object_feats": kept.features.numpy(),
            "similarity": labeler.similarity(kept.features).numpy(),
            "class_scores": kept.scores.numpy(),
            "labels": kept.labels.numpy(),
            "lr_boxes": boxes.numpy().astype(np.int32),
            "nms_kept": after_nms.numpy(),
            "merge_input": rows.numpy().astype(np.int32),
            "merge_area": merged.masks.areas.numpy(),
            "merge_ios": (1 - decay**2).numpy(),
            "merge_decay": decay.numpy(),
            "scores_before_merge": merged.candidates.scores.numpy(),
            "scores_after_merge": merged.scores.numpy(),
            "final_order": order.numpy().astype(np.int32),
            "final_scores": merged.scores[order].numpy(),
            "final_labels": merged.candidates.labels[order].numpy(),
            "final_boxes_xyxy": final_boxes.numpy(),
        },
    )


@pytest.mark.parametrize(
    ("name", "count"), [("results", 100), ("results_n10", 10), ("results_n3", 3)]
)
def test_results(name, count, encoder, proposer, bank):
    labeler = Labeler(encoder, proposer, bank, MethodSettings(max_detections=count))
    found = []
    for image_id, target in sorted(TARGETS.items()):
        image = np.asarray(Image.open(GOLDEN / "targets" / target["file_name"]).convert("RGB"))
        for d in labeler.label([image])[0]:
            x, y, width, height = d.bbox_xywh
            found.append(
                {
                    "image_id": image_id,
                    "category_id": d.category_id,
                    "score": d.score,
                    "bbox": [x, y, width - 1, height - 1],  # METHOD section 2: boxes
                    "segmentation": d.rle,
                }
            )
    gold = json.loads((GOLDEN / "golden" / f"{name}.json").read_text())
    ok, said = compare.compare_results(gold, found, TOLERANCES)
    assert ok, "\n".join(said)


def test_bf16_runs_and_is_close(encoder):
    image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    low = Dinov2Encoder.load(
        GOLDEN / "weights" / "dino_nano.safetensors",
        name="dino_nano",
        image_size=112,
        architecture=Architecture(**GOLDEN_MODELS["encoder"]["architecture"]),
        dtype=torch.bfloat16,
    )
    exact, rounded = encoder.encode(image), low.encode(image)
    assert rounded.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(exact, rounded, dim=-1)
    assert 0.99 < cosine.min() < 1
