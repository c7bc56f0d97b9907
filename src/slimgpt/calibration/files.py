"""One file to documents: plain text or a table, compressed or not, never held whole (but for one JSON list)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from slimgpt.calibration.lines import passages
from slimgpt.calibration.row_text import RowText
from slimgpt.calibration.tables import TABLES, Row, damaged
from slimgpt.errors import CalibrationError

TEXTS = (".txt", ".text", ".md", ".raw", ".tokens")
"""Endings of prose (the last two are WikiText's)."""

CODE = (
    *(".c", ".cc", ".cpp", ".cs", ".go", ".h", ".hpp", ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".php", ".pl"),
    *(".py", ".pyi", ".r", ".rb", ".rs", ".rst", ".scala", ".sh", ".sql", ".swift", ".tex", ".ts", ".tsx"),
)
"""Endings of source code, which is plain text too; not of pages, whose tags nobody means to learn."""


def documents(path: Path, text_of: RowText) -> Iterator[str]:
    """The documents of one file in their order, read as they are asked for.

    The ending of the name tells the compression, the ending before it the format (see ``DECOMPRESSORS``, ``TEXTS``,
    ``CODE`` and ``TABLES``); a name without any is plain text.

    Raises:
        CalibrationError: the ending is unknown, or the file cannot be opened, is damaged, binary or not UTF-8, or has a
            row that holds no text.
    """
    if is_table(path):
        yield from (text_of(row, place) for place, row in rows(path, text_of.fields))
        return
    require_known(path)
    with _opened(path) as stream:
        yield from passages(stream, str(path))


def rows(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """The rows of a table, each with its place (file and line) for messages; columns beside ``fields`` may be left out.

    Raises:
        CalibrationError: the file cannot be opened, is damaged or not UTF-8, has a row that is none, or no column of
            ``fields``.
    """
    with _opened(path) as stream:
        yield from TABLES[format_of(path)](stream, str(path), fields)


def is_table(path: Path) -> bool:
    """The file has rows, by its ending."""
    return format_of(path) in TABLES


def is_known(path: Path) -> bool:
    """The ending says what the file holds, or there is none."""
    return is_table(path) or format_of(path) in ("", *TEXTS, *CODE)


def require_known(path: Path) -> None:
    """Refuse a file whose ending is that of neither text nor table.

    Raises:
        CalibrationError: says which endings are known.
    """
    if not is_known(path):
        raise CalibrationError(
            f"{path} ends in {format_of(path)!r}, which is neither text ({', '.join(TEXTS)}, or source code "
            f"such as .py) nor a table ({', '.join(TABLES)}), compressed or not ({', '.join(DECOMPRESSORS)}); if it is "
            "plain text, give it a name in .txt"
        )


def format_of(path: Path) -> str:
    """The ending that tells a file's format, such as ``.jsonl``, behind one that tells a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in DECOMPRESSORS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file without its compression."""
    try:
        with DECOMPRESSORS.get(path.suffix.lower(), _open_plain)(path) as stream:
            yield stream
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise damaged(str(path), error) from error


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
