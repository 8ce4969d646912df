import pyarrow as pa
import pytest

from ntt_ray.errors import StorageError
from ntt_ray.sources.spool import Spool


def test_tables_come_back_in_any_order_and_again():
    spool, tables = Spool(), [pa.table({"a": range(n)}) for n in (3, 0, 5)]
    tables.append(pa.table({"b": ["x", None]}))
    for table in tables:
        spool.add(table)
    assert (len(spool), spool.rows) == (4, 10)
    assert list(spool) == tables
    assert [spool.read(position) for position in (3, 0)] == [tables[3], tables[0]]


def test_a_full_disk_is_named_with_what_to_do():
    spool = Spool()
    spool._file.close()
    spool._file = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(StorageError, match=r"No space left on device; .* with TMPDIR"):
        spool.add(pa.table({"a": range(100_000)}))
    spool._file = open("/dev/null", "rb")  # noqa: SIM115
