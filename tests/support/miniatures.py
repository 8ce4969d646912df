"""Miniatures of the benchmarks: a few drawn scenes in the exact layouts of the original data sets.

Every family of drawn objects stands for a class. Annotations hold what the original files hold:
COCO and LVIS have polygons, COCO also crowd regions as uncompressed RLE; LVIS names images by URL,
and one of the files of its minival has boxes only; VOC is XML that counts from 1, with difficult
objects and with parts that have boxes of their own; CD-FSOD has boxes only and classes that start
at 0, and its ArTaxOr texts as image ids.
"""

from __future__ import annotations

import atexit
import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from ntt_ray.demo.families import FAMILIES, NOVEL_FAMILIES
from ntt_ray.demo.scenes import write_references, write_scenes
from ntt_ray.masks import decode_rle
from ntt_ray.merge.outlines import mask_polygons
from ntt_ray.reproduce.cd_fsod import DATA_SETS
from ntt_ray.reproduce.coco import NOVEL_IDS
from ntt_ray.reproduce.isaid import CLASSES as ISAID_CLASSES
from ntt_ray.reproduce.voc import CLASSES as VOC_CLASSES
from ntt_ray.reproduce.voc import NOVEL

# the novel families first: the demo's weights do best on objects that are easy to tell apart
KINDS = (*NOVEL_FAMILIES, *(name for name in FAMILIES if name not in NOVEL_FAMILIES))
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = tuple(i for i in range(1, 91) if i not in GAPS)
SEED = 3

Coco = dict[str, Any]


