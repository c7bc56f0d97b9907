"""``--quiet`` and ``--json-log``, which every command takes, anywhere among its options."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from slimgpt.errors import ConfigError
from slimgpt.reports.loudness import Loudness, entry, for_machines

FLAGS = {"--quiet": Loudness.NOBODY, "--json-log": Loudness.MACHINES}

TEXTS = {
    "--quiet": "The answer and errors only: no plan, no progress.",
    "--json-log": "Progress, notes and errors on stderr as JSON, an object a line, for programs; no plan.",
}


def loudness(arguments: Sequence[str]) -> Loudness:
    """For whom the flags say that a command talks."""
    return next((whom for flag, whom in FLAGS.items() if flag in arguments), Loudness.PEOPLE)


def without_flags(arguments: Sequence[str]) -> list[str]:
    """What else was asked.

    Raises:
        ConfigError: both flags.
    """
    if all(flag in arguments for flag in FLAGS):
        raise ConfigError(f"{' and '.join(FLAGS)} exclude each other: name one.")
    return [argument for argument in arguments if argument not in FLAGS]


def complain(kind: str, text: str) -> None:
    """An error, a warning or an interruption on stderr, in a line."""
    said = f"slimgpt: error: {text}" if kind == "error" else f"slimgpt: {text}"
    print(entry(kind, text=text) if for_machines() else said, file=sys.stderr)
