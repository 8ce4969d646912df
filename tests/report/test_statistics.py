"""The report counts what the merged file has: calibrated thresholds and chosen classes."""

from dataclasses import replace

from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.report.statistics import RunCounts, counts_to_json
from tests.support.run_files import make_labels

NOTED = ((), ("turned",), ("transparent", "turned"))


def test_thresholds_and_classes_of_the_merge_count():
    scores = (0.9, 0.7, 0.5, 0.3)
    images = [make_labels(number, scores) for number in range(1, 4)]
    ids = sorted({d.category_id for image in images for d in image.detections})
    classes = [ClassLabel(category_id, f"c{category_id}") for category_id in ids]
    for thresholds in (
        Thresholds(0.4),
        Thresholds(0.4, {ids[0]: 0.7}),
        Thresholds(0.4, {ids[0]: 0.7}, {category_id: category_id for category_id in ids[1:]}),
    ):
        counts = RunCounts.of_classes(classes, thresholds)
        for image in images:
            counts.add(image, None)
        found = counts_to_json(counts, classes, None)
        own = [d for image in images for d in image.detections]
        kept = [d for d in own if d.score >= thresholds.of_class(d.category_id)]
        assert found["detections"] == {"total": len(own), "kept": len(kept)}
        for row in found["classes"]:
            assert row["kept"] == sum(d.category_id == row["id"] for d in kept)
        assert found["class_scores"] == {f"c{i}": 0.7 for i in thresholds.by_category}
        left_out = [] if thresholds.categories is None else [f"c{ids[0]}"]
        assert found["classes_left_out"] == left_out


def test_images_are_counted_by_what_may_surprise():
    images = [replace(make_labels(number), notes=notes) for number, notes in enumerate(NOTED, 1)]
    classes = [ClassLabel(1, "a"), ClassLabel(2, "b")]
    counts = RunCounts.of_classes(classes, Thresholds(0.4))
    for image in images:
        counts.add(image, None)
    assert counts_to_json(counts, classes, None)["notes"] == {"transparent": 1, "turned": 2}
