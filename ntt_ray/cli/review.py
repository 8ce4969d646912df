"""How right the labels of a run are: draw a sample, take verdicts in, estimate, learn from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ntt_ray import storage
from ntt_ray.cli.app import (
    ConfigPath,
    Overrides,
    Verbose,
    app,
    console,
    name_cell,
    say,
    start,
)
from ntt_ray.errors import InputError
from ntt_ray.run.layout import ESTIMATE_FILE, PROMISE_FILE, REVIEW_PAGE

By = Literal["random", "outliers", "duplicates", "disagreement", "novelties"]


group = typer.Typer(
    name="review",
    help="Say how right the labels are: a reviewed sample, intervals, and new references.",
    no_args_is_help=True,
)
app.add_typer(group)


@group.command()
def draw(
    config: ConfigPath,
    labels: Annotated[int, typer.Option("--labels", min=1, help="How many labels to draw.")] = 400,
    images: Annotated[
        int,
        typer.Option(
            "--images", min=0, help="How many whole images, empty ones too: they give the recall."
        ),
    ] = 0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="The same seed draws the same, and more of it.")
    ] = 0,
    order: Annotated[
        By,
        typer.Option(
            "--order",
            help="random: for an estimate. Or what to look at, of which no estimate can be made: "
            "outliers look unlike their class; duplicates look alike in different images; "
            "disagreement: a second run has them otherwise; novelties: unlike the references, and "
            "like many others, which are worth annotating next (needs proposals.embeddings).",
        ),
    ] = "random",
    pool: Annotated[
        int,
        typer.Option("--pool", min=1, help="How many labels drawn at random an order is made of."),
    ] = 2000,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="OUTPUT", help="A second run of the images, for disagreement."
        ),
    ] = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Draw labels of a finished run at random and write a page to review them on.

    The labels are those that merge.min_score and merge.calibration keep. Beside the page come the
    same labels for CVAT and FiftyOne (COCO) and for Label Studio.

    Example: ntt-ray review draw birds.yaml --labels 400 --images 100
    """
    settings = start(config, overrides, verbose=verbose)
    from ntt_ray.review.job import draw_run, undrawn
    from ntt_ray.review.look_job import Wanted, look_run
    from ntt_ray.review.publish import publish_review

    if order == "random":
        if against is not None:
            raise InputError("--against: goes with --order disagreement")
        review = draw_run(settings, labels=labels, images=images, seed=seed, publish=publish_review)
        drawn = review.draw
        said = (
            f"drew {len(drawn.labels)} of {drawn.population} labels in {len(drawn.strata)} strata"
        )
    else:
        other = None if against is None else storage.absolute(against)
        wanted = Wanted(order, labels, images, seed, pool, other)
        review = look_run(settings, wanted, publish=publish_review)
        drawn = review.draw
        said = f"chose {len(drawn.labels)} of {min(pool, drawn.population)} labels by {order}"
    say(f"{said} and {len(drawn.whole_images)} of {drawn.images} images")
    if order != "random":
        say("no estimate is made of them, as they were not drawn by probability; references can be")
    if lost := undrawn(review):
        say(
            f"{lost} verdicts are on labels or images that this draw lacks, and count nowhere; a "
            "larger draw holds them again",
            style="yellow",
        )
    say(f"review: {storage.redact(review.uri(REVIEW_PAGE))}")
    say("then: ntt-ray review import CONFIG verdicts.json")