@cache
def drawn(kinds: int, shots: int, images: int, seed: int = SEED) -> tuple[Path, Coco, Coco]:
    """A folder with `train` and `test` images, and their COCO files; classes 1, 2, ... by kind."""
    folder = Path(mkdtemp(prefix="miniature-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    names = KINDS[:kinds]
    train = write_references(folder / "train", families=names, shots=shots, seed=seed)
    test = write_scenes(folder / "test", families=names, images=images, seed=seed)
    return folder, json.loads(train.read_text()), json.loads(test.read_text())


def _dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _copy_images(source: Path, coco: Coco, target: Path, name: str) -> dict[int, str]:
    """Copy images; their new names by id, `name` is filled with the number."""
    target.mkdir(parents=True, exist_ok=True)
    names = {}
    for image in coco["images"]:
        names[image["id"]] = name % image["id"]
        data = (source / "images" / image["file_name"]).read_bytes()
        (target / names[image["id"]]).write_bytes(data)
    return names


def _polygons(annotation: Coco) -> Coco:
    """The annotation as COCO has it, with polygons of floats in lists."""
    polygons = mask_polygons(decode_rle(annotation["segmentation"]))
    return {**annotation, "segmentation": [p.ravel().tolist() for p in polygons]}


def _crowd(image: Coco, annotation_id: int, category_id: int) -> Coco:
    """A crowd region in the lower right corner: RLE that is not compressed, column by column."""
    height, width = image["height"], image["width"]
    region = np.zeros((height, width), dtype=np.uint8)
    region[-40:, -60:] = 1
    flat = region.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return {
        "id": annotation_id,
        "image_id": image["id"],
        "category_id": category_id,
        "segmentation": {"counts": counts, "size": [height, width]},
        "area": 2400,
        "bbox": [width - 60.0, height - 40.0, 60.0, 40.0],
        "iscrowd": 1,
    }


def write_coco(folder: Path, class_ids: Sequence[int] = NOVEL_IDS, images: int = 3) -> None:
    """COCO 2017; objects of these classes only, all 80 in the list of categories."""
    source, train, test = drawn(len(class_ids), 1, images)
    categories = [{"supercategory": "any", "id": i, "name": f"coco class {i}"} for i in COCO_IDS]
    for year, coco in (("train2017", train), ("val2017", test)):
        place = source / ("train" if year == "train2017" else "test")
        names = _copy_images(place, coco, folder / year, "%012d.jpg")
        annotations = [
            {**_polygons(a), "category_id": class_ids[a["category_id"] - 1]}
            for a in coco["annotations"]
        ]
        last = max(a["id"] for a in annotations)
        crowd = _crowd(coco["images"][0], 900100000000 + last, class_ids[0])
        content = {
            "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
            "licenses": [{"url": "http://example.org/", "id": 1, "name": "any"}],
            "images": [
                {
                    "license": 1,
                    "file_name": names[i["id"]],
                    "coco_url": f"http://images.cocodataset.org/{year}/{names[i['id']]}",
                    "height": i["height"],
                    "width": i["width"],
                    "date_captured": "2013-11-14 17:02:52",
                    "flickr_url": "http://example.org/1.jpg",
                    "id": i["id"],
                }
                for i in coco["images"]
            ],
            "annotations": [*annotations, crowd],
            "categories": categories,
        }
        _dump(folder / "annotations" / f"instances_{year}.json", content)


def write_lvis(folder: Path, images: int = 3, *, minival: str = "boxes") -> None:
    """LVIS v1: rare, common and frequent classes; the second one has a single training object.

    The validation file has an image of COCO's train2017 too, which is not in minival. With
    `minival` "boxes" minival's file has no masks, with "masks" it has, with "none" it is not there.
    """
    source, train, test = drawn(4, 2, images)
    categories = [
        {"id": 10 * n, "name": f"thing_{n}", "synset": f"thing.n.0{n}", "frequency": letter}
        | {"synonyms": [f"thing_{n}"], "def": "a thing", "image_count": 1, "instance_count": 1}
        for n, letter in enumerate("rccf", start=1)
    ]
    single = [a["id"] for a in train["annotations"] if a["category_id"] == 2][1:]
    train_names = _copy_images(source / "train", train, folder / "train2017", "%012d.jpg")
    test_names = _copy_images(source / "test", test, folder / "val2017", "%012d.jpg")

    def content(coco: Coco, year: str, names: dict[int, str]) -> Coco:
        return {
            "info": {"version": "v1"},
            "licenses": [],
            "images": [
                {"id": i["id"], "width": i["width"], "height": i["height"], "license": 1}
                | {"coco_url": f"http://images.cocodataset.org/{year}/{names[i['id']]}"}
                | {"neg_category_ids": [10], "not_exhaustive_category_ids": [40]}
                for i in coco["images"]
            ],
            "annotations": [
                {k: v for k, v in _polygons(a).items() if k != "iscrowd"}
                | {"category_id": 10 * a["category_id"]}
                for a in coco["annotations"]
            ],
            "categories": categories,
        }

    training = content(train, "train2017", train_names)
    first = training["images"][0]
    training["annotations"] = [a for a in training["annotations"] if a["id"] not in single]
    _dump(folder / "annotations" / "lvis_v1_train.json", training)
    validation = content(test, "val2017", test_names)
    if minival != "none":
        objects = validation["annotations"]
        if minival == "boxes":
            objects = [{k: v for k, v in a.items() if k != "segmentation"} for a in objects]
        small = {**validation, "annotations": objects}
        _dump(folder / "annotations" / "lvis_v1_minival_inserted_image_name.json", small)
    other = {**first, "id": 1000}
    objects = [
        {**a, "id": 1000 + a["id"], "image_id": 1000}
        for a in training["annotations"]
        if a["image_id"] == first["id"]
    ]
    validation["images"] = [other, *validation["images"]]
    validation["annotations"] = [*objects, *validation["annotations"]]
    _dump(folder / "annotations" / "lvis_v1_val.json", validation)


def write_voc(folder: Path, split: str = "split 1", images: int = 3) -> None:
    """VOCdevkit with VOC2007 and VOC2012; the training images are shared among the two."""
    source, train, test = drawn(len(NOVEL[split]), 1, images)
    devkit = folder / "VOCdevkit"
    half = len(train["images"]) // 2
    parts = [
        ("VOC2007", "trainval", "%06d", train, source / "train", slice(0, half)),
        ("VOC2012", "trainval", "2008_%06d", train, source / "train", slice(half, None)),
        ("VOC2007", "test", "%06d", {**test}, source / "test", slice(None)),
    ]
    for year, image_set, name, coco, place, rows in parts:
        shift = 100 if image_set == "test" else 0
        chosen = coco["images"][rows]
        stems = {i["id"]: name % (i["id"] + shift) for i in chosen}
        listed = devkit / year / "ImageSets" / "Main" / f"{image_set}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{stem}\n" for stem in stems.values()))
        for image in chosen:
            stem = stems[image["id"]]
            target = devkit / year / "JPEGImages" / f"{stem}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((place / "images" / image["file_name"]).read_bytes())
            own = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
            xml = _voc_xml(year, stem, image, own, NOVEL[split])
            path = devkit / year / "Annotations" / f"{stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(xml)


