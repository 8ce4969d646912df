"""Keys and kept columns: what of a table of images travels with them, and what may not.

Texts, numbers, booleans and times travel. Lists, structs and bytes do not: they are refused before
anything is started.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray.errors import InputError
from ntt_ray.settings import TableColumns
from ntt_ray.sources.schema import PACKED, SCHEMA, packed_schema

NO_COLUMNS = TableColumns()
KEY = "key"  # the column of keys, unless another one is named
_SHOWN = 5


def carried_names(columns: TableColumns, found: Sequence[str], where: str) -> list[str]:
    """The columns of a table that are read beside the images: that of keys first, if there is one.

    Args:
        columns: what the config asks for.
        found: the columns that there are.
        where: the table, for messages.

    Raises:
        InputError: one that is asked for is missing.
    """
    asked = {"columns.key": [columns.key] if columns.key else [], "columns.keep": columns.keep}
    for setting, names in asked.items():
        for name in names:
            if name not in found:
                has = ", ".join(repr(str(other)[:50]) for other in islice(found, _SHOWN))
                raise InputError(f"{setting}: there is no column {name!r} in {where}; it has {has}")
    key = columns.key or (KEY if KEY in found else None)
    return list(dict.fromkeys([*([key] if key else []), *columns.keep]))


def key_name(columns: TableColumns) -> str:
    """The column of keys, which need not be there unless it is named."""
    return columns.key or KEY


def checked_field(field: pa.Field, columns: TableColumns, where: str) -> pa.Field | None:
    """The column as it will travel; None for a column ``key`` that holds no keys.

    Raises:
        InputError: it cannot travel.
    """
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if field.name not in columns.keep:
        if is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
            return pa.field(field.name, kind)
        if columns.key is None:
            return None
        raise InputError(f"columns.key: {field.name!r} of {where} is {kind}; keys are texts")
    plain = pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    if not (plain or is_text(kind)):
        raise InputError(
            f"columns.keep: {field.name!r} of {where} is {kind}; only texts, numbers, booleans and "
            "times are kept"
        )
    return pa.field(field.name, kind)


def of_values(name: str, values: Sequence[Any], first_row: int, where: str) -> pa.Array:
    """A column of a text table as Arrow has it.

    Args:
        name: the column.
        values: what its rows hold.
        first_row: the number of the first of these rows, from 1.
        where: the table, for messages.

    Raises:
        InputError: a value cannot travel, or values are of several kinds.
    """
    for number, value in enumerate(values, start=first_row):
        if not isinstance(value, str | int | float | None):
            raise InputError(
                f"columns.keep: {name!r} of row {number} of {where} holds a "
                f"{type(value).__name__}; only texts, numbers and booleans are kept"
            )
    try:
        return pa.array(values)
    except UnicodeEncodeError:
        raise
    except (pa.ArrowException, TypeError, OverflowError):
        raise InputError(
            f"columns.keep: {name!r} of {where} holds values of several kinds; make them all "
            "texts or all numbers"
        ) from None


def key_values(
    values: Sequence[Any], columns: TableColumns, first_row: int, where: str
) -> pa.Array:
    """The keys of a text table; in a column that is not named in the config, only what is one.

    Arguments and errors as for `of_values`.
    """
    keys = list[str | None]()
    for number, value in enumerate(values, start=first_row):
        is_key = isinstance(value, str | int) and not isinstance(value, bool)
        if not is_key and value is not None and columns.key is not None:
            kind = type(value).__name__
            raise InputError(
                f"columns.key: {columns.key!r} of row {number} of {where} holds a {kind}; keys are "
                "texts"
            )
        keys.append(str(value) if is_key else None)
    return pa.array(keys, PACKED[0].type)


def some_keys(carried: pa.Table, columns: TableColumns) -> bool:
    """Whether a row has a key."""
    keys = keys_of(carried[key_name(columns)])
    return bool(keys.null_count < len(keys))


def with_carried(
    images: pa.Table,
    parts: Iterable[pa.Table],
    columns: TableColumns,
    where: str,
    *,
    keyed: bool | None = None,
) -> pa.Table:
    """A list of loose images with the keys and kept columns of their rows.

    Args:
        images: the list of images, with the columns of `SCHEMA`.
        parts: the keys, perhaps null, and kept columns of the rows, in order.
        columns: what the config asks for.
        where: the table, for messages.
        keyed: whether any row has a key, where these are not all rows of the table.

    Raises:
        InputError: a column is of several kinds.
    """
    found = concatenated(parts, where)
    if not found.column_names:
        return images
    keys = keys_of(found[key_name(columns)])
    keyed = keys.null_count < len(images) if keyed is None else keyed
    if columns == NO_COLUMNS and not keyed:
        return images
    kept = [found.schema.field(name) for name in columns.keep]
    schema = packed_schema(tuple(pa.field(field.name, field.type) for field in kept))
    source = pa.nulls(len(images), PACKED[1].type)
    own = [images[name] for name in SCHEMA.names]
    return pa.table([*own, keys, source, *(found[f.name] for f in kept)], schema=schema)


def keys_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Keys as texts; empty ones are none."""
    texts = column.cast(PACKED[0].type)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)


def concatenated(parts: Iterable[pa.Table], where: str) -> pa.Table:
    """Tables with the same columns as one; nulls take the kind of the others.

    Raises:
        InputError: a column is of several kinds.
    """
    tables = list(parts)
    if not tables:
        return pa.table({})
    try:
        whole = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"columns: a column of {where} is of several kinds ({error})") from None
    kinds = [
        pa.field(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in whole.schema
    ]
    return whole.cast(pa.schema(kinds))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def decoded(column: Any) -> Any:
    """A column as it will travel: dictionaries become their values."""
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def refuse_columns(columns: TableColumns, what: str) -> None:
    """Say that there are no columns where some are asked for.

    Raises:
        InputError: some are.
    """
    for setting, value in columns.model_dump(exclude_defaults=True).items():
        raise InputError(f"columns.{setting}: {value!r} is asked for, and {what}")
