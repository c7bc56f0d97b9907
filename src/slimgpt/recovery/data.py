"""What people train on: instructions, conversations or plain text, read to pieces of text that are learned or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from slimgpt.calibration import files
from slimgpt.calibration.row_text import MESSAGES, PLAIN, TEXT_FIELD, RowText, check_messages, rendered
from slimgpt.calibration.sampling import DOCUMENT_BREAK
from slimgpt.config.paths import path_of
from slimgpt.errors import CalibrationError

INTRODUCTION = "Below is an instruction that describes a task"
WITH_INPUT = ", paired with an input that provides further context"
REQUEST = ". Write a response that appropriately completes the request.\n\n"


class Piece(NamedTuple):
    """A run of text: a response that the model is to give, or what it is given to respond to."""

    text: str
    learned: bool


class Example(NamedTuple):
    """One line of the data.

    Attributes:
        pieces: its text in order.
        dialogue: it has a beginning and an end that the model has to see, and is not cut into several; plain text has
            neither.
    """

    pieces: tuple[Piece, ...]
    dialogue: bool


def read_examples(path: str, tokenizer: Any, text_field: str = TEXT_FIELD) -> list[Example]:
    """All examples of a file: tables (JSONL, CSV, TSV, Parquet) by their fields, anything else as plain text.

    Raises:
        CalibrationError: the file cannot be read, is neither text nor table, or has a row without the needed fields
            (its number is named), or nothing in it.
    """
    file = path_of(path, "data")
    if not file.is_file():
        raise CalibrationError(
            f"data {path!r} does not exist: name a table (JSONL, CSV, TSV, Parquet) with instruction/input/output, "
            "messages or text, or a text file."
        )
    if files.is_table(file):
        found = _from_rows(file, tokenizer, _formats(text_field))
    else:
        found = (_plain(text) for text in files.documents(file, PLAIN))
    examples = [example for example in found if any(piece.text.strip() for piece in example.pieces)]
    if not examples:
        raise CalibrationError(f"data {path!r} is empty: name a file with something in it.")
    return examples


def joined(examples: Sequence[Example]) -> list[Example]:
    """All plain texts as one, each with a blank line behind it as in calibration windows; dialogues stay apart."""
    texts = [piece for example in examples if not example.dialogue for piece in example.pieces]
    stream = tuple(piece._replace(text=piece.text.strip("\n") + DOCUMENT_BREAK) for piece in texts)
    dialogues = [example for example in examples if example.dialogue]
    return [Example(stream, dialogue=False), *dialogues] if stream else dialogues


def _from_rows(file: Path, tokenizer: Any, formats: Formats) -> Iterator[Example]:
    fields = sorted({field for needed in formats for field in needed} | {"input"})
    for place, row in files.rows(file, fields):
        there = row if isinstance(row, Mapping) else {}
        read = _reader(there, formats)
        if read is None:
            raise CalibrationError(
                f"{place} has {', '.join(sorted(map(str, there))) or 'no fields'}: it needs "
                f"{', or '.join(' and '.join(sorted(needed)) for needed in formats)}. --text-field names another "
                "column of text."
            )
        yield read(there, place, tokenizer)


def _reader(row: Mapping[str, Any], formats: Formats) -> Reader | None:
    """How a row is read: the first way whose fields all hold something, or else are all there."""
    held = {name for name, value in row.items() if value is not None}
    fitting = (read for names in (held, set(row)) for needed, read in formats.items() if needed <= names)
    return next(fitting, None)


def _instruction(row: Mapping[str, Any], place: str, tokenizer: Any) -> Example:
    """Stanford Alpaca's prompt, with and without an input."""
    instruction, given, output = (_string(row, name, place) for name in ("instruction", "input", "output"))
    prompt = INTRODUCTION + (WITH_INPUT if given else "") + REQUEST + f"### Instruction:\n{instruction}\n\n"
    if given:
        prompt += f"### Input:\n{given}\n\n"
    return Example((Piece(f"{prompt}### Response:\n", False), Piece(output, True)), dialogue=True)


def _messages(row: Mapping[str, Any], place: str, tokenizer: Any) -> Example:
    return _dialogue(row[MESSAGES], place, tokenizer)


def _dialogue(messages: Any, place: str, tokenizer: Any) -> Example:
    """The tokenizer's own chat template; what it writes between an assistant's turn and the next one is learned too."""
    check_messages(messages, tokenizer, place)
    pieces: list[Piece] = []
    written = ""
    for index, message in enumerate(messages):
        answers = message["role"] == "assistant"
        before = rendered(messages[:index], tokenizer, place, prompted=answers) if index else ""
        after = rendered(messages[: index + 1], tokenizer, place)
        if not (before.startswith(written) and after.startswith(before)):
            raise CalibrationError(
                f"{place} has messages that the chat template writes otherwise once message {index + 1} comes, so "
                "responses cannot be told from prompts: give one exchange a line."
            )
        pieces += [Piece(before[len(written) :], False), Piece(after[len(before) :], answers)]
        written = after
    return Example(tuple(piece for piece in pieces if piece.text), dialogue=True)


def _text(field: str, row: Mapping[str, Any], place: str, tokenizer: Any) -> Example:
    if isinstance(row[field], list):
        return _dialogue(row[field], place, tokenizer)
    return _plain(RowText(field)(row, place))


def _plain(text: str) -> Example:
    return Example((Piece(text, True),), dialogue=False)


def _string(row: Mapping[str, Any], name: str, place: str) -> str:
    value = row.get(name) or ""
    if not isinstance(value, str):
        raise CalibrationError(f"{place} has the field {name!r} as {type(value).__name__}; it must be a string.")
    return value


Reader = Callable[[Mapping[str, Any], str, Any], Example]
Formats = Mapping[frozenset[str], Reader]
"""Fields that a row must have -> how it is read; the first that fits."""

FORMATS: Formats = {
    frozenset({"instruction", "output"}): _instruction,
    frozenset({MESSAGES}): _messages,
    frozenset({TEXT_FIELD}): partial(_text, TEXT_FIELD),
}


def _formats(text_field: str) -> Formats:
    """Another column of text takes the place of 'text', and comes before everything else."""
    if text_field == TEXT_FIELD:
        return FORMATS
    others = {needed: read for needed, read in FORMATS.items() if needed != {TEXT_FIELD}}
    return {frozenset({text_field}): partial(_text, text_field), **others}
