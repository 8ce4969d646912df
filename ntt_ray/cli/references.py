"""The commands that make a reference file: sample, from-boxes, convert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from ntt_ray import storage
from ntt_ray.cli.app import Verbose, app, say, start_logging
from ntt_ray.storage import Storage

group = typer.Typer(
    name="references",
    help="Make the reference file: draw it from a larger one, from boxes, from other formats.",
    no_args_is_help=True,
)
app.add_typer(group)

OutputFile = Annotated[
    str, typer.Option("--output", metavar="REFS.json", help="COCO file to write.")
]


class SampleProfile(StrEnum):
    """Rules of the draw."""

    paper = "paper"
    plain = "plain"


@group.command()
def sample(
    annotations: Annotated[
        str,
        typer.Option("--annotations", metavar="TRAIN.json", help="COCO file, masks or boxes."),
    ],
    shots: Annotated[int, typer.Option("--shots", min=1, help="References per class.")],
    output: OutputFile,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same draw.")] = 33,
    classes: Annotated[
        list[str] | None,
        typer.Option("--classes", metavar="A,B", help="Only these classes; repeatable."),
    ] = None,
    profile: Annotated[
        SampleProfile,
        typer.Option(
            "--profile",
            help="paper: at least 32 x 32 pixels, 10 from the border, one per class and image, "
            "the paper's own draw; plain: no such rules, for small data sets.",
        ),
    ] = SampleProfile.paper,
    verbose: Verbose = False,
) -> None:
    """Draw N references per class from a larger COCO file, ids kept.

    Example: ntt-ray references sample --annotations train.json --shots 10 --output refs.json
    """
    start_logging(verbose)
    from ntt_ray.references.dataset import read_json
    from ntt_ray.references.selection import sampled_coco

    store, source = Storage(), storage.absolute(annotations)
    coco = read_json(source, store)
    names = [name.strip() for text in classes or () for name in text.split(",") if name.strip()]
    sampled = sampled_coco(
        store.read_bytes(source),
        coco,
        classes=names or None,
        shots=shots,
        seed=seed,
        profile=profile.value,
    )
    _write(output, sampled, store)


def _write(output: str, coco: Mapping[str, Any], store: Storage) -> None:
    from ntt_ray.references.selection import coco_bytes

    store.publish_bytes(storage.absolute(output), coco_bytes(coco))
    counts = Counter(annotation["category_id"] for annotation in coco["annotations"])
    for category in coco["categories"]:
        say(f"  class {category['id']} {category['name']}: {counts[category['id']]} references")
    images, references = len(coco["images"]), len(coco["annotations"])
    say(f"wrote {storage.redact(output)}: {references} references in {images} images")
