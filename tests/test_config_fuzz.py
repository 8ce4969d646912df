"""Whatever a config file says: it is a config, or one clean error that a person can read."""

import json
import tempfile

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ntt_ray.config import Config, build_config, load_config
from ntt_ray.errors import ConfigError
from tests.support.fuzzing import HOSTILE, changed, damaged, fuzz, nested, tried
from tests.support.paths import ROOT

PHOTOS = (ROOT / "configs" / "photos.yaml").read_bytes()
TREE = yaml.safe_load(PHOTOS)
SNIPPETS = [
    b"&a ", b"*a", b"*nowhere", b"<<: *a\n", b"- ", b"? ", b": ", b"|\n", b">\n", b"!!int ",
    b"!!set ", b"!!python/object/apply:os.system ['exit 1']", b"!!binary x", b"2024-99-99", b"1:99",
    b"0x", b"!!timestamp x", b"!!float x", b"9" * 5000, b".nan", b"-.inf", b"\0", b"\xff",
    b"\xef\xbb\xbf", b"\t", b"%YAML 9.9\n", b"---\n", b"...\n", b"[" * 40, b"{", b"}", b"'",
    b'"', b"\xed\xa0\x80",
    b"~", b"=", b"job: ", b"\r", b"\xe2\x80\xa8", b"!!null x", b"!!bool 5", b"!!omap [a: 1]", b"!<",
]  # fmt: skip


def loaded(data: bytes, overrides=()) -> Config | None:
    """The config in a file, or None where it was refused cleanly."""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data)
        file.flush()
        config = tried(lambda: load_config(file.name, overrides), ConfigError)
    assert config is None or json.dumps(config.resolved())
    return config


def test_the_example_is_valid():
    assert loaded(PHOTOS) is not None


@fuzz(150)
@given(changed(TREE))
def test_trees(tree):
    if isinstance(tree, dict):
        config = tried(lambda: build_config(tree), ConfigError)
        assert config is None or json.dumps(config.resolved())


@fuzz(150)
@given(damaged(PHOTOS, SNIPPETS))
def test_files(data):
    loaded(data)


@fuzz(60)
@given(st.binary(max_size=60) | st.lists(st.sampled_from(SNIPPETS), max_size=8).map(b"".join))
def test_any_bytes(data):
    loaded(data)


KEYS = st.sampled_from(
    ["", ".", "a", "job", "job.actors", "method.nms_iou", "images", "job..", "__"]
)
VALUES = st.sampled_from([s.decode("utf-8", "replace") for s in SNIPPETS]) | st.text(max_size=10)


@fuzz(100)
@given(st.lists(st.tuples(KEYS, st.sampled_from(["=", "", "=="]), VALUES).map("".join), max_size=3))
def test_overrides(overrides):
    loaded(PHOTOS, overrides)


@fuzz(60)
@given(st.dictionaries(st.text(max_size=5) | HOSTILE.filter(lambda v: v.__hash__), HOSTILE))
def test_keys_of_any_kind(extra):
    with pytest.raises(ConfigError):
        build_config({"images": 1, "x": 1, **extra})


ALIASES = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
)
MERGES = "\n".join(
    ["a0: &a0 {k: 1}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
)
REFUSED = {
    "a bomb of aliases": (ALIASES, "values"),
    "a bomb of merged keys": (MERGES, "values"),
    "an alias of itself": ("images: &a [*a]", "nested"),
    "deep nesting": ("images: " + "[" * 5000, "nested"),
    "deep nesting that ends": ("images: " + str(nested(300)), "nested"),
    "a python object": ("images: !!python/object/apply:os.system [x]", "could not determine"),
    "a key twice": ("images: a\nimages: b", "'images' is used twice"),
    "a key twice inside": ("job: {actors: 1, actors: 2}", "'actors' is used twice"),
    "no date": ("images: 2024-99-99", "month must be in"),
    "a number without end": ("images: " + "9" * 5000, "digits"),
    "not text": (b"images: \xff", "utf-8"),
    "a NUL": ("images: a\0b", "special characters"),
    "a NUL in quotes": ('images: "a\\0b"\noutput: x\nbank: b', "NUL"),
    "half a character": ('images: "\\ud800"\noutput: x\nbank: b', "images"),
    "a larger file than any config": ("#" * 2_000_000, "MB"),
    "a list": ("- a", "key: value"),
    "nothing": ("", "key: value"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match=message):
        load_config(str(path))


def test_aliases_of_ordinary_size_are_fine(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "images: /data\noutput: /out\nbank: /bank\n"
        "job: &job {actors: 2}\nstorage_options: {s3: {<<: *job, actors: 3}}"
    )
    config = load_config(str(path))
    assert config.job.actors == 2
    assert config.storage_options == {"s3": {"actors": 3}}
