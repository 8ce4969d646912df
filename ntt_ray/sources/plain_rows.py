"""Rows of a table whose addresses are plain: named and placed by columns, and not one by one.

Of a hundred million rows nearly all are alike. What is plain here means the same to everything that
looks at a single row (`tables`): nothing in it is escaped, signed, or leads anywhere.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# no protocol, no root, no drive, nothing hidden or above, no query
_BELOW = r"^[^/\\:?#%@=&;~.\x00-\x1f\x7f][^\\:?#%@=&;\x00-\x1f\x7f]*$"
_BUCKET = r"^s3://[a-z0-9][a-z0-9.-]*/[^/\\:?#%@=&;~.\x00-\x1f\x7f][^\\:?#%@=&;\x00-\x1f\x7f]*$"
_ABOVE = ".."


def plain_rows(places: list[Any], names: list[Any], root: str) -> tuple[pa.Array, pa.Array] | None:
    """File names and addresses of rows, as `tables` gives them one by one.

    Args:
        places: what the column of addresses holds.
        names: what the column of file names holds.
        root: where relative addresses lie.

    Returns:
        None where not all rows are plain, and of one kind.
    """
    try:
        uris, given = pa.array(places), pa.array(names)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
        return None
    if pa.types.is_null(given.type):
        given = given.cast(pa.string())
    texts = pa.types.is_string(uris.type) and pa.types.is_string(given.type)
    if not root or not texts or uris.null_count:
        return None
    start = root if root.endswith("/") else f"{root}/"
    if _all_match(uris, _BELOW):
        own, full = uris, pc.binary_join_element_wise(start, uris, "")
    elif _all_match(uris, _BUCKET):
        below = pc.starts_with(uris, start)
        cut = pc.utf8_slice_codeunits(uris, len(start))
        own = pc.if_else(below, cut, pc.utf8_slice_codeunits(uris, len("s3://")))
        full = uris
    else:
        return None
    named = pc.fill_null(pc.not_equal(given, ""), False)
    found = pc.if_else(named, given, own)
    return (found, full) if _all_match(found, _BELOW) else None


def _all_match(texts: pa.Array, pattern: str) -> bool:
    above = pc.any(pc.match_substring(texts, _ABOVE), min_count=0).as_py()
    return not above and bool(pc.all(pc.match_substring_regex(texts, pattern), min_count=0).as_py())
