import gc
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from ntt_ray.errors import ImageError, LabelError
from ntt_ray.images import PixelBudget, decode_image, decode_square
from ntt_ray.run import decoding
from ntt_ray.run.decoding import Decoder, DecoderPool
from ntt_ray.settings import DecodeSettings
from tests.support import hostile_images, odd_images

pytestmark = pytest.mark.faults

SETTINGS = DecodeSettings(timeout_s=20.0)
HARD = hostile_images.many_scans(400_000)
MUTATED = int(os.environ.get("NTT_RAY_FUZZ", "150"))


def _png(size=(40, 30), mode="RGB") -> bytes:
    sink = io.BytesIO()
    Image.new(mode, size, 1).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def start():
    """Starts pools, and ends them."""
    pools = []

    def started(decoders=1, side=None, settings=SETTINGS):
        pools.append(DecoderPool(decoders, side, settings))
        return pools[-1]

    yield started
    for pool in pools:
        pool.close()


def _is_decoder(process: psutil.Process) -> bool:
    try:
        return "ntt_ray.run.decoder" in process.cmdline()
    except psutil.NoSuchProcess:  # it ended after it was listed; a zombie raises the same
        return False


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if _is_decoder(child)]


def _until(reached, seconds=20.0):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def _here(data, side, settings):
    notes = set()
    try:
        if side is None:
            pixels = decode_image(data, settings, notes=notes)
            size_hw = pixels.shape[:2]
        else:
            pixels, size_hw = decode_square(data, side, settings, notes=notes)
    except ImageError as error:
        return str(error)
    return pixels.tobytes(), size_hw, tuple(sorted(notes))


def _there(future):
    try:
        pixels, size_hw, notes = future.result()
    except ImageError as error:
        return str(error)
    assert pixels.dtype == np.uint8
    assert not pixels.flags.writeable
    return pixels.tobytes(), size_hw, notes


@pytest.mark.parametrize(("side", "orientation"), [(None, "upright"), (48, "stored")])
def test_decoders_give_what_decoding_here_gives(start, side, orientation):
    files = [file.data for file in odd_images.corpus() if file.data is not None]
    settings = DecodeSettings(orientation=orientation)
    pool = start(2, side, settings)
    found = [pool.submit(data) for data in files]
    for data, future in zip(files, found, strict=True):
        assert _there(future) == _here(data, side, settings)


def test_nothing_starts_before_the_first_image(start):
    pool = start(4)
    assert not _children()
    pool.submit(_png()).result()
    pool.submit(_png()).result()
    assert len(_children()) == 1  # the first one was free again
    pool.close()
    assert not _children()


def test_a_pool_that_is_forgotten_ends_its_decoders(start):
    pool = DecoderPool(2, None, SETTINGS)
    pool.submit(_png()).result()
    del pool
    gc.collect()
    _until(lambda: not _children())


