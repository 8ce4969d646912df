"""Text files in parts that tasks store: the same bytes, none through the driver, none left."""

import pickle
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from benchmarks.made_shards import CLASSES, Stock, write_shards
from ntt_ray.errors import InputError
from ntt_ray.merge import fragments, text_files
from ntt_ray.merge.digests import digest_of_file
from ntt_ray.merge.fragments import Fragment, Layout, Slice
from ntt_ray.merge.passes import check_sizes, count_shards
from ntt_ray.merge.rendering import Merge, Source, map_here
from ntt_ray.merge.text_files import Section, TextFile, neighbours, planned_parts, stored_pieces
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.shard import table_to_bytes
from ntt_ray.storage import LEAST_BYTES, MOST_PARTS, Storage
from tests.support.merging import merge_shards
from tests.support.plain_coco import plain_coco

STORE = Storage()
PROFILES = ("coco", "coco-results")
SETTINGS = {"classes": CLASSES, "info": {"description": "täst"}, "thresholds": Thresholds(0.5)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """330 images in four shards."""
    output = str(tmp_path_factory.mktemp("run"))
    return output, list(write_shards(output, 330, per_image=4, images_per_shard=100, masks=50))


@pytest.fixture
def small(monkeypatch):
    """Fragments of about 10 annotations, parts of about 50."""
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 3000)
    monkeypatch.setattr(text_files, "PART_BYTES", 15_000)


def _merged(output, ids, profiles=PROFILES, store=STORE, **options):
    written, _ = merge_shards(output, ids, store, profiles=profiles, **SETTINGS, **options)
    return {name: digest for one in written.values() for name, digest in one.files.items()}


def _contents(output, names, store=STORE):
    return {name: store.read_bytes(f"{output}/{name}") for name in names}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("images_per_file", [None, 150, 7])
def test_parts_make_the_bytes_of_the_plain_writer(run, tmp_path, images_per_file):
    output, ids = run
    digests = _merged(output, ids, images_per_file=images_per_file)
    expected = plain_coco(output, ids, STORE, images_per_file=images_per_file, **SETTINGS)
    assert _contents(output, digests) == expected
    assert any(digest.parts for digest in digests.values()) == (images_per_file != 7)
    for name, digest in digests.items():
        assert digest.size == len(expected[name])
        assert digest_of_file(f"{output}/{name}", STORE, digest.parts) == digest
    with_parts = next((name for name in digests if digests[name].parts), None)
    if with_parts is not None:
        longer, known = tmp_path / "longer", digests[with_parts]
        longer.write_bytes(expected[with_parts] + b"\n")
        assert digest_of_file(str(longer), STORE, known.parts).sha256 != known.sha256
        longer.write_bytes(expected[with_parts].replace(b"1", b"2", 1))
        assert digest_of_file(str(longer), STORE, known.parts).sha256 != known.sha256


@pytest.mark.parametrize("failed", ["first", "all"])
def test_images_that_failed_leave_no_comma_behind(tmp_path, monkeypatch, failed):
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 1)
    monkeypatch.setattr(text_files, "PART_BYTES", 100)
    output, stock = str(tmp_path), Stock(20)
    firsts = [100, 101] if failed == "first" else [100, 200]  # every 100th failed
    for unit, first in enumerate(firsts):
        table = stock.table(first, 1 if failed == "all" else 3, 2)
        STORE.publish_bytes(shard_uri(output, unit), table_to_bytes(table, {}))
    names = _merged(output, [0, 1])
    assert _contents(output, names) == plain_coco(output, [0, 1], STORE, **SETTINGS)


@pytest.mark.usefixtures("small")
def test_a_store_without_parts_is_written_to_as_a_stream():
    output = "memory://stream"
    ids = list(write_shards(output, 150, per_image=4, images_per_shard=100, masks=50))
    digests = _merged(output, ids)
    assert _contents(output, digests) == plain_coco(output, ids, STORE, **SETTINGS)
    assert not any(digest.parts for digest in digests.values())


