"""Models that answer in the terminal, one or two beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slimgpt.config.generate import AnswerOptions


@dataclass
class Talker:
    """A loaded model, and the conversation as it remembers it.

    Attributes:
        name: what it is called on the screen.
        model: a causal LM.
        tokenizer: its own.
        messages: role and content, as chat templates take them.
    """

    name: str
    model: Any
    tokenizer: Any
    messages: list[dict[str, str]] = field(default_factory=list)

    def answer(self, said: str, options: AnswerOptions) -> str:
        """What it says next; it remembers both."""
        from slimgpt.model.generation import reply

        self.messages.append({"role": "user", "content": said})
        settings = (options.max_new_tokens, options.temperature, options.seed)
        answer = reply(self.model, self.tokenizer, self.messages, *settings).strip()
        self.messages.append({"role": "assistant", "content": answer})
        return answer


def lines(ask: Callable[[str], str], prompt: str) -> Iterator[str]:
    """What the user types, up to an empty line or the end of the input."""
    while True:
        try:
            said = ask(prompt).strip()
        except EOFError:
            return
        if not said:
            return
        yield said


def print_beside(console: Console, names: Sequence[str], answers: Sequence[str]) -> None:
    """Answers in columns, each under its model's name."""
    table = Table(expand=True)
    for name in names:
        table.add_column(Text(name), ratio=1, overflow="fold")
    table.add_row(*map(Text, answers))
    console.print(table)
