"""One file to documents: plain text, JSONL or Parquet, compressed or not, never held whole."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from slimgpt.errors import CalibrationError

TEXT_FIELD = "text"

# Plain text has no documents of its own. Whole paragraphs are gathered up to this size, so that a window
# of usual length sees connected prose, yet a large file still falls into many pieces to draw from.
PASSAGE_CHARS = 32 * 1024


def documents(path: Path) -> Iterator[str]:
    """The documents of one file in their order, read as they are asked for.

    The ending of the name tells the compression, the ending before it the format (see ``DECOMPRESSORS`` and
    ``FORMATS``); anything else is plain text.

    Raises:
        CalibrationError: the file cannot be opened, is damaged, binary or not UTF-8, or has a row that holds
            no text.
    """
    with _opened(path) as (stream, suffix):
        yield from FORMATS.get(suffix, _text_documents)(stream, str(path))


def rows(path: Path) -> Iterator[tuple[str, object]]:
    """What the lines of a JSONL file hold, compressed or not, each with its place (file and line) for messages.

    Raises:
        CalibrationError: the file cannot be opened, is damaged or not UTF-8, or has a line that is not JSON.
    """
    with _opened(path) as (stream, _):
        yield from _jsonl_rows(stream, str(path))


def format_of(path: Path) -> str:
    """The ending that tells a file's format, such as ``.jsonl``, behind one that tells a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in DECOMPRESSORS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A file without its compression, and the ending that tells its format."""
    try:
        with DECOMPRESSORS.get(path.suffix.lower(), _open_plain)(path) as stream:
            yield stream, format_of(path)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise _damaged(str(path), error) from error


def text_of(row: object, place: str) -> str:
    """The text of a JSONL, Parquet or hub row; a null counts as an empty document.

    Raises:
        CalibrationError: the row is no object, or has no text; ``place`` opens the message.
    """
    if not isinstance(row, Mapping):
        raise CalibrationError(
            f'{place} is a JSON {type(row).__name__}, not an object; write {{"{TEXT_FIELD}": "..."}} a line'
        )
    if TEXT_FIELD not in row:
        raise _no_text_field(place, list(row))
    text = row[TEXT_FIELD]
    if not isinstance(text, str | None):
        raise CalibrationError(f"{place} has the field {TEXT_FIELD!r} as {type(text).__name__}; it must be a string")
    # JSON can spell half a surrogate pair, usually a cut-off emoji, which no tokenizer takes.
    return (text or "").encode("utf-8", "replace").decode("utf-8")


def _text_documents(stream: BinaryIO, place: str) -> Iterator[str]:
    passage: list[str] = []
    num_chars = 0
    for _, line in _lines(stream, place, longest=PASSAGE_CHARS):
        passage.append(line)
        num_chars += len(line)
        full = num_chars >= PASSAGE_CHARS and not line.strip()
        if full or num_chars >= 2 * PASSAGE_CHARS:  # text without blank lines is cut all the same
            yield "".join(passage)
            passage, num_chars = [], 0
    yield "".join(passage)


def _jsonl_documents(stream: BinaryIO, place: str) -> Iterator[str]:
    yield from (text_of(row, row_place) for row_place, row in _jsonl_rows(stream, place))


def _jsonl_rows(stream: BinaryIO, place: str) -> Iterator[tuple[str, object]]:
    for number, line in _lines(stream, place):
        if line.strip():
            row_place = f"{place}, line {number},"
            yield row_place, _json(line, row_place)


def _json(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise CalibrationError(
            f"{place} is not valid JSON ({error.msg} at column {error.colno}); a JSONL file has one object "
            "per line: mend or delete the line"
        ) from error


def _parquet_documents(stream: BinaryIO, place: str) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(stream)
        if TEXT_FIELD not in table.schema_arrow.names:
            raise _no_text_field(place, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=256, columns=[TEXT_FIELD]):
            yield from (text_of(row, place) for row in batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise _damaged(place, error) from error


def _lines(stream: BinaryIO, place: str, longest: int = -1) -> Iterator[tuple[int, str]]:
    """Numbered lines of UTF-8; lines beyond ``longest`` bytes come in pieces that share the number."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()  # keeps a character that a piece cuts in two
    number = 1
    while raw := stream.readline(longest):
        if b"\0" in raw:
            raise CalibrationError(f"{place} is binary: line {number} holds a NUL byte; give UTF-8 text")
        yield number, _decode(decoder, raw, place, number)
        number += raw.endswith(b"\n")
    _decode(decoder, b"", place, number)  # the end of the file may have cut a character off


def _decode(decoder: codecs.IncrementalDecoder, raw: bytes, place: str, number: int) -> str:
    try:
        return decoder.decode(raw, final=not raw)
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{place} is not UTF-8: line {number} holds the byte 0x{error.object[error.start]:02x} "
            f"({error.reason}); convert the file to UTF-8"
        ) from error


def _no_text_field(place: str, fields: list[Any]) -> CalibrationError:
    present = ", ".join(map(str, fields)) or "nothing"
    return CalibrationError(
        f"{place} has no field {TEXT_FIELD!r}, only {present}; rename the field that holds the text"
    )


def _damaged(place: str, error: Exception) -> CalibrationError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return CalibrationError(f"{place} cannot be read: {reason}; check that the file is whole and readable")


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_zstd(path: Path) -> BinaryIO:
    import pyarrow  # the standard library has zstd only from Python 3.14 on

    return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(path, compression="zstd")))


Opener = Callable[[Path], BinaryIO]
DECOMPRESSORS: dict[str, Opener] = {
    ".gz": cast(Opener, gzip.open),
    ".bz2": cast(Opener, bz2.open),
    ".xz": cast(Opener, lzma.open),
    ".zst": _open_zstd,
}
FORMATS: dict[str, Callable[[BinaryIO, str], Iterator[str]]] = {
    ".txt": _text_documents,
    ".md": _text_documents,
    ".json": _jsonl_documents,
    ".jsonl": _jsonl_documents,
    ".parquet": _parquet_documents,
}
