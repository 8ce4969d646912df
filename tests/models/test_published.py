import hashlib

import pytest

from ntt_ray.errors import WeightsError
from ntt_ray.models import published
from ntt_ray.models.published import BUNDLED, PUBLISHED, PublishedFile, bundled_file, file_digest


def test_every_model_name_of_the_config_is_published():
    from ntt_ray.config import ENCODER_NAMES, PROPOSER_NAMES

    # DINOv3's files are given out by Meta on request: their names need `checkpoint`
    asked_for = {name for name in ENCODER_NAMES if name.startswith("dinov3_")}
    assert {*PUBLISHED, *BUNDLED} | asked_for == {*ENCODER_NAMES, *PROPOSER_NAMES}
    assert not asked_for & {*PUBLISHED, *BUNDLED}
    assert len({p.url for p in PUBLISHED.values()}) == len(PUBLISHED)
    for file in PUBLISHED.values():
        assert file.url.startswith("https://dl.fbaipublicfiles.com/")
        assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
        assert file.size_bytes is None or 80e6 < file.size_bytes < 2e9


def test_bundled_weights_are_those_that_were_recorded():
    assert sum(bundled_file(name).stat().st_size for name in BUNDLED.values()) <= 8_000_000
    with pytest.raises(WeightsError, match="missing or damaged"):
        published.bundled_file("SHA256SUMS")


DATA = b"a checkpoint" * 1000
GOOD = hashlib.sha256(DATA).hexdigest()
# known size, known digest -> what is wrong with DATA
PROBLEMS = {
    "right": (len(DATA), GOOD, None),
    "nothing known": (None, None, None),
    "size only": (len(DATA), None, None),
    "another size": (len(DATA) + 1, GOOD, "it has 12000 bytes, published are 12001"),
    "another digest": (len(DATA), "0" * 64, f"its SHA-256 is {GOOD}, published is {'0' * 64}"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_copy_is_compared_with_what_was_published(tmp_path, case):
    size, digest, expected = PROBLEMS[case]
    path = tmp_path / "model.pth"
    path.write_bytes(DATA)
    assert file_digest(path) == GOOD
    file = PublishedFile("https://example.invalid/x/model.pth", digest, size)
    assert file.file_name == "model.pth"
    assert file.problem(path) == expected
