import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ntt_ray.errors import ConfigError
from ntt_ray.proposals.kept import ImageProposals
from ntt_ray.proposals.matching import Matcher
from ntt_ray.records import ImageEntry
from ntt_ray.settings import (
    AveragingSettings,
    CorrespondenceSettings,
    MethodSettings,
    PrototypeSettings,
)
from tests.support.kept_rows import four_rows
from tests.support.match_digests import SIDE, digests, noisy_bank, noisy_view
from tests.support.paths import ROOT

SIZE = SIDE, SIDE
OLD_PROCESSOR = {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"}


def test_another_processor_makes_the_same_bytes():
    """This one without its instruction sets; torch's own functions give other bits there."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.match_digests"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **OLD_PROCESSOR},
    )
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    here = json.loads(json.dumps(digests()))
    assert there["found"] == here
    assert len(set(here.values())) > 10
    assert there["capability"] == "DEFAULT"


def test_an_image_has_the_same_scores_whatever_classes_and_proposals_are_beside_it():
    """Of the classes that are left; a proposal alone is no rival of another one."""
    view, settings = noisy_view(3), MethodSettings(nms_iou=1.0, max_detections=1000)
    every = Matcher(noisy_bank(negatives=True), settings)
    fewer = Matcher(noisy_bank(negatives=True, classes=4), settings)
    for position in range(len(view)):
        alone = view.select(np.array([position]))
        (one,) = every.detections((alone,), SIZE)
        if one.category_id <= 4:
            assert fewer.detections((alone,), SIZE) == (one,)
    scores = {}
    for first in (0, 7, 31):
        part = view.select(np.arange(first, len(view)))
        values = every._suppressed(part)[1]
        for point, score in zip(every._suppressed(part)[0].points, values.scores.tolist()):
            assert scores.setdefault(int(point), score) == score


def test_rows_of_images():
    matcher = Matcher(_small_bank(), MethodSettings())
    rows = [matcher.labels(row) for row in four_rows()]
    assert [row.status for row in rows] == ["ok", "failed", "ok", "empty"]
    assert rows[0].notes == ("turned",)
    assert (rows[1].error, rows[1].failure, rows[1].height) == ("no file", "access", None)
    assert (rows[2].height, rows[2].width) == (20, 30)
    assert all(d.rle["size"] == [20, 30] for row in rows for d in row.detections)
    nothing = ImageProposals.kept(ImageEntry(9, "x", ""), (20, 30), ())
    assert matcher.labels(nothing).status == "empty"


@pytest.mark.parametrize("row", [0, 2], ids=["whole", "tiles"])
def test_detections_have_the_features_of_their_masks_where_they_are_asked_for(row):
    image = four_rows()[row]
    matcher = Matcher(_small_bank(), MethodSettings(), embeddings=True)
    labels, plain = matcher.labels(image), Matcher(_small_bank(), MethodSettings()).labels(image)
    assert labels == plain
    assert plain.embedding is None
    assert {d.embedding for d in plain.detections} == {None}
    assert labels.detections
    features = {
        iou: feature / np.float32(2**15)
        for view in image.views
        for iou, feature in zip(view.predicted_iou.tolist(), view.features, strict=True)
    }
    for detection in labels.detections:
        assert detection.embedding.dtype == np.float32
        np.testing.assert_array_equal(detection.embedding, features[detection.predicted_iou])
    whole = image.views[0].mean_feature / np.float32(2**15)
    np.testing.assert_array_equal(labels.embedding, whole)
    assert labels.embedding.dtype == np.float32


def test_images_that_failed_or_were_kept_before_have_no_embedding():
    matcher = Matcher(_small_bank(), MethodSettings(), embeddings=True)
    whole, failed, _, empty = four_rows()
    assert matcher.labels(failed).embedding is None
    assert matcher.labels(empty).embedding is not None
    old = replace(whole, views=(replace(whole.views[0], mean_feature=None),))
    assert matcher.labels(old).embedding is None


def _small_bank():
    from ntt_ray.bank.memory import MemoryBank
    from ntt_ray.records import ClassLabel

    means = [[(torch.eye(6)[k] + 0.3, 1.0)] for k in range(2)]
    labels = [ClassLabel(4, "a"), ClassLabel(7, "b")]
    return MemoryBank.from_means(labels, means, encoder={}, reference_digest="")


def test_only_proposals_above_the_threshold_count():
    view = noisy_view(4)
    bank, raised = noisy_bank(negatives=False), MethodSettings(min_predicted_iou=0.8)
    above = view.select(np.flatnonzero(view.predicted_iou > np.float32(0.8)))
    assert 0 < len(above) < len(view)
    found = Matcher(bank, raised).detections((view,), SIZE)
    assert found == Matcher(bank, MethodSettings()).detections((above,), SIZE)


def test_the_targets_of_a_bank_in_float64_are_those_of_float32():
    bank = noisy_bank(negatives=True)
    for own, other in zip(bank.targets(), bank.double().targets(), strict=True):
        assert other.dtype == torch.float64
        torch.testing.assert_close(own.double(), other, rtol=0, atol=1e-6)
    clusters = MethodSettings(prototypes=PrototypeSettings(per_class=2))
    exact, plain = (Matcher(bank, clusters, fixed=fixed)._prototypes for fixed in (True, False))
    torch.testing.assert_close(exact, plain.double(), rtol=0, atol=2**-15)


def test_masks_that_are_empty_at_the_images_size_suppress_but_are_no_detections():
    view = noisy_view(5, count=2)
    boxes = np.repeat(view.boxes_xyxy[:1], 2, axis=0)
    features = np.repeat(view.features[:1], 2, axis=0)
    areas, iou = view.areas.copy(), np.array([0.9, 0.8], dtype=np.float32)
    areas[0] = 0
    double = replace(view, boxes_xyxy=boxes, features=features, areas=areas, predicted_iou=iou)
    matcher = Matcher(noisy_bank(negatives=False), MethodSettings())
    assert matcher.detections((double,), SIZE) == ()
    assert len(matcher.detections((double.select(np.array([1])),), SIZE)) == 1


@pytest.mark.parametrize("fixed", [True, False])
def test_features_are_read_as_they_were_kept(fixed):
    view = noisy_view(6)
    if not fixed:
        view = replace(view, features=(view.features / np.float32(2**15)).astype(np.float32))
    found = Matcher(noisy_bank(negatives=False), MethodSettings(), fixed=fixed)
    exact = Matcher(noisy_bank(negatives=False), MethodSettings()).detections(
        (noisy_view(6),), SIZE
    )
    assert [d.rle for d in found.detections((view,), SIZE)] == [d.rle for d in exact]


def test_an_option_that_needs_logits_is_refused():
    with pytest.raises(ConfigError, match=r"method\.averaging: .*logits of masks"):
        Matcher(_small_bank(), MethodSettings(averaging=AveragingSettings()))
    with pytest.raises(ConfigError, match=r"method\.correspondence: .*patches of images"):
        Matcher(_small_bank(), MethodSettings(correspondence=CorrespondenceSettings()))
