"""Bad and odd image files: each becomes a labelled row, or a failed one with a reason to read."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ntt_ray.config import build_config
from ntt_ray.errors import ImageError, OutputMismatchError
from ntt_ray.images import decode_image
from ntt_ray.masks import decode_rle
from ntt_ray.merge import job as merge_job
from ntt_ray.report import job as report_job
from ntt_ray.run.label import label
from ntt_ray.run.shard import existing_shards, iter_labels, read_shard
from ntt_ray.settings import DecodeSettings
from ntt_ray.storage import Storage, printable
from tests.support import odd_images
from tests.support.paths import ROOT

CORPUS = odd_images.corpus()
FILES = [file for file in CORPUS if file.data is not None]


def test_the_corpus_is_large():
    assert len(CORPUS) >= 60
    assert sum(file.reason is None for file in CORPUS) >= 60
    assert sum(file.reason is not None for file in CORPUS) >= 40


@pytest.mark.parametrize("orientation", ["stored", "upright"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: ascii(file.name)[:40])
def test_decoding(file, orientation):
    settings = DecodeSettings(orientation=orientation)
    if file.reason is not None:
        with pytest.raises(ImageError) as caught:
            decode_image(file.data, settings)
        assert file.reason in str(caught.value)
        assert len(str(caught.value)) < 300
        return
    image = decode_image(file.data, settings)
    if file.differs is None:
        assert image.shape == (*file.size_hw, 3)
        return
    expected = file.pixels(orientation)
    assert image.shape == expected.shape
    assert np.abs(image.astype(float) - expected).mean() <= file.differs


def test_bombs_cost_no_memory():
    code = (
        "from tests.support import odd_images\n"
        "from pathlib import Path\n"
        "from ntt_ray.errors import ImageError\n"
        "from ntt_ray.images import decode_image\n"
        "files = list(odd_images._bombs())\n"
        # not getrusage: there a process begins with the peak of the one that started it
        "status = Path('/proc/self/status')\n"
        "peak = lambda: int(status.read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "for file in files:\n"
        "    try:\n"
        "        decode_image(file.data)\n"
        "    except ImageError as error:\n"
        "        assert 'more than the limit' in str(error)\n"
        "    else:\n"
        "        raise AssertionError(file.name)\n"
        "print((peak() - before) // 1024)\n"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MB; the smallest of them has 268 million pixels


def _rows(output):
    store = Storage()
    return {
        labels.entry.file_name: labels
        for shard in sorted(existing_shards(output, store))
        for labels in iter_labels(read_shard(output, shard, store))
    }


def _label(golden_config, folder, *overrides):
    data = {**golden_config, "images": str(folder), "image_root": None}
    config = build_config(data, ["method.points_per_side=8", *overrides])
    label(config, lambda unit, done, total: None)
    _, counts = merge_job.merge(config)
    return config, counts


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_whole_corpus_through_the_job(golden_config, tmp_path):
    files = odd_images.write_corpus(tmp_path / "odd #[photos]")
    config, counts = _label(golden_config, tmp_path / "odd #[photos]", "job.images_per_unit=40")
    rows = _rows(config.output)
    assert set(rows) == {printable(file.name) for file in files}
    assert counts.images == len(files)
    assert counts.failed == sum(file.reason is not None for file in files)

    for file in files:
        row = rows[printable(file.name)]
        if file.reason is not None:
            assert row.status == "failed", file.name
            assert file.reason in row.error, file.name
            continue
        assert row.status in ("ok", "empty"), (file.name, row.error)
        upright_hw = file.size_hw[::-1] if file.turn >= 5 else file.size_hw
        assert (row.height, row.width) == upright_hw, file.name

    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(Path(config.output) / "annotations.json"))
        coco.loadRes(str(Path(config.output) / "results.json"))
    names = {image["file_name"] for image in coco.imgs.values()}
    assert names == {printable(file.name) for file in files if file.reason is None}
    assert len(coco.anns) == counts.annotations > 100
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        size = [image["height"], image["width"]]
        assert annotation["segmentation"]["size"] == size
        assert coco_mask.area(annotation["segmentation"]) == annotation["area"] > 0

    # one picture in many files gives one answer, whatever the file is called
    exact = [f for f in files if f.differs == 0 and not f.is_grey and f.turn == 1]
    answers = {json.dumps([d.rle for d in rows[printable(f.name)].detections]) for f in exact}
    assert len(exact) > 40
    assert len(answers) == 1

    report = report_job.report_run(config)
    assert report["images"]["failed"] == counts.failed
    assert (Path(config.output) / "report.html").read_bytes().decode("utf-8")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_upright_images_have_upright_masks(golden_config, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    turned = [file for file in CORPUS if file.name in ("turn-1.jpg", "turn-6.jpg", "turn-8.tif")]
    for file in turned:
        (photos / file.name).write_bytes(file.data)
    config, _ = _label(golden_config, photos, "decode.orientation=upright")
    for file in turned:
        row = _rows(config.output)[file.name]
        shape = file.pixels("upright").shape[:2]
        assert (row.height, row.width) == shape
        assert all(decode_rle(d.rle).shape == shape for d in row.detections)
    report_job.report_run(config)
    assert "has another size" not in (Path(config.output) / "report.html").read_text()
    with pytest.raises(
        OutputMismatchError, match=r"decode\.orientation: 'upright' there, 'stored' here"
    ):
        _label(golden_config, photos, "decode.orientation=stored")
