"""A small bank with its references, and the page of it; names are hostile."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ntt_ray.bank.file import BankFile, Source
from ntt_ray.bank.report import BankExamples, write_bank_report
from ntt_ray.masks import encode_mask
from ntt_ray.records import ClassLabel, ImageEntry, Reference, ReferenceSet
from ntt_ray.storage import Storage
from tests.support.banks import file_of

HOSTILE = '<script>alert("x")</script> & co'
CLASSES = (ClassLabel(2, "nut"), ClassLabel(5, HOSTILE), ClassLabel(9, "cog"))


def _cloud(k: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    return (np.eye(8)[k] * 2 + 0.2 * rng.normal(size=(count, 8))).astype(np.float32)


def _bank(negatives=0) -> BankFile:
    """Six nuts of which the last is a hostile one, six hostile ones, one cog."""
    features = [_cloud(0, 6), _cloud(1, 7), _cloud(2, 1)]
    features[0][5] = features[1][6]
    features[1] = features[1][:6]
    return file_of(
        CLASSES,
        features,
        [_cloud(0, negatives), _cloud(0, 0), _cloud(0, 0)],
        encoder={"name": "vit", "image_size": 56, "checkpoint": "c" * 64},
        sources=(Source("b" * 64, "r" * 64, (("nut", 6), (HOSTILE, 6), ("cog", 1))),),
    )


def _reference(folder: Path, identity: int, category: int, image: int) -> Reference:
    path = folder / f"<i>{image}.png"
    if not path.exists():
        rng = np.random.default_rng(image)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    mask = np.zeros((40, 50), dtype=bool)
    mask[10:30, 12:40] = True
    entry = ImageEntry(image, path.name, str(path))
    return Reference(
        identity, category, entry, (40, 50), (12.0, 10.0, 28.0, 20.0), encode_mask(mask)
    )


def _examples(folder: Path, last_nuts=6, negatives=0) -> BankExamples:
    """References 1 and 2 are the same pixels of one image."""
    rows = [(i, 2) for i in range(last_nuts)] + [(i + 10, 5) for i in range(6)] + [(30, 9)]
    references = [_reference(folder, i + 1, category, max(1, i)) for i, category in rows]
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    wrong = tuple(_reference(folder, 90 + i, 2, 40 + i) for i in range(negatives))
    return BankExamples(
        ReferenceSet(CLASSES, tuple(references)),
        ReferenceSet(CLASSES[:1], wrong) if wrong else None,
        {r.annotation_id: colours for r in references[1:]},
        0.2,
    )


def _write(output: Path, bank, examples):
    report = write_bank_report(str(output), Storage(), bank, examples)
    assert json.loads((output / "bank.json").read_text()) == report
    return report, (output / "bank.html").read_text(encoding="utf-8")