def _voc_xml(year: str, stem: str, image: Coco, objects: list[Coco], classes: Sequence[str]) -> str:
    """An annotation with the fields of VOC; where there are several objects, the last is difficult.

    In VOC, persons have parts with a name and a box of their own; here every object has one.
    """
    lines = [
        f"<annotation>\n\t<folder>{year}</folder>\n\t<filename>{escape(stem)}.jpg</filename>",
        f"\t<source><database>The {year} Database</database><image>flickr</image></source>",
        "\t<owner><flickrid>any</flickrid><name>?</name></owner>",
        f"\t<size><width>{image['width']}</width><height>{image['height']}</height>"
        "<depth>3</depth></size>\n\t<segmented>0</segmented>",
    ]
    for number, item in enumerate(objects, start=1):
        x, y, w, h = (round(v) for v in item["bbox"])
        name = classes[item["category_id"] - 1]
        assert name in VOC_CLASSES
        lines.append(
            f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>"
            f"<truncated>0</truncated><difficult>{int(number == len(objects) > 1)}</difficult>"
            f"\n\t\t<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox>\n\t\t<part><name>head</name><bndbox><xmin>1</xmin>"
            "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>\n\t</object>"
        )
    return "\n".join([*lines, "</annotation>"])


def write_isaid(folder: Path, images: int = 2) -> None:
    """iSAID in patches: COCO files beside the images, with pictures of the masks among them."""
    source, train, test = drawn(ISAID_CLASSES, 1, images)
    categories = [{"id": n, "name": f"Aerial_{n}"} for n in range(1, ISAID_CLASSES + 1)]
    for half, kind, coco in (("train", "train", train), ("val", "test", test)):
        place = folder / "iSAID_patches" / half
        names = _copy_images(source / kind, coco, place / "images", "P%04d_0_800_0_800.png")
        for name in names.values():
            stem = name.removesuffix(".png")
            (place / "images" / f"{stem}_instance_id_RGB.png").write_bytes(b"a picture of masks")
        content = {
            "images": [
                {"id": i["id"], "file_name": names[i["id"]], "ins_file_name": "any.png"}
                | {"seg_file_name": "any.png", "width": i["width"], "height": i["height"]}
                for i in coco["images"]
            ],
            "annotations": [_polygons(a) for a in coco["annotations"]],
            "categories": categories,
        }
        _dump(place / f"instancesonly_filtered_{half}.json", content)


def write_cd_fsod(folder: Path, part: str, images: int = 2) -> None:
    """One data set of CD-FSOD with one shot."""
    place, classes = DATA_SETS[part]
    source, train, test = drawn(classes, 1, images)
    textual = part == "ArTaxOr"
    inner = {"train": "train/new_train", "test": "test/new_test"} if part == "DIOR" else {}
    for kind, name, coco in (("train", "1_shot", train), ("test", "test", test)):
        target = folder / place / inner.get(kind, kind)
        names = _copy_images(source / kind, coco, target, "image_%04d.jpg")

        def identity(number: int, names: dict[int, str] = names) -> int | str:
            return names[number].removesuffix(".jpg") if textual else number - 1

        content = {
            "info": {"description": part},
            "images": [
                {**i, "id": identity(i["id"]), "file_name": names[i["id"]]} for i in coco["images"]
            ],
            "annotations": [
                {k: v for k, v in a.items() if k != "segmentation"}
                | {"id": a["id"] - 1, "image_id": identity(a["image_id"])}
                | {"category_id": a["category_id"] - 1, "segmentation": []}
                for a in coco["annotations"]
            ],
            "categories": [{"id": n, "name": f"{part} {n}"} for n in range(classes)],
        }
        _dump(folder / place / "annotations" / f"{name}.json", content)