@dataclass(frozen=True)
class Counting(Storage):
    """Counts the bytes that are written inside and outside of tasks."""

    def __post_init__(self):
        object.__setattr__(self, "written", {"driver": 0, "tasks": 0})
        object.__setattr__(self, "within", [])

    def _count(self, data):
        self.written["tasks" if self.within else "driver"] += len(data)
        return data

    def publish_bytes(self, uri, data):
        super().publish_bytes(uri, self._count(data))

    def publish_stream(self, uri, chunks):
        super().publish_stream(uri, map(self._count, chunks))

    def store_part(self, upload, number, data):
        assert 1 <= number <= MOST_PARTS
        return super().store_part(upload, number, self._count(data))

    def mapper(self, function, items, *, large=False):
        """A `Mapper` whose tasks send what they take and give as a network would."""
        for item in items:
            self.within.append(True)
            result = function(pickle.loads(pickle.dumps(item)))
            self.within.pop()
            self.written["driver"] += len(pickle.dumps(result))
            yield result


def test_no_byte_of_a_file_comes_through_the_driver(run, monkeypatch):
    output, ids = run
    monkeypatch.setattr(text_files, "PART_BYTES", 150_000)
    store = Counting()
    digests = _merged(output, ids, store=store, mapper=store.mapper)
    assert len(digests["annotations.json"].parts) > 1
    assert store.written["tasks"] == sum(digest.size for digest in digests.values()) > 500_000
    assert store.written["driver"] < 10_000  # counts of the shards, digests, tags


@pytest.mark.usefixtures("small")
def test_a_failure_discards_what_was_stored(run, tmp_path):
    output, shape = str(tmp_path), {"images_per_shard": 25, "masks": 5}
    ids, seen = list(write_shards(output, 100, **shape)), set()

    def mapper(function, items, *, large=False):
        """Reads its items ahead, as Ray's does."""
        for number, result in enumerate(map_here(function, list(items))):
            seen.update(path.name.split(".")[1] for path in tmp_path.glob(".*.tmp"))
            if number == 2:
                path = tmp_path / "labels" / "shard-000001.parquet"
                path.write_bytes(path.read_bytes()[:-100])
            yield result

    with pytest.raises(InputError, match=r"shard-000001\.parquet: damaged shard"):
        _merged(output, ids, mapper=mapper, images_per_file=25)
    assert seen == {f"annotations-{n:05d}-of-00004" for n in range(1, 5)}
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"labels", "annotations-00001-of-00004.json"}  # which was whole before


def test_a_shard_that_changed_since_it_was_counted_is_an_error(tmp_path, monkeypatch):
    output, stock = str(tmp_path), Stock(20)

    def write(per_image):
        content = table_to_bytes(stock.table(1, 5, per_image), {})
        STORE.publish_bytes(shard_uri(output, 0), content)

    def mapper(function, items, *, large=False):
        for result in map_here(function, items):
            yield result
            write(0)

    write(2)
    with pytest.raises(InputError, match="shards 0 have changed since they were counted"):
        _merged(output, [0], mapper=mapper)


@pytest.mark.parametrize(
    ("lengths", "size", "most", "found"),
    [
        ([], 10, 3, [0]),
        ([3, 4], 10, 3, [7]),
        ([9, 5], 10, 3, [14]),  # what is left would be too short for a part
        ([9, 6], 10, 3, [10, 5]),
        ([100], 10, 3, [10, 10, 80]),
        ([100], 10, 1, [100]),
    ],
)
def test_pieces_to_store(monkeypatch, lengths, size, most, found):
    monkeypatch.setattr(text_files, "LEAST_BYTES", 5)
    data = bytes(range(100))
    chunks = [data[sum(lengths[:n]) :][:length] for n, length in enumerate(lengths)]
    pieces = [bytes(piece) for piece in stored_pieces(chunks, size, most)]
    assert [len(piece) for piece in pieces] == found
    assert b"".join(pieces) == data[: sum(lengths)]


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([1], [(0, 1)]),
        ([5, 9, 5], [(0, 1), (1, 2), (2, 3)]),
        ([5, 1, 5, 1], [(0, 1), (1, 3), (3, 4)]),
        ([1, 1, 1, 1, 1, 1], [(0, 5), (5, 6)]),
        ([0, 0, 7], [(0, 3)]),
    ],
)
def test_neighbours_that_are_long_enough(sizes, groups):
    assert [(own.start, own.stop) for own in neighbours(sizes, 5)] == groups


