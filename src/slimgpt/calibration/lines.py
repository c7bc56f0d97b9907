"""Bytes to lines of UTF-8, and lines to passages of plain text."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from slimgpt.errors import CalibrationError

# Plain text has no documents of its own. Whole paragraphs are gathered up to this size, so that a window
# of usual length sees connected prose, yet a large file still falls into many pieces to draw from.
PASSAGE_CHARS = 32 * 1024


def passages(stream: BinaryIO, place: str) -> Iterator[str]:
    """Plain text in pieces, whole paragraphs where it has any.

    Raises:
        CalibrationError: as :func:`lines`.
    """
    passage: list[str] = []
    num_chars = 0
    for _, line in lines(stream, place, longest=PASSAGE_CHARS):
        passage.append(line)
        num_chars += len(line)
        full = num_chars >= PASSAGE_CHARS and not line.strip()
        if full or num_chars >= 2 * PASSAGE_CHARS:  # text without blank lines is cut all the same
            yield "".join(passage)
            passage, num_chars = [], 0
    yield "".join(passage)


def lines(stream: BinaryIO, place: str, longest: int = -1) -> Iterator[tuple[int, str]]:
    """Numbered lines of UTF-8; lines beyond ``longest`` bytes come in pieces that share the number.

    Raises:
        CalibrationError: binary, or not UTF-8; ``place`` opens the message.
    """
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