@group.command("import")
def import_(
    config: ConfigPath,
    path: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="verdicts.json of the page, or what was corrected: COCO of CVAT or FiftyOne, "
            "JSON of Label Studio.",
        ),
    ],
    reviewer: Annotated[
        str | None,
        typer.Option("--reviewer", help="Who reviewed; a file of the page says so itself."),
    ] = None,
    order: Annotated[
        By | None,
        typer.Option(
            "--order", help="Which draw a file is of, where it does not say so and several are."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Where a reviewer said something else before, this file counts."
        ),
    ] = False,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Take verdicts in; a second file of a reviewer adds to the first.

    Where it differs from the first it is refused, unless --replace is given: two people may have
    the same name. In files of other tools a label is right where a mask of its class overlaps it
    (IoU 0.75); an image that is not in the file was not reviewed.

    Example: ntt-ray review import birds.yaml verdicts.json
    """
    settings = start(config, overrides, verbose=verbose)
    from ntt_ray.review.importing import import_run

    name, verdicts, left_out = import_run(settings, path, reviewer, order=order, replace=replace)
    say(
        f"{verdicts.reviewer}: {len(verdicts.labels)} labels and {len(verdicts.images)} images "
        f"-> {name}"
    )
    if left_out:
        say(f"{left_out} verdicts are on nothing that was drawn, and count nowhere", style="yellow")


@group.command()
def estimate(config: ConfigPath, overrides: Overrides = None, verbose: Verbose = False) -> None:
    """Say how right the labels are, with 95 % intervals: review/estimate.json.

    Where a score can be promised from which at least 95 % are right (with 95 % confidence),
    review/thresholds.json has it for merge.calibration. The report shows the estimate.

    Example: ntt-ray review estimate birds.yaml
    """
    settings = start(config, overrides, verbose=verbose)
    from ntt_ray.review.job import estimate_run

    found = estimate_run(settings)
    console.print(_table(found))
    for line in _lines(found):
        say(line)
    say(f"wrote {storage.redact(storage.join(settings.output, ESTIMATE_FILE))}")
    if found["promise"]["score"] is not None:
        uri = storage.redact(storage.join(settings.output, PROMISE_FILE))
        say(f"wrote {uri}; merge with --set merge.calibration={uri}")


@group.command()
def references(
    config: ConfigPath,
    output: Annotated[
        str, typer.Option("--output", metavar="REFS.json", help="COCO file to write.")
    ],
    shots: Annotated[
        int, typer.Option("--shots", min=1, help="At most so many references of a class.")
    ] = 30,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Make references of what was reviewed: right and corrected labels, rejected as negatives.

    Negatives go into REFS-negatives.json.

    Example: ntt-ray review references birds.yaml --output reviewed.json
    """
    settings = start(config, overrides, verbose=verbose)
    from ntt_ray.review.references import references_run

    for line in references_run(settings, storage.absolute(output), shots):
        say(line)


def _table(found: dict[str, Any]) -> Table:
    table = Table("", "labels", "judged", "precision", "95 %")
    rows: list[tuple[Any, Any, Any]] = [("all labels", found["labels"], found["precision"])]
    rows += [(name_cell(c["name"]), c["labels"], c["precision"]) for c in found["classes"]]
    rows += [
        (f"score {b['from']:.3f} to {b['to']:.3f}", (b["precision"] or {}).get("labels"), own)
        for b in found["scores"]
        for own in [b["precision"]]
    ]
    for name, labels, own in rows:
        shown = "" if labels is None else f"{labels:,}"
        if own is None:
            table.add_row(name, shown, "0", "-", "-")
        else:
            ends = f"{own['low']:.3f} to {own['high']:.3f}"
            table.add_row(name, shown, str(own["judged"]), f"{own['share']:.3f}", ends)
    return table


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    if (recall := found["recall"]) is not None:
        lines.append(
            f"recall {recall['share']:.3f} ({recall['low']:.3f} to {recall['high']:.3f}) of "
            f"{recall['objects']} objects in {recall['images']} images"
        )
        if recall["few_images"]:
            lines.append(
                f"only {recall['images_with_objects']} of them have objects: the interval of the "
                "recall is not to be trusted below 20"
            )
    promise = found["promise"]
    if promise["score"] is None:
        lines.append(
            f"no promise: from no score are 95 % right for certain, by {promise['verdicts']} "
            "verdicts of the plain sample"
        )
    else:
        lines.append(
            f"from a score of {promise['score']:.4f} at least 95 % are right (with 95 % "
            f"confidence): {promise['labels']:,} of {found['labels']:,} labels"
        )
    for pair in found["agreement"]:
        kappa = "-" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
        names = " and ".join(pair["reviewers"])
        lines.append(f"{names} agree on {pair['share']:.0%} of {pair['labels']} (kappa {kappa})")
    more = [f"+-{w}: {n}" for w, n in found["more_verdicts"].items() if n]
    if more:
        lines.append(f"more verdicts that an interval is likely to need, {', '.join(more)}")
    return lines