@pytest.mark.parametrize("size", [1, 9 << 20, 40 << 20])
@pytest.mark.parametrize("count", [1, 10_001, 30_000])
def test_any_file_has_parts_that_a_store_takes(count, size):
    """10,001 fragments and more; 30,000 of 40 MB are 1.3 TB."""
    pieces = [Fragment((Slice(n, 0, 1),), n, 1, size) for n in range(count)]
    section = Section("[", 2, "]\n", pieces, (), lambda *_: None)
    parts = planned_parts(TextFile("a.json", (section,)), Source("/out", STORE, Thresholds(0.0)))
    numbers = [number for part in parts for number in (part.first_number, part.most)]
    assert len(parts) <= MOST_PARTS
    assert min(numbers) >= 1
    assert parts[-1].first_number + parts[-1].most - 1 <= MOST_PARTS
    for part, after in pairwise(parts):
        assert part.first_number + part.most <= after.first_number
    texts = [text for part in parts for text in part.texts]
    assert [text.fragment for text in texts[1:-1]] == pieces
    assert [text.skip for text in texts[1:-1]] == [2] + [0] * (count - 1)
    assert sum(part.items for part in parts) == count


def test_more_fragments_than_a_store_takes_parts(run, monkeypatch):
    """As 10,001 where 10,000 are taken: here 10."""
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 3000)
    monkeypatch.setattr(text_files, "PART_BYTES", 1)
    monkeypatch.setattr(text_files, "MOST_PARTS", 10)
    output, ids = run
    for tasks in (8, 1000):
        monkeypatch.setattr(text_files, "MOST_TASKS", tasks)
        digests = _merged(output, ids)
        assert _contents(output, digests) == plain_coco(output, ids, STORE, **SETTINGS)
        assert all(2 <= len(digest.parts) <= 10 for digest in digests.values())


@pytest.mark.slow
def test_parts_that_came_out_short_go_to_s3_with_their_neighbours(s3, monkeypatch):
    """As where the masks that are kept are much shorter than the others."""
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 1 << 20)
    monkeypatch.setattr(text_files, "PART_BYTES", 3 << 20)
    output, store = s3.prefix(), s3.storage()
    stock, ids = Stock(50), list(range(6))
    for unit in ids:
        table = stock.table(1 + 1000 * unit, 1000, 8)
        store.publish_bytes(shard_uri(output, unit), table_to_bytes(table, {}))
    digests = _merged(output, ids, ("coco-results",), store=store)
    expected = plain_coco(output, ids, store, **SETTINGS)["results.json"]
    assert store.read_bytes(f"{output}/results.json") == expected
    parts = digests["results.json"].parts
    assert len(parts) > 1
    assert min(parts[:-1]) >= LEAST_BYTES
    assert store.list_folder(output) == ["results.json"]


@pytest.mark.parametrize("prefix", ["s3://bucket/run", "gs://bucket/run"])
def test_a_file_that_no_store_takes_is_refused_before_it_is_written(run, monkeypatch, prefix):
    output, ids = run
    source = Source(output, STORE, Thresholds(0.0))
    shards = count_shards(source, ids, map_here)
    many = [replace(shard, counts_bytes=1 << 44) for shard in shards]
    merge = Merge(replace(source, to=prefix), Layout(many), CLASSES, {})
    for profile in ("coco", "coco-results", "coco-polygon", "labelstudio"):
        with pytest.raises(InputError, match=r"TB; set merge\.images_per_file to 10{0,2} or less"):
            check_sizes(merge, [profile])
    check_sizes(replace(merge, images_per_file=1), ["coco", "coco-results"])
    check_sizes(merge, ["parquet", "yolo-seg", "semantic-png"])
    check_sizes(replace(merge, source=source), PROFILES)
    check_sizes(replace(merge, layout=Layout(shards)), PROFILES)