@pytest.mark.slow
def test_a_decoder_holds_only_pillow_numpy_and_no_secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    code = (
        "import sys, ntt_ray.run.decoder, ntt_ray.images; ntt_ray.images.prepare_formats(); "
        "print(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    command = [sys.executable, "-S", "-P", "-c", code]
    environment = decoding._environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    own = {"__main__", "ntt_ray", "numpy", "PIL", "pillow_heif", "_pillow_heif", "defusedxml"}
    assert set(done.stdout.split()) <= own
    assert "secret" not in str(environment)


def test_a_time_limit_costs_the_image_and_nothing_else(start):
    pool = start(settings=DecodeSettings(timeout_s=1.0))
    begun = time.monotonic()
    late = pool.submit(HARD)
    other = pool.submit(_png())
    with pytest.raises(ImageError, match=r"longer than decode\.timeout_s \(1 s of CPU time\)"):
        late.result()
    assert time.monotonic() - begun < 15  # it takes 8 s where nothing ends it, and others work too
    assert other.result()[1] == (30, 40)


def test_images_have_their_time_each(start):
    """What those before have used does not count."""
    pool = start(settings=DecodeSettings(timeout_s=0.4))
    small = hostile_images.many_scans(22_000, 1000)
    child, images = None, 0
    while child is None or sum(child.cpu_times()[:2]) <= 0.4:  # however fast the processor is
        assert pool.submit(small).result()[1] == (1000, 1000)
        (child,), images = _children(), images + 1
    assert images > 2


def test_a_limit_of_memory_costs_the_image_and_nothing_else(start):
    pool = start(settings=DecodeSettings(memory_mb=256))
    large, small = pool.submit(_png((5000, 5000))), pool.submit(_png())
    with pytest.raises(ImageError, match=r"needed more than decode\.memory_mb \(256 MB\)"):
        large.result()
    assert small.result()[1] == (30, 40)


LARGEST = {
    "jpeg": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "cmyk jpeg": ("CMYK", "JPEG", {"progressive": True}),
    "16 bits": ("I;16", "PNG", {"compress_level": 1}),
    "transparent webp": ("RGBA", "WEBP", {"lossless": True, "method": 0}),
    "jpeg 2000": ("RGBA", "JPEG2000", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "file_format", "options"), LARGEST.values(), ids=LARGEST)
def test_the_default_memory_holds_the_largest_image(start, mode, file_format, options):
    side, sink = 3000, io.BytesIO()
    Image.new(mode, (side, side), 7).save(sink, file_format, **options)
    pool = start(settings=DecodeSettings(max_pixels=side * side, orientation="upright"))
    assert pool.submit(sink.getvalue()).result()[1] == (side, side)


def test_a_decoder_that_is_killed_is_replaced_and_its_image_tried_again(start):
    pool = start()
    data = hostile_images.many_scans(20_000)
    pool.submit(_png()).result()
    (child,) = _children()
    future = pool.submit(data)
    child.kill()
    assert future.result()[1] == (2000, 2000)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_an_image_that_ends_two_decoders_fails_and_others_do_not(start, number):
    pool, ended = start(), set()
    future = pool.submit(HARD)
    while len(ended) < 2:
        for child in _children():
            if child.pid not in ended and sum(child.cpu_times()[:2]) > 0.6:  # it is at the image
                child.send_signal(number)
                ended.add(child.pid)
        time.sleep(0.01)
    with pytest.raises(ImageError, match=rf"ended its decoder \({number.name}\)"):
        future.result()
    assert pool.submit(_png()).result()[1] == (30, 40)


def test_a_decoder_that_does_not_answer_is_replaced(start, monkeypatch):
    monkeypatch.setattr(DecodeSettings, "waiting_s", 2.0)
    pool = start()
    pool.submit(_png()).result()
    (child,) = _children()
    child.suspend()
    assert pool.submit(_png()).result()[1] == (30, 40)
    assert child.pid not in {other.pid for other in _children()}


def test_large_images_go_one_at_a_time(start, monkeypatch):
    """Whatever the number of decoders, they hold no more pixels than threads did."""
    budget = PixelBudget(1000)
    monkeypatch.setattr(decoding, "PixelBudget", lambda pixels: budget)
    pool = start(2)
    with budget.taken(1):
        large, small = pool.submit(_png((100, 100))), pool.submit(_png((20, 20)))
        assert small.result()[1] == (20, 20)
        assert not large.done()
    assert large.result()[1] == (100, 100)


def test_where_no_decoder_starts_no_image_is_blamed(start, monkeypatch):
    monkeypatch.setattr(decoding, "_environment", dict)  # it does not find the package
    with pytest.raises(LabelError, match=r"cannot be started.*exit status 1"):
        start().submit(_png()).result()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(LabelError, match="cannot be started"):
        start().submit(_png()).result()


def test_without_memory_for_pixels_no_image_is_blamed(start, monkeypatch):
    def none_left(*_):
        raise OSError("no file descriptors")

    monkeypatch.setattr(os, "memfd_create", none_left)
    with pytest.raises(LabelError, match="no file descriptors"):
        start().submit(_png()).result()


def test_images_that_are_given_up_are_not_decoded(start):
    pool = start()
    hard = pool.submit(hostile_images.many_scans(20_000))
    waiting = [pool.submit(_png()) for _ in range(3)]
    assert all(future.cancel() for future in waiting)
    assert hard.result()[1] == (2000, 2000)


OWNER = """
import sys
from ntt_ray.run.decoding import DecoderPool
from ntt_ray.settings import DecodeSettings
from tests.support.hostile_images import many_scans
pool = DecoderPool(2, 64, DecodeSettings())
pool.submit(many_scans(20_000)).result()
futures = [pool.submit(many_scans(400_000)) for _ in range(2)]
print(flush=True)
futures[0].result()
"""


@pytest.mark.slow
def test_decoders_end_with_the_process_that_asks_and_leave_nothing():
    before = set(Path("/dev/shm").iterdir())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], env=environment, stdout=subprocess.PIPE)
    owner.stdout.readline()
    _until(lambda: len(_children()) == 2)
    decoders = _children()
    assert set(Path("/dev/shm").iterdir()) == before
    owner.kill()
    owner.wait()
    _, alive = psutil.wait_procs(decoders, timeout=5)
    assert not alive
    assert set(Path("/dev/shm").iterdir()) == before


def test_pixels_stay_when_their_decoder_is_gone():
    """They are memory of the process that asked, and go when nobody holds them."""
    gc.collect()  # what other tests have left
    before = _maps()
    decoder = Decoder(SETTINGS)
    pixels = decoder.decode(_png((1000, 1000)), None, PixelBudget(10**9)).pixels
    decoder.end()
    assert (pixels[..., 0] == 1).all()
    assert _maps() == before + 1
    del pixels
    assert _maps() == before


def _maps() -> int:
    return Path("/proc/self/maps").read_text().count("ntt-ray-image")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_damaged_files_end_nothing_and_stay_below_the_limits(monkeypatch):
    """NTT_RAY_FUZZ=2000 tries so many."""
    settings, lock, peaks, results = DecodeSettings(), threading.Lock(), {}, []
    decode = Decoder.decode

    def watched(decoder, *arguments):
        try:
            return decode(decoder, *arguments)
        finally:
            if decoder.is_alive:
                status = Path(f"/proc/{decoder.pid}/status").read_text()
                with lock:
                    peaks[decoder.pid] = int(status.split("VmPeak:")[1].split()[0]) * 1024

    monkeypatch.setattr(Decoder, "decode", watched)
    pool = DecoderPool(2, 256, settings)
    results = [_there(f) for f in [pool.submit(d) for d in hostile_images.mutated(MUTATED)]]
    pool.close()
    assert len(results) == MUTATED
    reasons = [item for item in results if isinstance(item, str)]
    assert 0.2 < len(reasons) / MUTATED < 0.95
    assert not [text for text in reasons if "its decoder" in text or "decode." in text]
    assert len(peaks) == 2
    assert max(peaks.values()) <= settings.memory_bytes
    figures = {"files": MUTATED, "failed": len(reasons), "peak_mb": max(peaks.values()) >> 20}
    print(json.dumps(figures))
