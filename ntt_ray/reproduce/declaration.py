"""What a benchmark is, as frozen records; the benchmarks themselves are declared beside this.

A protocol has parts (splits, folds, data sets). A part knows how to read its data set's original
files into two COCO files. Published figures are fractions between 0 and 1, like ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ntt_ray.storage import Storage

SEED = 33  # the paper's


@dataclass(frozen=True)
class Needed:
    """A file that must be in the data folder.

    Attributes:
        places: where it may lie below the folder, the preferred one first.
        source: where to get it, for people.
    """

    places: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class DataSet:
    """What a part reads from its original layout.

    Attributes:
        training: COCO file that references are sampled from.
        training_root: folder of the training images.
        test: COCO file with the images to label and their ground truth.
        test_root: folder of the test images.
        given: whether the training file holds just the shots, so that nothing is sampled.
    """

    training: Mapping[str, Any]
    training_root: str
    test: Mapping[str, Any]
    test_root: str
    given: bool = False


@dataclass(frozen=True)
class Part:
    """One split, fold or data set. Parts that read the same files share `read`.

    Attributes:
        name: name of the part, as people choose it and pages show it.
        needed: the files that are read, for a number of shots.
        read: reads the part from the data folder, with a store and the number of shots; raises
            `InputError`.
        classes: names of the classes that take part; raises `InputError`.
    """

    name: str
    needed: Callable[[int], tuple[Needed, ...]]
    read: Callable[[str, Storage, int], DataSet]
    classes: Callable[[DataSet], tuple[str, ...]]


@dataclass(frozen=True)
class Figure:
    """A figure that is compared: its name and where it stands in the metrics."""

    name: str
    path: tuple[str, ...]

    def of(self, metrics: Mapping[str, Any]) -> float | None:
        """Its value; None where the metrics have none."""
        found: Any = metrics
        for key in self.path:
            found = (found or {}).get(key)
        return None if found is None else float(found)


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes:
        figure: its name.
        value: a fraction.
        shots: None for the mean over all shots.
        tolerance: a figure of ours so near to it counts as the same, see docs/protocols.md; ours
            to choose, nobody publishes it.
        seeds: how many samples of references are behind it; a figure of one sample and a mean over
            many may stand side by side.
        note: what else is known of it.
    """

    figure: str
    value: float
    shots: int | None
    tolerance: float
    seeds: int = 1
    note: str = ""


@dataclass(frozen=True)
class Protocol:
    """A benchmark.

    Attributes:
        name: name of the protocol on the command line.
        title: for people.
        images_from: where to get the images, for people.
        parts: what it consists of; published figures are means over all of them.
        shots: references per class that were published.
        figures: what is compared; the first one is what the benchmark is known by.
        published: what the paper says.
        references: what is annotated; SAM2 makes masks of boxes, and then boxes are judged.
        fill_short: classes with too few references use some twice, as the paper does for LVIS.
        class_maps: class mIoU is measured too.
        settings: settings of the run, where they differ from the defaults.
    """

    name: str
    title: str
    images_from: str
    parts: tuple[Part, ...]
    shots: tuple[int, ...]
    figures: tuple[Figure, ...]
    published: tuple[Published, ...] = ()
    references: Literal["masks", "boxes"] = "masks"
    fill_short: bool = False
    class_maps: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


BOX_AP, BOX_AP50 = Figure("nAP box", ("bbox", "AP")), Figure("nAP50 box", ("bbox", "AP50"))
MASK_AP = Figure("nAP mask", ("segm", "AP"))
