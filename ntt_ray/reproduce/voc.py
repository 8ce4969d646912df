"""Pascal VOC few-shot: references from VOC 2007 and 2012 trainval, VOC 2007 test labelled.

nAP50 here is COCO's average precision at IoU 0.5 (101 recalls, boxes) over the novel classes.
Objects marked as difficult are neither references nor misses nor errors: they become crowd regions,
which is how COCO says that. Written here because the converters we found bring a framework along;
the format is an XML of a few fields.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from xml.etree import ElementTree

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.references.importers.voc import CLASSES
from ntt_ray.reproduce.coco_files import find_needed, tidied
from ntt_ray.reproduce.declaration import BOX_AP50, DataSet, Needed, Part, Protocol, Published
from ntt_ray.storage import Storage

NOVEL = {
    "split 1": ("bird", "bus", "cow", "motorbike", "sofa"),
    "split 2": ("aeroplane", "bottle", "cow", "horse", "sofa"),
    "split 3": ("boat", "cat", "motorbike", "sheep", "sofa"),
}
READ_THREADS = 8
DEVKITS = ("VOCdevkit/", "")
_SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
TRAINING, TEST = (("2007", "trainval"), ("2012", "trainval")), (("2007", "test"),)
ARCHIVES = {  # year and image set -> where they are published
    ("2007", "trainval"): f"{_SITE}/voc2007/VOCtrainval_06-Nov-2007.tar",
    ("2012", "trainval"): f"{_SITE}/voc2012/VOCtrainval_11-May-2012.tar",
    ("2007", "test"): f"{_SITE}/voc2007/VOCtest_06-Nov-2007.tar",
}


def voc_coco(devkit: str, sets: tuple[tuple[str, str], ...], store: Storage) -> dict[str, Any]:
    """Image sets of a VOCdevkit as one COCO file of boxes; file names lie below the devkit.

    Args:
        devkit: the folder with ``VOC2007`` and ``VOC2012``.
        sets: year and image set of each.
        store: access to files.

    Raises:
        InputError: files are missing or are not VOC's.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for year, image_set in sets:
        listed = storage.join(devkit, f"VOC{year}/ImageSets/Main/{image_set}.txt")
        names = _read_text(listed, store).split()
        with ThreadPoolExecutor(READ_THREADS) as pool:
            found = pool.map(partial(_read_xml, devkit, year, store=store), names)
            for name, root in zip(names, found, strict=True):
                image = _image(root, year, name, len(images) + 1)
                images.append(image)
                annotations += _objects(root, image, len(annotations) + 1)
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _read_xml(devkit: str, year: str, name: str, *, store: Storage) -> ElementTree.Element:
    uri = storage.join(devkit, f"VOC{year}/Annotations/{name}.xml")
    text = _read_text(uri, store)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{storage.redact(uri)}: refused, VOC has no document types and entities")
    try:
        return ElementTree.fromstring(text)  # noqa: S314
    except ElementTree.ParseError as error:
        raise InputError(f"{storage.redact(uri)}: not XML ({error})") from None


def _read_text(uri: str, store: Storage) -> str:
    try:
        return store.read_bytes(uri).decode("utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{storage.redact(uri)}: no such file, though an image set names it; unpack the "
            "archives of VOC 2007 and 2012 again"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{storage.redact(uri)}: not UTF-8 ({error})") from None


def _image(root: ElementTree.Element, year: str, name: str, number: int) -> dict[str, Any]:
    width, height = (int(_number(root, f"size/{side}", name)) for side in ("width", "height"))
    file_name = f"VOC{year}/JPEGImages/{name}.jpg"
    return {"id": number, "file_name": file_name, "width": width, "height": height}


def _objects(
    root: ElementTree.Element, image: dict[str, Any], first_id: int
) -> list[dict[str, Any]]:
    """Boxes of an image, as the converter behind the published figures writes them.

    VOC counts pixels from 1, and includes the last one: that one is missing there, so boxes are a
    pixel less wide and high. Difficult objects come after all others of their image, as crowds.
    """
    found: list[dict[str, Any]] = []
    for item in sorted(root.iter("object"), key=_is_difficult):
        label = item.findtext("name", "")
        if label not in CLASSES:
            raise InputError(f"{image['file_name']}: {label!r} is no class of Pascal VOC")
        x1, y1, x2, y2 = (
            _number(item, f"bndbox/{key}", image["file_name"])
            for key in ("xmin", "ymin", "xmax", "ymax")
        )
        box = [x1 - 1, y1 - 1, x2 - x1, y2 - y1]
        found.append(
            {
                "id": first_id + len(found),
                "image_id": image["id"],
                "category_id": CLASSES.index(label) + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(_is_difficult(item)),
            }
        )
    return found


def _is_difficult(item: ElementTree.Element) -> bool:
    return item.findtext("difficult", "0").strip() == "1"


def _number(element: ElementTree.Element, path: str, name: str) -> float:
    text = element.findtext(path, "")
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name}: its {path} is {text!r}, not a number") from None


def _needed(_shots: int) -> tuple[Needed, ...]:
    return tuple(
        Needed(
            tuple(f"{devkit}VOC{year}/ImageSets/Main/{image_set}.txt" for devkit in DEVKITS),
            ARCHIVES[year, image_set],
        )
        for year, image_set in (*TRAINING, *TEST)
    )


def _read(data: str, store: Storage, _shots: int) -> DataSet:
    listed = find_needed(data, _needed(0)[-1], store) or ""
    devkit = listed.rpartition("/VOC2007/")[0] or data
    training, test = (voc_coco(devkit, sets, store) for sets in (TRAINING, TEST))
    cut = partial(tidied, boxes_only=True)
    return DataSet(cut(training), devkit, cut(test), devkit)


def _classes(_data: DataSet, *, novel: tuple[str, ...]) -> tuple[str, ...]:
    return novel


VOC = Protocol(
    name="voc",
    title="Pascal VOC few-shot, three splits",
    images_from=" and ".join(ARCHIVES.values()),
    parts=tuple(
        Part(name, _needed, _read, partial(_classes, novel=novel)) for name, novel in NOVEL.items()
    ),
    shots=(1, 2, 3, 5, 10),
    figures=(BOX_AP50,),
    published=(Published("nAP50 box", 0.712, None, 0.02, note="mean over splits and shots"),),
    references="boxes",
)
