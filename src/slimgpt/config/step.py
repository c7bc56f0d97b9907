"""A command with its options as data: what studies and efforts chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: what records call it.
        command: of slimgpt.
        positional: its positional arguments, folders mostly.
        options: the others, by the names of fields.
    """

    name: str
    command: str
    positional: tuple[str, ...]
    options: Mapping[str, Any]

    def arguments(self) -> list[str]:
        """As they are given to ``slimgpt``."""
        return [self.command, *self.positional, *(text for item in self.options.items() for text in _flag(*item))]


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, *map(str, value if isinstance(value, (tuple, list)) else [value])]
