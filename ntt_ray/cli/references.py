"""The commands that make a reference file: sample, from-boxes, convert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, get_args

import typer

from ntt_ray import storage
from ntt_ray.cli.app import ConfigPath, Overrides, Verbose, app, say, start_logging
from ntt_ray.cli.place import override, settings_of
from ntt_ray.coco_input import Category, CocoFile, read_coco
from ntt_ray.errors import InputError
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

group = typer.Typer(
    name="references",
    help="Make the reference file: of a sample of a larger one, of boxes, of other formats.",
    no_args_is_help=True,
)
app.add_typer(group)

OutputFile = Annotated[
    str, typer.Option("--output", metavar="REFS.json", help="COCO file to write.")
]
PAGE = "a page with a picture of each"
Format = Literal["folder", "labelme", "cvat", "yolo", "labelstudio", "voc", "supervisely", "darwin"]
FORMATS: tuple[Format, ...] = get_args(Format)
Objects = Literal["file", "value"]


@group.command()
def sample(
    annotations: Annotated[
        str,
        typer.Option("--annotations", metavar="TRAIN.json", help="COCO file with masks or boxes."),
    ],
    shots: Annotated[int, typer.Option("--shots", min=1, help="References per class.")],
    output: OutputFile,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="The same seed gives the same sample.")
    ] = 33,
    classes: Annotated[
        list[str] | None,
        typer.Option("--classes", metavar="A,B", help="Only these classes; repeatable."),
    ] = None,
    profile: Annotated[
        Literal["paper", "plain"],
        typer.Option(
            "--profile",
            help="paper: at least 32 x 32 pixels, 10 from the border, one per class and image, "
            "sampled as the paper's code does; plain: no such rules, for small data sets.",
        ),
    ] = "paper",
    image_root: Annotated[
        str | None,
        typer.Option(
            "--image-root",
            metavar="DIR",
            help=f"Folder of the images: {PAGE} goes beside REFS.json.",
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Sample N references per class from a larger COCO file; ids stay.

    Example: ntt-ray references sample --annotations train.json --shots 10 --output refs.json
    """
    start_logging(verbose)
    from ntt_ray.references.subset import sampled_coco

    store, source = Storage(), storage.absolute(annotations)
    _refuse_own_input(output, source)
    with Stage("reading the COCO file", at_once=False):
        coco = read_coco(source, store)
    sampled = sampled_coco(
        coco,
        classes=None if classes is None else _class_names(classes, coco),
        shots=shots,
        seed=seed,
        profile=profile,
    )
    _write(output, sampled, store)
    if image_root is not None:
        _write_page(output, sampled, storage.absolute(image_root), store)


