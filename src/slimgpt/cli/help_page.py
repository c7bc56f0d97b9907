"""The page that ``slimgpt COMMAND --help`` prints: options in groups, what each takes and does, examples.

tyro parses; its own page has one long list, so this one is made from the same dataclasses and their docstrings.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from tyro.conf import Positional

from slimgpt.cli.help_groups import ELSEWHERE, EXAMPLES, GROUPS
from slimgpt.cli.loudness import TEXTS

WORDS = {int: "INT", float: "FLOAT", str: "TEXT"}
MOST = 110  # columns; longer lines are hard to read


def print_help(name: str, config: type) -> None:
    """Print the page of a command."""
    console = _console()
    texts = descriptions(config)
    own = {field.name: field for field in fields(config)}
    positional = {key: field for key, field in own.items() if is_positional(config, key)}
    named = {key: field for key, field in own.items() if key not in positional}
    usage = " ".join(["slimgpt", name, *(metavar(config, key) for key in positional), "[options]"])
    console.print(Text.assemble(("usage: ", "bold"), usage), end="\n\n")
    console.print(_flowing(config.__doc__ or ""), end="\n\n")
    _print_rows(console, "", [(metavar(config, key), texts[key]) for key in positional])
    for title in GROUPS:
        rows = [(flag(config, named[key]), _what(texts[key], named[key])) for key in _keys(name, title) if key in named]
        _print_rows(console, title, rows)
    _print_rows(console, "", [*TEXTS.items(), ("-h, --help", "This page.")])
    console.print(Text("examples", "bold"))
    for line in EXAMPLES[name]:
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def _keys(command: str, title: str) -> list[str]:
    """Options that may stand under a title on the page of a command."""
    own = [key for (name, key), there in ELSEWHERE.items() if name == command and there == title]
    return own + [key for key in GROUPS[title].split() if (command, key) not in ELSEWHERE]


def print_commands(description: str, commands: Mapping[str, type]) -> None:
    """Print the page of them all."""
    console = _console()
    console.print(Text.assemble(("usage: ", "bold"), "slimgpt COMMAND [options]"), end="\n\n")
    console.print(description, end="\n\n")
    _print_rows(console, "commands", [(name, _flowing(config.__doc__ or "")) for name, config in commands.items()])
    _print_rows(console, "", [("COMMAND --help", "What it takes, and examples."), ("--version", "The version.")])


def descriptions(config: type) -> dict[str, str]:
    """What stands below each field, of bases too."""
    found: dict[str, str] = {}
    for kind in reversed(config.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        found |= dict(_described(body))
    return found


def _described(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for node, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield ast.unparse(node.target), _flowing(str(below.value.value))


def is_positional(config: type, key: str) -> bool:
    """Whether the command line takes it by its place."""
    marks = get_args(get_type_hints(config, include_extras=True)[key])[1:]
    return any(mark is get_args(Positional[int])[1] for mark in marks)


def flag(config: type, field: Field[Any]) -> str:
    """``--name VALUE``, a short name before it where there is one, and ``--no-name`` for what is on by itself."""
    name = field.name.replace("_", "-")
    if field.type == "bool":
        return f"--no-{name}" if field.default is True else f"--{name}"
    marks = get_args(get_type_hints(config, include_extras=True)[field.name])[1:]
    short = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
    return ", ".join([*short, f"--{name} {metavar(config, field.name)}"])


def metavar(config: type, key: str) -> str:
    """What stands for a value: ``FLOAT``, ``{a,b}``, ``TEXT ...``."""
    hint = get_type_hints(config, include_extras=True)[key]
    named = [mark.metavar for mark in get_args(hint)[1:] if getattr(mark, "metavar", None)]
    return str(named[0]) if named else _word(get_type_hints(config)[key])


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is tuple:
        return f"{_word(get_args(kind)[0])} ..."
    if kind is bool:
        return "{True,False}"
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Union or parts:
        return _word(str if str in parts else parts[0])
    return WORDS[kind]


def _what(text: str, field: Field[Any]) -> str:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if default is MISSING:
        return f"{text} (required)"
    if default is None or isinstance(default, bool) or default == () or "Default:" in text:
        return text
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} (default: {shown})"


def _flowing(text: str) -> str:
    """Without the line breaks of the source."""
    return " ".join(text.split())


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=False)
    console.width = min(console.width, MOST)
    return console


def _print_rows(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """A group: each name on a line of its own, so that the text below keeps its width."""
    if title and rows:
        console.print(Text(title, "bold"))
    for name, text in rows:
        console.print(Padding(Text(name, "cyan"), (0, 0, 0, 2), expand=False))
        console.print(Padding(Text(text), (0, 0, 0, 6), expand=False))
    if rows:
        console.print()
