"""Which tool an export comes from."""

import json

import pytest

from ntt_ray.errors import InputError
from ntt_ray.references.importers.guess import guess_format
from ntt_ray.storage import Storage

LABELME = json.dumps({"shapes": [], "imagePath": "a.jpg"})
TASKS = json.dumps([{"data": {"image": "a.jpg"}}])
COCO = json.dumps({"images": [], "annotations": [], "categories": []})
SUPERVISELY = json.dumps({"size": {"height": 1, "width": 1}, "objects": []})
DARWIN = json.dumps({"version": "2.0", "item": {"name": "a.jpg"}, "annotations": []})
FOUND = {
    "labelme": {"a.jpg": "", "a.json": LABELME},
    "cvat": {"annotations.xml": "<annotations/>", "images/a.jpg": ""},
    "yolo": {"data.yaml": "names: [a]", "images/a.jpg": "", "labels/a.txt": ""},
    "labelstudio": {"export.json": TASKS, "a.jpg": ""},
    "voc": {"JPEGImages/a.jpg": "", "SegmentationObject/a.png": "", "SegmentationClass/a.png": ""},
    "supervisely": {"meta.json": "{}", "x/img/a.jpg": "", "x/ann/a.jpg.json": SUPERVISELY},
    "darwin": {"images/a.jpg": "", "annotations/a.json": DARWIN},
    "folder": {"cat/a.jpg": "", "cat/a.png": "", "notes.json": "{not JSON"},
}
REFUSED = {
    "nothing": ({}, "there is no file in it"),
    "a COCO file": ({"refs.json": COCO, "a.jpg": ""}, "needs no conversion"),
    "two tools": ({"annotations.xml": "", "a.json": LABELME}, "looks like cvat and labelme; name"),
    "pictures alone": ({"a.jpg": "", "b.jpg": ""}, "no format that is known; name it with --from"),
}


def _write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


@pytest.mark.parametrize(("kind", "files"), FOUND.items(), ids=FOUND.keys())
def test_each_format_is_known(tmp_path, kind, files):
    assert guess_format(_write(tmp_path, files), Storage()) == kind


@pytest.mark.parametrize(("files", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_told(tmp_path, files, said):
    with pytest.raises(InputError, match=said):
        guess_format(_write(tmp_path, files), Storage())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=f"there is no folder {tmp_path}/gone"):
        guess_format(str(tmp_path / "gone"), Storage())