@group.command()
def from_boxes(
    config: ConfigPath,
    output: OutputFile,
    annotations: Annotated[
        str | None,
        typer.Option(
            "--annotations", metavar="BOXES.json", help="COCO file; default: that of the config."
        ),
    ] = None,
    image_root: Annotated[
        str | None,
        typer.Option(
            "--image-root", metavar="DIR", help="Folder of the images; default: that of the config."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make masks that are there anew, of their boxes.")
    ] = False,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Make masks of boxes with the config's SAM2; shots and classes of the config apply.

    Writes a COCO file with a mask for each box and, beside it, a page with a picture of each. Where
    SAM2 finds no mask, the box itself becomes the mask and is marked. Masks that are there stay
    unless --replace is given.

    Example: ntt-ray references from-boxes my.yaml --annotations boxes.json --output refs.json
    """
    start_logging(verbose)
    given = list(overrides or ())
    if annotations is not None:
        given += [override("references.annotations", annotations), "bank=null"]
    if image_root is not None:
        given += [override("references.image_root", image_root)]
    settings = settings_of(config, given)
    if settings.references is not None:
        _refuse_own_input(output, settings.references.annotations)
    from ntt_ray.references.from_boxes import make_masks

    coco, page, sources = make_masks(settings, replace=replace)
    store = Storage(settings.storage_options)
    _write(output, coco, store)
    say(
        f"{sources['sam2'] + sources['doubtful']} masks by SAM2, {sources['doubtful']} of them "
        f"doubtful; {sources['box']} boxes kept as masks"
    )
    _publish_page(output, page, store)


@group.command()
def convert(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder or URI of the export.")],
    output: OutputFile,
    source: Annotated[
        Format | None,
        typer.Option(
            "--from",
            help="Default: what the files look like. "
            "folder: one folder per class, image and mask PNG of the same name; labelme: JSON "
            "files; cvat: an unpacked export 'CVAT for images 1.1'; yolo: data.yaml, images/ and "
            "labels/; labelstudio: a JSON export with its images; voc: JPEGImages with "
            "SegmentationObject and SegmentationClass; supervisely: img/ and ann/; darwin: V7's "
            "Darwin JSON 2.0 with its images.",
        ),
    ] = None,
    objects: Annotated[
        Objects,
        typer.Option(
            "--objects",
            help="Of --from folder: file: each mask PNG shows one object; value: each value or "
            "colour of a mask PNG but 0 is an object.",
        ),
    ] = "file",
    verbose: Verbose = False,
) -> None:
    """Make a COCO file of annotations in other formats; PATH is its image root.

    Beside it comes a page with a picture of each. Rectangles become boxes without masks: let
    from-boxes make masks of them.

    Example: ntt-ray references convert exported/ --output refs.json
    """
    start_logging(verbose)
    from ntt_ray.references.importers.cvat import read_cvat
    from ntt_ray.references.importers.darwin import read_darwin
    from ntt_ray.references.importers.folders import read_folders
    from ntt_ray.references.importers.guess import guess_format
    from ntt_ray.references.importers.label_studio import read_label_studio
    from ntt_ray.references.importers.labelme import read_labelme
    from ntt_ray.references.importers.shapes import AnnotatedImage, shapes_to_coco
    from ntt_ray.references.importers.supervisely import read_supervisely
    from ntt_ray.references.importers.voc import read_voc
    from ntt_ray.references.importers.yolo import read_yolo

    store, folder = Storage(), storage.absolute(path)
    if source is None:
        found = guess_format(folder, store)
        say(f"read as --from {found}")
    else:
        found = source
    if objects != "file" and found != "folder":
        raise InputError(f"--objects {objects}: is of --from folder, not of --from {found}")
    readers: Mapping[str, Callable[[str, Storage], list[AnnotatedImage]]] = {
        "folder": partial(read_folders, objects=objects),
        "labelme": read_labelme,
        "cvat": read_cvat,
        "yolo": read_yolo,
        "labelstudio": read_label_studio,
        "voc": read_voc,
        "supervisely": read_supervisely,
        "darwin": read_darwin,
    }
    with Stage("reading the export", at_once=False):
        coco = shapes_to_coco(readers[found](folder, store), found)
    _write(output, coco, store)
    _write_page(output, coco, folder, store)
    root = storage.redact(folder)
    say(f"in the config: references: {{annotations: {storage.redact(output)}, image_root: {root}}}")
    if boxes := sum("segmentation" not in a for a in coco["annotations"]):
        say(f"{boxes} of them are boxes without a mask: ntt-ray references from-boxes makes masks")


def _class_names(texts: Sequence[str], coco: CocoFile) -> list[str]:
    """Names divided by commas; a text that is a class's whole name, commas and all, is that."""
    categories = coco.items("categories", Category)
    known = [c.name for _, c in categories.sound()] if categories else []
    parts = [[text] if text in known else text.split(",") for text in texts]
    return [name.strip() for part in parts for name in part if name.strip()]


def _refuse_own_input(output: str, source: str) -> None:
    if storage.absolute(output) == storage.absolute(source):
        raise InputError(f"--output: {storage.redact(output)} is what is read; choose another name")


def _write_page(output: str, coco: Mapping[str, Any], image_root: str, store: Storage) -> None:
    from ntt_ray.references.page import render_file

    _publish_page(output, render_file(coco, image_root, store), store)


def _publish_page(output: str, page: str, store: Storage) -> None:
    page_file = output.removesuffix(".json") + ".html"
    store.publish_bytes(storage.absolute(page_file), page.encode("utf-8", "replace"))
    say(f"look at: {storage.redact(page_file)}")


def _write(output: str, coco: Mapping[str, Any], store: Storage) -> None:
    from ntt_ray.references.subset import coco_bytes

    store.publish_bytes(storage.absolute(output), coco_bytes(coco))
    counts = Counter(annotation["category_id"] for annotation in coco["annotations"])
    for category in coco["categories"]:
        say(f"  class {category['id']} {category['name']}: {counts[category['id']]} references")
    images, references = len(coco["images"]), len(coco["annotations"])
    say(f"wrote {storage.redact(output)}: {references} references in {images} images")
