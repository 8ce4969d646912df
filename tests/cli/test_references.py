"""``ntt-ray references ...``: files in, a COCO file out."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ntt_ray.cli import app
from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import rle_area
from ntt_ray.references.dataset import check_images, load_references, parse_references
from ntt_ray.storage import Storage
from tests.support.commands import run_command
from tests.support.paths import ROOT

SAMPLER = ROOT / "tests" / "golden" / "sampler_public"
EXPECTED = json.loads((SAMPLER / "expected_public.json").read_text())
CLASSES = ",".join(EXPECTED["class_names"])


def references(*arguments) -> None:
    """The command in this process; errors come as exceptions."""
    app(["references", *map(str, arguments)], standalone_mode=False)


def sample(output, *options) -> dict:
    train = SAMPLER / "train_public.json"
    references("sample", "--annotations", train, "--output", output, *options)
    return json.loads(Path(output).read_text())


@pytest.mark.parametrize("drawn", EXPECTED["samples"], ids=lambda s: f"{s['seed']}-{s['n_shot']}")
def test_samples_equal_the_papers(tmp_path, drawn):
    options = ("--shots", drawn["n_shot"], "--seed", drawn["seed"], "--classes", CLASSES)
    if "by_category" not in drawn:
        with pytest.raises(ReferencesError, match=r"valid references for 60 shots"):
            sample(tmp_path / "refs.json", *options)
        assert not (tmp_path / "refs.json").exists()
        return
    found = sample(tmp_path / "refs.json", *options)
    pairs = {(a["category_id"], a["image_id"], a["id"]) for a in found["annotations"]}
    expected = {
        (int(category), entry["img_id"], entry["ann_ids"][0])
        for category, entries in drawn["by_category"].items()
        for entry in entries
    }
    assert pairs == expected
    assert len(found["annotations"]) == len(expected)
    assert {image["id"] for image in found["images"]} == {image for _, image, _ in expected}
    assert sorted(c["id"] for c in found["categories"]) == EXPECTED["category_ids_sorted"]
    chosen = parse_references(found, image_root="/data")
    assert len(chosen.references) == len(expected)


def test_sampling_again_gives_the_same_bytes_and_says_how(tmp_path):
    options = ("--shots", 3, "--seed", 5, "--classes", "dog, tv", "--classes", "bird")
    found = sample(tmp_path / "a.json", *options)
    sample(tmp_path / "b.json", *options)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    how = found["info"]["sampled"]
    assert how["classes"] == ["bird", "dog", "tv"]
    assert (how["shots"], how["seed"], how["profile"]) == (3, 5, "paper")
    assert len(how["source_sha256"]) == 64
    # what was chosen stands there as it stood in the large file
    train = json.loads((SAMPLER / "train_public.json").read_text())
    for block in ("images", "annotations", "categories"):
        assert all(item in train[block] for item in found[block])


def test_the_plain_profile_reaches_what_the_papers_rules_leave_out(tmp_path):
    options = ("--shots", 60, "--classes", "tv", "--profile", "plain")
    with pytest.raises(ReferencesError, match=r"'tv'.*5\d valid references for 60"):
        sample(tmp_path / "none.json", *options)
    found = sample(tmp_path / "refs.json", "--shots", 45, "--classes", "tv", "--profile", "plain")
    assert len(found["annotations"]) == 45


def test_a_page_shows_the_sample(tmp_path, golden_config):
    block = golden_config["references"]
    options = ("--shots", 1, "--profile", "plain", "--image-root", block["image_root"])
    files = ("--annotations", block["annotations"], "--output", tmp_path / "refs.json")
    references("sample", *files, *options)
    page = (tmp_path / "refs.html").read_text()
    assert page.count("data:image/jpeg") == 3
    assert "3 references" in page


def _named(*names) -> dict:
    """A COCO file with one object of each class."""
    box = {"bbox": [50, 50, 40, 40], "image_id": 1}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 200}],
        "annotations": [{**box, "id": i, "category_id": i} for i, _ in enumerate(names, start=1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }


def _sampled(folder, coco, *options, output="refs.json") -> list[str]:
    (folder / "train.json").write_text(json.dumps(coco))
    files = ("--annotations", folder / "train.json", "--output", folder / output)
    references("sample", *files, "--shots", 1, *options)
    return [c["name"] for c in json.loads((folder / output).read_text())["categories"]]


def test_class_names_may_hold_commas_and_any_letter(tmp_path):
    coco = _named("cup, paper", "Vögel 鳥", "nut")
    assert _sampled(tmp_path, coco, "--classes", "cup, paper") == ["cup, paper"]
    assert _sampled(tmp_path, coco, "--classes", "nut, Vögel 鳥") == ["Vögel 鳥", "nut"]
    with pytest.raises(ReferencesError, match="category 1: has no name"):
        _sampled(tmp_path, _named("half a character \ud800"))


def test_what_is_not_asked_for_need_not_be_sound(tmp_path):
    coco = _named("bolt", "nut")
    coco["annotations"][0] = {"id": 1, "category_id": 1, "bbox": []}
    coco["licenses"] = [{"name": "\ud800"}]  # half a character: no UTF-8, but it stands in JSON
    assert _sampled(tmp_path, coco, "--classes", "nut") == ["nut"]
    with pytest.raises(ReferencesError, match="annotation 1: its image None is not in the file"):
        _sampled(tmp_path, coco)


def test_the_file_that_is_read_is_not_written_over(tmp_path):
    with pytest.raises(InputError, match=r"--output: .*train.json is what is read"):
        _sampled(tmp_path, _named("nut"), output="train.json")
    assert json.loads((tmp_path / "train.json").read_text()) == _named("nut")


SMALL = {**_named("nut")["annotations"][0], "bbox": [0, 0, 9, 9]}
TOO_FEW = {
    "fewer shots": (_named("nut"), 2, "paper", "annotate more, or ask for 1 shots$"),
    "none": (_named("nut") | {"annotations": []}, 2, "paper", r"border.*Too few: annotate more$"),
    "other rules": (
        _named("nut")
        | {"annotations": [{**_named("nut")["annotations"][0], "bbox": [0, 0, 9, 9]}]},
        1,
        "paper",
        "annotate more; the profile 'plain' has no such rules and finds enough",
    ),
    "plain": (_named("nut"), 2, "plain", r"no crowd, a box of a pixel or more\. Too few: annotate"),
}


@pytest.mark.parametrize(("coco", "shots", "rules", "text"), TOO_FEW.values(), ids=TOO_FEW.keys())
def test_too_few_references_say_what_to_do(tmp_path, coco, shots, rules, text):
    with pytest.raises(ReferencesError, match=text):
        _sampled(tmp_path, coco, "--shots", shots, "--profile", rules)


def test_bad_arguments_end_with_status_2(tmp_path):
    train, output = str(SAMPLER / "train_public.json"), str(tmp_path / "x.json")
    done = run_command("references", "sample", "--annotations", train, "--output", output)
    assert done.returncode == 2
    options = ("--annotations", train, "--output", output, "--shots", "1", "--classes", "dogs")
    done = run_command("references", "sample", *options)
    assert done.returncode == 2
    assert "unknown class 'dogs'; did you mean 'dog'?" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ReferencesError, match="names no class"):
        sample(output, "--shots", "1", "--classes", " , ")


@pytest.fixture
def boxes(golden_config, tmp_path):
    """The golden references without their masks but one, and a config that names them."""
    block = golden_config["references"]
    coco = json.loads(Path(block["annotations"]).read_text())
    for annotation in coco["annotations"][1:]:
        del annotation["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    block["annotations"] = str(tmp_path / "boxes.json")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(golden_config))
    return coco


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_boxes_become_masks(boxes, golden_config, tmp_path, caplog):
    output = tmp_path / "refs.json"
    references("from-boxes", tmp_path / "config.yaml", "--output", output)
    made = json.loads(output.read_text())
    assert [a["id"] for a in made["annotations"]] == [a["id"] for a in boxes["annotations"]]
    assert made["annotations"][0] == boxes["annotations"][0]  # had a mask
    for annotation in made["annotations"][1:]:
        attributes = annotation["attributes"]
        assert attributes["mask_source"] in ("sam2", "box")
        assert ("mask_note" in attributes) == (attributes["mask_source"] == "box")
        kept = f"annotation {annotation['id']} in" in caplog.text
        assert kept == (attributes["mask_source"] == "box")
        assert annotation["area"] > 0
    root = golden_config["references"]["image_root"]
    assert len(parse_references(made, image_root=root).references) == len(boxes["annotations"])
    page = output.with_suffix(".html").read_text()
    assert page.count("<figure>") == len(boxes["annotations"])
    assert "mask was given: 1" in page
    with pytest.raises(InputError, match="is what is read"):
        references("from-boxes", tmp_path / "config.yaml", "--output", tmp_path / "boxes.json")
    # again, with the files named on the command line: the same bytes
    other = tmp_path / "other" / "refs.json"
    named = ("--annotations", tmp_path / "boxes.json", "--image-root", root)
    references("from-boxes", tmp_path / "config.yaml", *named, "--output", other)
    assert other.read_bytes() == output.read_bytes()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_boxes_in_bad_images_are_all_named(boxes, golden_config, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    first, second, *others = sorted({a["image_id"] for a in boxes["annotations"]})
    names = {image["id"]: image["file_name"] for image in boxes["images"]}
    (folder / names[first]).write_text("no image")
    Image.new("RGB", (9, 9)).save(folder / names[second])
    with pytest.raises(ReferencesError) as caught:
        references(
            "from-boxes", tmp_path / "config.yaml", "--image-root", folder,
            "--annotations", tmp_path / "boxes.json", "--output", tmp_path / "refs.json",
        )  # fmt: skip
    text = str(caught.value)
    assert f"{names[first]}: not an image" in text
    assert f"{names[second]}: is 9 x 9 pixels, but the reference file says" in text
    assert all(f"{names[other]}: there is no file" in text for other in others)
    assert not (tmp_path / "refs.json").exists()


def test_boxes_outside_their_image_are_refused(boxes, tmp_path):
    boxes["annotations"][1]["bbox"] = [5000, 5, 10, 10]
    boxes["annotations"][2]["bbox"] = [5, 5, 0.5, 10]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    done = run_command(
        "references", "from-boxes", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "x")
    )
    assert done.returncode == 2
    assert "lies outside its image" in done.stderr
    assert "is too tiny" in done.stderr


ROOTS = {"that of the config": ([], None), "one of their own": (["--image-root", "/own"], "/own")}


@pytest.mark.parametrize(("words", "root"), ROOTS.values(), ids=ROOTS.keys())
def test_other_boxes_keep_the_image_root(boxes, golden_config, tmp_path, monkeypatch, words, root):
    asked = []

    def make_masks(settings, **_):
        asked.append(settings.references)
        raise InputError("enough")

    monkeypatch.setattr("ntt_ray.references.from_boxes.make_masks", make_masks)
    with pytest.raises(InputError, match="enough"):
        references(
            "from-boxes", tmp_path / "config.yaml", "--annotations", "/other.json",
            "--output", tmp_path / "refs.json", *words,
        )  # fmt: skip
    assert asked[0].annotations == "/other.json"
    assert asked[0].image_root == (root or golden_config["references"]["image_root"])


def draw_folder(folder: Path) -> None:
    for name in ("bolt", "nut"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (80, 60), (90, 80, 70)).save(folder / name / "1.jpg")
        mask = Image.new("L", (80, 60))
        mask.paste(255, (20, 20, 50, 40))
        mask.save(folder / name / "1.png")


def draw_labelme(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (80, 60)).save(folder / "a.png")
    corners = [[20.0, 20.0], [50.0, 20.0], [50.0, 40.0], [20.0, 40.0]]
    shapes = [
        {"label": "bolt", "points": corners, "group_id": None, "shape_type": "polygon"},
        {"label": "nut", "points": corners, "group_id": None, "shape_type": "polygon"},
    ]
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 60, "imageWidth": 80}
    (folder / "a.json").write_text(json.dumps(content))


def draw_cvat(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (80, 60)).save(folder / "images" / "a.png")
    points = 'points="20,20;50,20;50,40;20,40"'
    shapes = "".join(f'<polygon label="{name}" {points}></polygon>' for name in ("bolt", "nut"))
    image = f'<image id="0" name="a.png" width="80" height="60">{shapes}</image>'
    (folder / "annotations.xml").write_text(f"<annotations>{image}</annotations>")


DRAWN = {"folder": draw_folder, "labelme": draw_labelme, "cvat": draw_cvat}


@pytest.mark.parametrize(("source", "draw"), DRAWN.items(), ids=DRAWN.keys())
def test_conversions_are_references(tmp_path, source, draw):
    draw(tmp_path / "export")
    output = tmp_path / "refs.json"
    references("convert", tmp_path / "export", "--from", source, "--output", output)
    guessed = tmp_path / "guessed.json"
    references("convert", tmp_path / "export", "--output", guessed)
    assert guessed.read_bytes() == output.read_bytes()
    found = load_references(str(output), str(tmp_path / "export"), Storage())
    assert [label.name for label in found.classes] == ["bolt", "nut"]
    assert [r.bbox_xywh for r in found.references] == [(20, 20, 30, 20)] * 2
    assert all(rle_area(r.rle) == 600 for r in found.references)
    check_images(found, Storage(), 0.2)
    assert (tmp_path / "refs.html").read_text().count("data:image/jpeg") == 2


def test_converted_boxes_go_to_from_boxes(tmp_path):
    draw_labelme(tmp_path / "export")
    path = tmp_path / "export" / "a.json"
    content = json.loads(path.read_text())
    content["shapes"][0].update(shape_type="rectangle", points=[[20, 20], [50, 40]])
    path.write_text(json.dumps(content))
    output = tmp_path / "refs.json"
    options = ("--from", "labelme", "--output", str(output))
    done = run_command("references", "convert", str(tmp_path / "export"), *options)
    assert done.returncode == 0, done.stderr
    assert "1 of them are boxes without a mask" in done.stderr
    with pytest.raises(ReferencesError, match="from-boxes"):
        load_references(str(output), str(tmp_path / "export"), Storage())


def test_what_cannot_be_converted_ends_with_status_2(tmp_path):
    output = str(tmp_path / "refs.json")
    for source in DRAWN:
        options = ("--from", source, "--output", output)
        done = run_command("references", "convert", str(tmp_path), *options)
        assert done.returncode == 2, source
        assert "Traceback" not in done.stderr
    assert run_command("references", "convert", str(tmp_path), "--from", "voc").returncode == 2
    values = ("--from", "voc", "--objects", "value", "--output", output)
    done = run_command("references", "convert", str(tmp_path), *values)
    assert (done.returncode, "is of --from folder" in done.stderr) == (2, True)
