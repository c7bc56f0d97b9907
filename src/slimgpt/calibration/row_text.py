"""A row of a table to its text: a column as it is, or chat messages as the model's own template writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt.errors import CalibrationError

TEXT_FIELD, MESSAGES = "text", "messages"


@dataclass(frozen=True)
class RowText:
    """What a row's text is.

    Attributes:
        text_field: the column that holds it.
        tokenizer: whose chat template renders messages; without one they are refused.
    """

    text_field: str = TEXT_FIELD
    tokenizer: Any = None

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that may hold the text; the first that is there does."""
        return (TEXT_FIELD, MESSAGES) if self.text_field == TEXT_FIELD else (self.text_field,)

    @property
    def identity(self) -> tuple[object, ...]:
        """What the text depends on beside the row."""
        return self.text_field, getattr(self.tokenizer, "chat_template", None)

    def __call__(self, row: object, place: str) -> str:
        """The text of a row; a null counts as an empty document.

        Raises:
            CalibrationError: the row is no object, or has no text; ``place`` opens the message.
        """
        if not isinstance(row, Mapping):
            raise CalibrationError(
                f'{place} is a JSON {type(row).__name__}, not an object; write {{"{self.text_field}": "..."}} a line'
            )
        present = [name for name in self.fields if name in row]
        if not present:
            raise no_such_field(place, self.text_field, row)
        name = next((name for name in present if row[name] is not None), present[0])
        value = row[name]
        if isinstance(value, list):
            return self._chat(value, place)
        if not isinstance(value, str | None):
            raise CalibrationError(f"{place} has the field {name!r} as {type(value).__name__}; it must be a string")
        # JSON can spell half a surrogate pair, usually a cut-off emoji, which no tokenizer takes.
        return (value or "").encode("utf-8", "replace").decode("utf-8")

    def _chat(self, messages: list[Any], place: str) -> str:
        """A conversation without the BOS token that some templates write: where it stands is the windows' affair."""
        check_messages(messages, self.tokenizer, place)
        return rendered(messages, self.tokenizer, place).removeprefix(self.tokenizer.bos_token or "")


PLAIN = RowText()
"""The column ``text``, and no messages."""


def check_messages(messages: object, tokenizer: Any, place: str) -> None:
    """Refuse what a chat template cannot render.

    Raises:
        CalibrationError: no list of messages with role and content, or a tokenizer without a chat template.
    """
    if not (isinstance(messages, list) and messages and all(map(_is_message, messages))):
        raise CalibrationError(f"{place} has messages that are no list of objects with role and content, both strings.")
    if getattr(tokenizer, "chat_template", None) is None:
        raise CalibrationError(
            f"{place} has messages, but the model's tokenizer has no chat template: give plain text instead."
        )


def rendered(messages: Sequence[Any], tokenizer: Any, place: str, prompted: bool = False) -> str:
    """Messages as the tokenizer's chat template writes them, and with ``prompted`` what opens the next answer.

    Raises:
        CalibrationError: the template refuses them.
    """
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompted))
    except Exception as error:  # templates are programs of others and raise what they like
        raise CalibrationError(f"{place} has messages that the chat template refuses ({error}).") from error


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def no_such_field(place: str, field: str, present: Iterable[Any]) -> CalibrationError:
    """The error for a row or a table without the column that is to hold the text."""
    found = ", ".join(map(str, present)) or "nothing"
    return CalibrationError(
        f"{place} has no field {field!r}, only {found}; name the one that holds the text by --text-field"
    )
