"""Tables to rows: JSONL, JSON, CSV, TSV and Parquet, a row at a time, each with its place for messages."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO, cast

from slimgpt.calibration.lines import lines
from slimgpt.calibration.row_text import no_such_field
from slimgpt.errors import CalibrationError

Row = tuple[str, object]
"""Where a row stands, and what it holds."""

ROWS_AT_ONCE = 256
BEGINNING = 64  # bytes that tell a list from JSONL


def jsonl_rows(stream: BinaryIO, place: str, fields: Sequence[str]) -> Iterator[Row]:
    """What each line holds."""
    for number, line in lines(stream, place):
        if line.strip():
            row_place = f"{place}, line {number},"
            yield row_place, _json(line, row_place, "a JSONL file has one object per line: mend or delete the line")


def json_rows(stream: BinaryIO, place: str, fields: Sequence[str]) -> Iterator[Row]:
    """The entries of one JSON list, which is read whole; anything else counts as JSONL."""
    beginning: bytes = cast(Any, stream).peek(BEGINNING)  # all our streams are buffered
    if not beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from jsonl_rows(stream, place, fields)
        return
    entries = _json("".join(line for _, line in lines(stream, place)), place, "check that the file is whole")
    assert isinstance(entries, list)
    yield from ((f"{place}, entry {number},", entry) for number, entry in enumerate(entries, start=1))


def _json(text: str, place: str, cure: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CalibrationError(f"{place} is not valid JSON ({error.msg} at column {error.colno}); {cure}") from error
    except RecursionError as error:
        raise CalibrationError(f"{place} is not JSON that can be read (nested too deeply); {cure}") from error


def separated_rows(delimiter: str, stream: BinaryIO, place: str, fields: Sequence[str]) -> Iterator[Row]:
    """Rows under a line of column names; a field in quotes may hold delimiters and line breaks."""
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses a document of 128 KiB
    reader = csv.reader((line for _, line in lines(stream, place)), delimiter=delimiter, strict=True)
    try:
        columns = next(reader, [])
        _require_one(place, columns, fields)
        for values in reader:
            if values:  # an empty line is no row
                yield _separated(values, columns, f"{place}, line {reader.line_num},")
    except csv.Error as error:
        raise CalibrationError(
            f"{place}, line {reader.line_num}, is not valid CSV ({error}); mend the line, or check that the file is "
            "whole"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _separated(values: list[str], columns: list[str], place: str) -> Row:
    if len(values) != len(columns):
        raise CalibrationError(
            f"{place} has {len(values)} fields, and the first line names {len(columns)}; put text that holds the "
            "delimiter or a line break in double quotes"
        )
    return place, dict(zip(columns, values, strict=True))


def parquet_rows(stream: BinaryIO, place: str, fields: Sequence[str]) -> Iterator[Row]:
    """Rows with those of ``fields`` that are there; the other columns are not read."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(stream if stream.seekable() else io.BytesIO(stream.read()))
        columns = [name for name in table.schema_arrow.names if name in fields]
        _require_one(place, table.schema_arrow.names, fields)
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
            yield from ((place, row) for row in batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise damaged(place, error) from error


def _require_one(place: str, columns: Sequence[str], fields: Sequence[str]) -> None:
    if not set(columns) & set(fields):
        raise no_such_field(place, fields[0], columns)


def damaged(place: str, error: Exception) -> CalibrationError:
    """The error for a file that breaks off or is not what it is called."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return CalibrationError(f"{place} cannot be read: {reason}; check that the file is whole and readable")


TABLES: dict[str, Callable[[BinaryIO, str, Sequence[str]], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".jsonlines": jsonl_rows,
    ".json": json_rows,
    ".csv": partial(separated_rows, ","),
    ".tsv": partial(separated_rows, "\t"),
    ".parquet": parquet_rows,
}
"""By the ending of a file's name: how its rows are read, given the columns of which one at least is wanted."""
