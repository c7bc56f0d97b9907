"""What people train on: instructions, conversations or plain text, read to pieces of text that are learned or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimgpt.calibration import files
from slimgpt.calibration.sampling import DOCUMENT_BREAK
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


def read_examples(path: str, tokenizer: Any) -> list[Example]:
    """All examples of a file: JSONL (``.jsonl``, ``.json``) by its fields, anything else as plain text.

    Raises:
        CalibrationError: the file cannot be read, or has a line without the needed fields (its number is named), or
            nothing in it.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CalibrationError(
            f"data {path!r} does not exist: name a JSONL file with instruction/input/output, messages or text, or a "
            "text file."
        )
    rows = files.format_of(file) in (".jsonl", ".json")
    found = _from_rows(file, tokenizer) if rows else (_plain(text) for text in files.documents(file))
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


def _from_rows(file: Path, tokenizer: Any) -> Iterator[Example]:
    for place, row in files.rows(file):
        fields = row if isinstance(row, Mapping) else {}
        read = next((read for needed, read in FORMATS.items() if needed <= set(fields)), None)
        if read is None:
            raise CalibrationError(
                f"{place} has {', '.join(sorted(map(str, fields))) or 'no fields'}: it needs instruction and output "
                "(input may be there), or messages, or text."
            )
        yield read(fields, place, tokenizer)


def _instruction(row: Mapping[str, Any], place: str, tokenizer: Any) -> Example:
    """Stanford Alpaca's prompt, with and without an input."""
    instruction, given, output = (_string(row, name, place) for name in ("instruction", "input", "output"))
    prompt = INTRODUCTION + (WITH_INPUT if given else "") + REQUEST + f"### Instruction:\n{instruction}\n\n"
    if given:
        prompt += f"### Input:\n{given}\n\n"
    return Example((Piece(f"{prompt}### Response:\n", False), Piece(output, True)), dialogue=True)


def _messages(row: Mapping[str, Any], place: str, tokenizer: Any) -> Example:
    """The tokenizer's own chat template; what it writes between an assistant's turn and the next one is learned too."""
    messages = row["messages"]
    if not (isinstance(messages, list) and messages and all(map(_is_message, messages))):
        raise CalibrationError(f"{place}: messages must be a list of objects with role and content, both strings.")
    if getattr(tokenizer, "chat_template", None) is None:
        raise CalibrationError(
            f"{place} has messages, but the model's tokenizer has no chat template: use instruction/input/output."
        )
    pieces: list[Piece] = []
    written = ""
    for index, message in enumerate(messages):
        answers = message["role"] == "assistant"
        before = _rendered(messages[:index], tokenizer, place, prompted=answers) if index else ""
        after = _rendered(messages[: index + 1], tokenizer, place)
        if not (before.startswith(written) and after.startswith(before)):
            raise CalibrationError(
                f"{place}: the chat template changes what it wrote once message {index + 1} comes, so responses cannot "
                "be told from prompts: give one exchange a line."
            )
        pieces += [Piece(before[len(written) :], False), Piece(after[len(before) :], answers)]
        written = after
    return Example(tuple(piece for piece in pieces if piece.text), dialogue=True)


def _rendered(messages: list[Any], tokenizer: Any, place: str, prompted: bool = False) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompted))
    except Exception as error:  # templates are programs of others and raise what they like
        raise CalibrationError(f"{place}: the chat template refuses the messages ({error}).") from error


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _text(row: Mapping[str, Any], place: str, tokenizer: Any) -> Example:
    return _plain(files.text_of(row, place))


def _plain(text: str) -> Example:
    return Example((Piece(text, True),), dialogue=False)


def _string(row: Mapping[str, Any], name: str, place: str) -> str:
    value = row.get(name) or ""
    if not isinstance(value, str):
        raise CalibrationError(f"{place} has the field {name!r} as {type(value).__name__}; it must be a string.")
    return value


FORMATS: dict[frozenset[str], Callable[[Mapping[str, Any], str, Any], Example]] = {
    frozenset({"instruction", "output"}): _instruction,
    frozenset({"messages"}): _messages,
    frozenset({"text"}): _text,
}
"""Fields that a line must have -> how it is read; the first that fits."""
