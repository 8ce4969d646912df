import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from ntt_ray.errors import GivenBackError, LabelError, SickDeviceError
from ntt_ray.method import detections
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.tiling import make_labeler
from ntt_ray.records import NOTES, FetchedImage, ImageEntry
from ntt_ray.run import unit as unit_module
from ntt_ray.run.journal import UnitJournal
from ntt_ray.run.layout import journal_uri
from ntt_ray.run.unit import UnitLabeler
from ntt_ray.settings import MethodSettings, TileSettings
from ntt_ray.storage import Storage
from tests.support.fakes import BANK, FakeEncoder, FakeProposer, make_proposals


def _png(colour=(255, 0, 0), size=(40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def _odd_png(samples: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "PNG", **options)
    return stream.getvalue()


def _images(*data: bytes | None) -> list[FetchedImage]:
    return [
        FetchedImage(
            ImageEntry(i, f"{i}.png", f"/x/{i}.png"),
            item,
            None if item is not None else "there is no such file",
        )
        for i, item in enumerate(data, start=1)
    ]


def _labeler() -> Labeler:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[4:20, 4:20] = True
    return Labeler(FakeEncoder(), FakeProposer(make_proposals(mask[None], [0.9])), BANK)


def _units(tmp_path, labeler=None, **options) -> UnitLabeler:
    return UnitLabeler(labeler or _labeler(), str(tmp_path), "run", Storage(), **options)


MIXED = _images(_png(), b"text", None, _png((0, 255, 0), (31, 17)), b"", _png((0, 0, 255)))


@pytest.mark.parametrize("images_per_step", [1, 2, 4, 16])
@pytest.mark.parametrize(
    "journal_step",
    [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(32, marks=pytest.mark.slow)],
)
def test_every_image_has_its_row_whatever_the_steps(
    tmp_path, monkeypatch, images_per_step, journal_step
):
    monkeypatch.setattr(unit_module, "JOURNAL_STEP", journal_step)
    options = {"images_per_step": images_per_step, "decoders": 3}
    rows = _units(tmp_path, **options).label(0, MIXED).rows
    assert [row.entry for row in rows] == [image.entry for image in MIXED]
    assert [row.status for row in rows] == ["ok", "failed", "failed", "ok", "failed", "ok"]
    assert [row.failure for row in rows if row.error] == ["content", "access", "content"]
    assert [row.error for row in rows if row.error] == [
        "not an image but a text",
        "there is no such file",
        "the file is empty",
    ]
    assert (rows[3].height, rows[3].width) == (17, 31)
    assert rows[3].detections == _labeler().label([np.asarray(Image.open(_stream(MIXED[3])))])[0]


@pytest.mark.parametrize("images_per_step", [1, 4])
def test_rows_say_what_may_surprise(tmp_path, images_per_step):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = _odd_png(np.zeros((30, 40, 3), np.uint8), exif=exif)
    dark = _odd_png(np.full((30, 40), 700, np.uint16))
    clear = _odd_png(np.zeros((30, 40, 4), np.uint8), exif=exif)
    images = _images(turned, _png(), b"text", dark, clear)
    rows = _units(tmp_path, images_per_step=images_per_step).label(0, images).rows
    expected = [("turned",), (), (), ("narrow",), ("transparent", "turned")]
    assert [row.notes for row in rows] == expected
    assert [row.height for row in rows] == [40, 30, None, 30, 40]
    of_files = set(NOTES) - {"beside_boxes"}  # which is said of boxes: `test_boxes_in_a_run`
    assert {note for row in rows for note in row.notes} == of_files


@pytest.mark.parametrize("images_per_step", [1, 4])
def test_whole_images_have_their_rows_too(tmp_path, images_per_step):
    """With tiles the labeller gets images at their own size, a few at a time."""
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[4:20, 4:20] = True
    proposer = FakeProposer(make_proposals(mask[None], [0.9]))
    settings = MethodSettings(tiles=TileSettings())
    labeler = make_labeler(FakeEncoder(), proposer, BANK, settings)
    large = _images(*[image.data for image in MIXED], _png((255, 0, 0), (90, 70)))
    units = _units(tmp_path, labeler, images_per_step=images_per_step)
    units.warm_up()
    rows = units.label(0, large).rows
    assert [row.status for row in rows] == ["ok", "failed", "failed", "ok", "failed", "ok", "ok"]
    assert (rows[6].height, rows[6].width) == (70, 90)
    assert len(rows[6].detections) > len(rows[0].detections)
    assert rows[3].detections == _labeler().label([np.asarray(Image.open(_stream(MIXED[3])))])[0]


def _unread(images: list[FetchedImage]) -> list[FetchedImage]:
    return [FetchedImage(image.entry, None, None) for image in images]


@pytest.mark.parametrize("first", [0, 2, 6])
def test_images_that_come_unread_are_read_group_by_group(tmp_path, monkeypatch, first):
    monkeypatch.setattr(unit_module, "JOURNAL_STEP", 2)
    asked = []

    def read(entries):
        asked.append([entry.image_id for entry in entries])
        return [image for image in MIXED if image.entry in entries]

    images = [*MIXED[:first], *_unread(MIXED[first:])]
    rows = _units(tmp_path, read=read).label(0, images).rows
    assert rows == _units(tmp_path).label(1, MIXED).rows
    assert asked == [[1, 2], [3, 4], [5, 6]][first // 2 :]


def test_a_unit_whose_unread_images_cannot_be_read_is_given_back(tmp_path):
    def read(entries):
        raise GivenBackError("8 of 8 images could not be read: SlowDown")

    units = _units(tmp_path, read=read)
    with pytest.raises(GivenBackError, match="SlowDown"):
        units.label(0, _unread(MIXED))
    assert [row.status for row in units.label(1, MIXED).rows].count("failed") == 3


def _stream(image: FetchedImage) -> io.BytesIO:
    return io.BytesIO(image.data)


def test_only_bad_images(tmp_path):
    rows = _units(tmp_path, images_per_step=4).label(0, _images(b"a", b"b", None)).rows
    assert [row.status for row in rows] == ["failed"] * 3


def test_an_image_that_ended_two_workers_is_not_taken_up(tmp_path):
    deaths = '{"run": "run", "deaths": {"3": 1}, "in_work": [3]}'
    Storage().publish_bytes(journal_uri(str(tmp_path), 0), deaths.encode())
    rows = _units(tmp_path).label(0, MIXED).rows
    assert rows[3].error == "ended the worker process twice, alone in it"
    assert rows[3].failure == "worker"
    assert rows[5].status == "ok"


def test_a_failing_method_stops_the_unit_and_names_the_image(tmp_path):
    class Broken(FakeEncoder):
        def encode(self, images):
            raise RuntimeError("shape mismatch")

    labeler = Labeler(
        Broken(), FakeProposer(make_proposals(torch.ones(1, 32, 32) > 0, [1.0])), BANK
    )
    with pytest.raises(LabelError, match=r"unit 7, image 1\.png: RuntimeError: shape mismatch"):
        _units(tmp_path, labeler).label(7, MIXED)


def test_a_gpu_that_broke_is_noted_and_blames_no_image(tmp_path):
    class Broken(FakeEncoder):
        def encode(self, images):
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    labeler = Labeler(
        Broken(), FakeProposer(make_proposals(torch.ones(1, 32, 32) > 0, [1.0])), BANK
    )
    for number in range(3):
        with pytest.raises(SickDeviceError, match="uncorrectable ECC"):
            _units(tmp_path, labeler, device=f"GPU {number}").label(7, MIXED)
    with pytest.raises(GivenBackError, match="GPUs failed over it 3 times: GPU 0, GPU 1, GPU 2"):
        _units(tmp_path).label(7, MIXED)


def test_a_gpu_that_broke_once(tmp_path):
    journal = UnitJournal(str(tmp_path), 7, "run", Storage())
    journal.blame_device("GPU 0")
    assert _units(tmp_path).label(7, MIXED).rows[0].status == "ok"


def test_a_fault_while_masks_are_encoded_names_its_image(tmp_path, monkeypatch):
    def broken(masks, size_hw):
        raise ValueError("not a mask")

    monkeypatch.setattr(detections, "as_rles", broken)
    monkeypatch.setattr(Labeler, "strips", True)
    with pytest.raises(LabelError, match=r"unit 7, image 4\.png: ValueError: not a mask"):
        _units(tmp_path).label(7, MIXED[1:])


class _SmallGpu(FakeProposer):
    """Runs out of memory above a number of points and images at once; has steps of points."""

    points_per_step = 64
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")

    def __init__(self, points: int, images: int) -> None:
        super().__init__(make_proposals(torch.ones(1, 32, 32) > 0, [0.9]))
        self._points, self._images = points, images

    def propose(self, images, min_predicted_iou, wanted=None):
        if self.points_per_step > self._points or len(images) > self._images:
            raise self.error
        return super().propose(images, min_predicted_iou, wanted)

    def halve_step(self):
        if self.points_per_step <= 32:
            return False
        self.points_per_step //= 2
        return True


def test_out_of_memory_halves_points_then_images_and_goes_on(tmp_path, caplog):
    proposer = _SmallGpu(points=32, images=2)
    labeler = Labeler(FakeEncoder(), proposer, BANK)
    units = _units(tmp_path, labeler, images_per_step=8)
    rows = units.label(0, MIXED * 3).rows
    assert [row.status for row in rows] == ["ok", "failed", "failed", "ok", "failed", "ok"] * 3
    assert (proposer.points_per_step, units.images_per_step) == (32, 2)
    assert caplog.text.count("out of GPU memory") == 3  # one per halving, not one per image


LIBRARIES = {
    "cuBLAS": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN 8": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN 9": "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "the runtime": "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "not torch's own class": "CUDA out of memory. Tried to allocate 2.00 GiB",
    "Triton": "Triton Error [CUDA]: out of memory",
}


@pytest.mark.parametrize("message", LIBRARIES.values(), ids=LIBRARIES.keys())
def test_libraries_out_of_memory_halve_as_torch_does(tmp_path, monkeypatch, message):
    monkeypatch.setattr(_SmallGpu, "error", RuntimeError(message))
    proposer = _SmallGpu(points=32, images=1)
    units = _units(tmp_path, Labeler(FakeEncoder(), proposer, BANK), images_per_step=2)
    statuses = [row.status for row in units.label(0, MIXED).rows]
    assert statuses == ["ok", "failed", "failed", "ok", "failed", "ok"]
    assert (proposer.points_per_step, units.images_per_step) == (32, 1)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: an illegal memory access was encountered",
    ],
)
def test_other_errors_of_libraries_are_the_gpus(tmp_path, monkeypatch, message):
    monkeypatch.setattr(_SmallGpu, "error", RuntimeError(message))
    proposer = _SmallGpu(points=32, images=1)
    with pytest.raises(SickDeviceError, match="unit 0"):
        _units(tmp_path, Labeler(FakeEncoder(), proposer, BANK)).label(0, MIXED)
    assert proposer.points_per_step == 64


def test_out_of_memory_at_the_smallest_step_stops(tmp_path):
    labeler = Labeler(FakeEncoder(), _SmallGpu(points=0, images=0), BANK)
    with pytest.raises(LabelError, match="unit 4: out of GPU memory at the smallest step"):
        _units(tmp_path, labeler, images_per_step=2).label(4, MIXED)


WAIT_S = 60.0  # what does not happen in that time never will


class _Watched:
    """A store and a labeller that write down, in order, what is asked of them.

    Attributes:
        events: ("read", journal), ("noted", unit, positions), ("decoding",) and ("begun", how many
            images of the step).
        at_step: called before each step, with how many have begun before it.
    """

    def __init__(self) -> None:
        self.events: list[tuple] = []
        self._changed = threading.Condition()
        self.at_step = lambda begun: None
        self.labeler = _labeler()
        self._begin, self.labeler.begin = self.labeler.begin, self._step
        self._begun = 0

    def read_bytes(self, uri):
        self.add("read", uri)
        return Storage().read_bytes(uri)

    def publish_bytes(self, uri, data):
        self.add("noted", int(uri[-len("0.journal.json")]), json.loads(data)["in_work"])
        Storage().publish_bytes(uri, data)

    def _step(self, inputs, sizes):
        self.at_step(self._begun)
        self._begun += 1
        self.add("begun", len([size for size in sizes if size]))
        return self._begin(inputs, sizes)

    def add(self, *event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, *event, times=1) -> None:
        def is_there():
            return self.events.count(event) >= times

        with self._changed:
            assert self._changed.wait_for(is_there, WAIT_S), self.events


def _watched_units(tmp_path, watched, **options) -> UnitLabeler:
    return UnitLabeler(watched.labeler, str(tmp_path), "run", watched, **options)


def test_a_group_is_noted_and_decoded_while_the_one_before_is_labelled(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_module, "JOURNAL_STEP", 4)
    watched = _Watched()
    units = _watched_units(tmp_path, watched, images_per_step=2)
    submit = units._decoders.submit
    monkeypatch.setattr(
        units._decoders, "submit", lambda data: watched.add("decoding") or submit(data)
    )

    def at_step(begun):  # the last step of a group waits for what should come before it
        if begun == 1:
            watched.wait_for("decoding", times=8)
        if begun == 3:
            watched.wait_for("decoding", times=10)

    watched.at_step = at_step
    rows = units.label(0, _images(*[_png()] * 10)).rows
    assert [row.status for row in rows] == ["ok"] * 10
    # what of the group before was unfinished when the second one began is named beside it
    assert [event for event in watched.events if event[0] == "noted"] == [
        ("noted", 0, [0, 1, 2, 3]),
        ("noted", 0, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("noted", 0, [2, 3, 4, 5, 6, 7, 8, 9]),
    ]


def test_a_unit_is_taken_up_while_the_one_before_is_labelled(tmp_path):
    watched = _Watched()
    units = _watched_units(tmp_path, watched)

    def at_step(begun):
        if begun == 1:  # the last step of the first unit
            second.append(threads.submit(units.label, 1, _images(_png(), b"text")))
            watched.wait_for("noted", 1, [0, 1])

    second = []
    watched.at_step = at_step
    with ThreadPoolExecutor(1) as threads:
        first = units.label(0, _images(_png(), _png()))
        rows = second[0].result(WAIT_S).rows
    assert [row.status for row in first.rows] == ["ok", "ok"]
    assert [row.status for row in rows] == ["ok", "failed"]
    expected = _units(tmp_path / "alone").label(1, _images(_png(), b"text"))
    assert rows == expected.rows


def test_a_unit_over_which_a_worker_died_is_in_work_alone(tmp_path):
    note = '{"run": "run", "deaths": {}, "in_work": [0, 1]}'
    Storage().publish_bytes(journal_uri(str(tmp_path), 1), note.encode())
    watched = _Watched()
    units = _watched_units(tmp_path, watched)

    def at_step(begun):
        if begun == 0:
            second.append(threads.submit(units.label, 1, _images(_png(), _png())))
            watched.wait_for("read", journal_uri(str(tmp_path), 1))
        if begun == 1:  # the first unit is not finished: nothing of the second may be in work
            assert not [event for event in watched.events if event[:2] == ("noted", 1)]

    second = []
    watched.at_step = at_step
    with ThreadPoolExecutor(1) as threads:
        units.label(0, _images(_png(), _png()))
        second[0].result(WAIT_S)
    assert watched.events[-4:] == [
        ("noted", 1, [0]), ("begun", 1), ("noted", 1, [1]), ("begun", 1)
    ]  # fmt: skip


def test_a_gpu_that_broke_blames_no_image_of_the_unit_behind_either(tmp_path):
    watched = _Watched()
    units = _watched_units(tmp_path, watched, device="GPU 0")
    second = []

    def at_step(begun):
        second.append(threads.submit(units.label, 1, _images(_png(), _png())))
        watched.wait_for("noted", 1, [0, 1])
        watched.at_step = broken
        broken(begun)

    def broken(begun):
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    watched.at_step = at_step
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(SickDeviceError):
            units.label(0, _images(_png()))
        with pytest.raises(SickDeviceError):
            second[0].result(WAIT_S)
    for shard_id in (0, 1):
        journal = UnitJournal(str(tmp_path), shard_id, "run", Storage())
        journal.open()
        assert (journal.devices, journal.deaths, journal.lost) == (["GPU 0"], {}, 0)
