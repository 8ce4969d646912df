"""The figures of docs/quality.md are counted as it says."""

from dataclasses import replace

import numpy as np
import torch

from benchmarks.quality import MATCHING, PLAIN, Measured, Variant, compare, tables
from benchmarks.quality_scenes import (
    Example,
    Means,
    Scenes,
    class_labels,
    demo_scenes,
    means_of,
)
from ntt_ray.bank.patches import ReferencePatches
from ntt_ray.config import Architecture
from ntt_ray.demo.families import NOVEL_FAMILIES
from ntt_ray.masks import encode_mask, rle_bbox_xywh
from ntt_ray.method.tiling import make_labeler
from ntt_ray.models.aspect import AspectEncoder
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.records import ImageEntry, Reference
from ntt_ray.references.crops import ReferenceCrop
from tests.support.fakes import FakeEncoder, FakeProposer, make_proposals
from tests.support.golden import GOLDEN, GOLDEN_MODELS


def test_families_become_classes_and_the_others_none():
    annotations = [{"id": n, "image_id": 1, "category_id": n, "area": 1024.0} for n in (1, 2, 3, 4)]
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    scenes = Scenes({"images": [{"id": 1}], "annotations": annotations}, [picture] * 2)
    grouped = scenes.grouped([[3, 0], [1]])
    assert [a["category_id"] for a in grouped.truth["annotations"]] == [1, 2, 1]
    assert [c["id"] for c in grouped.truth["categories"]] == [1, 2]
    assert grouped.truth["categories"][0]["name"] == f"{NOVEL_FAMILIES[3]} or {NOVEL_FAMILIES[0]}"
    assert grouped.sizes() == {
        "images": 2,
        "images_without_objects": 1,
        "objects": 3,
        "small_objects": 0,  # 32 x 32 is the first that is not
    }


def _seed(plain, other, small):
    sizes = {"images": 2, "small_objects": small}
    figures = {PLAIN: {"speed": 1.0, **plain}, "other": {"speed": 2.0, **other}}
    rest = dict.fromkeys(("mask_ap50", "box_ap", "best_f1", "false_alarms", "alarmed_images"))
    rest |= dict.fromkeys(("points_asked", "views_skipped", "asked_again", "replaced"))
    return {"demo": {"sizes": sizes, "variants": {k: rest | v for k, v in figures.items()}}}


def test_differences_are_by_seed():
    seeds = [
        _seed({"mask_ap": ap, "mask_ap_small": 0.5}, {"mask_ap": ap + 0.1, "mask_ap_small": 0.5}, n)
        for ap, n in ((0.2, 10), (0.6, 11))
    ]
    text = "\n".join(tables(seeds))
    assert "10 to 11 small objects" in text
    assert "| other | 0.500 ± 0.283 | 0.500 ± 0.000 | 2.000 ± 0.000 |" in text
    assert "| other | +0.100 ± 0.000 | +0.000 ± 0.000 |" in text


def test_few_small_objects_have_no_column_and_one_seed_no_deviation():
    figures = {"mask_ap": 0.5, "mask_ap_small": 0.1}
    text = "\n".join(tables([_seed(figures, figures, 9)]))
    assert "AP small" not in text
    assert "±" not in text
    assert "| other | +0.000 |" in text


def test_backgrounds_are_what_no_mask_touches():
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, :18, 0] = 255  # the object, red; it reaches into a patch of the other colour
    image[:, 18:, 2] = 255
    mask = image[..., 0] > 0
    rle = encode_mask(mask)
    entry = ImageEntry(1, "drawn", "drawn")
    reference = Reference(1, 1, entry, (32, 32), rle_bbox_xywh(rle), rle)
    example = Example(0, ReferenceCrop(reference, image, mask), image, mask)
    covered = replace(example, taken=np.ones_like(mask))
    means = means_of([example, covered], FakeEncoder(), 32)
    for form, rows in means.outside.items():
        weights = [4.0, 4.0] if form == "crops" else [4.0, 1.0, 1.0, 1.0]
        assert [weight for _, weight in rows[0]] == weights
        for mean, weight in rows[0]:
            assert torch.equal(mean, torch.tensor([0, 0, 1, 0.1]) * (weight == 4))
    with_background, without = (means.bank([[0]], form) for form in ("images", None))
    assert with_background.negatives is not None
    assert without.patches is None
    patches = means.bank([[0]], patches=True).patches
    assert patches is not None
    # of four columns of patches the mask has two and a bit, by their samples
    assert patches.inside.tolist() == [[True, True, True, False] * 4] * 2
    assert without.negatives is None


def test_images_that_the_models_see_once_get_the_labels_that_they_get_alone(tmp_path):
    masks = torch.rand(24, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.7
    encoder = FakeEncoder()
    proposer = FakeProposer(make_proposals(masks, [0.4 + n / 50 for n in range(24)]))
    scenes = demo_scenes(tmp_path, 7, 2)
    groups = [[k] for k in range(len(NOVEL_FAMILIES))]
    rows = [[(features, 1.0) for features in torch.rand(5, 4)] for _ in groups]
    all_inside = [
        [ReferencePatches(torch.rand(3, 4).half(), torch.ones(3, dtype=torch.bool))] * len(own)
        for own in rows
    ]
    bank = Means(rows, {}, all_inside).bank(groups, patches=True)
    measured = [
        Measured(name, variant, make_labeler(encoder, proposer, bank, variant.settings))
        for name, variant in MATCHING.items()
    ]
    found = compare(measured, scenes, class_labels(groups))
    assert found["variants"][PLAIN]["speed"] == 1
    for own in measured:
        alone = Measured(own.name, own.variant, own.labeler)
        for image, picture in zip(scenes.truth["images"], scenes.pictures, strict=True):
            alone.add(image["id"], own.labeler.label([picture])[0], 0.0)
        assert own.results
        assert own.results == alone.results


def test_each_way_to_label_sees_its_own_encoder(tmp_path):
    """So that a row of the table is what a run with that setting gives, end to end."""
    encoders = {
        (k, aspect): (AspectEncoder if aspect else Dinov2Encoder).load(
            GOLDEN / "weights" / "dino_nano.pth",
            name="dino_nano",
            image_size=112,
            architecture=Architecture(**GOLDEN_MODELS["encoder"]["architecture"]),
            positional_debias=k,
        )
        for k, aspect in ((None, False), (5, False), (None, True))
    }
    masks = torch.rand(24, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.7
    proposer = FakeProposer(make_proposals(masks, [0.4 + n / 50 for n in range(24)]))
    scenes, groups = demo_scenes(tmp_path, 7, 2), [[k] for k in range(len(NOVEL_FAMILIES))]
    bank = Means([[(torch.rand(64), 1.0)] for _ in groups], {}).bank(groups)
    ways = (Variant(), Variant(debias=5), Variant(keep_aspect=True))
    variants = dict(zip((PLAIN, "without 5 of places", "in proportion"), ways, strict=True))
    measured = [
        Measured(
            name, variant, make_labeler(encoders[variant.encoder], proposer, bank, variant.settings)
        )
        for name, variant in variants.items()
    ]
    compare(measured, scenes, class_labels(groups))
    for own in measured:
        alone = Measured(own.name, own.variant, own.labeler)
        for image, picture in zip(scenes.truth["images"], scenes.pictures, strict=True):
            alone.add(image["id"], own.labeler.label([picture])[0], 0.0)
        assert own.results == alone.results
    assert measured[0].results not in (measured[1].results, measured[2].results)
