"""The command line: parses options, calls the library, prints. ``slimgpt COMMAND --help`` says it all.

Comes in: arguments. Goes out: lines on the terminal and an exit status.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from slimgpt._version import __version__
from slimgpt.cli.commands import COMMANDS
from slimgpt.cli.help_page import print_commands, print_help
from slimgpt.cli.loudness import complain, loudness, without_flags
from slimgpt.cli.streams import lost, patient_streams
from slimgpt.config import read_recipe
from slimgpt.errors import ConfigError, DamageWarning, SlimGPTError, is_text, shown
from slimgpt.machine.full_disk import full_disk_named
from slimgpt.reports.loudness import talking_to

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what shells expect after Ctrl-C

DESCRIPTION = "Make language models smaller: whole heads and FFN channels gone, survivors optimally repaired."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # one progress bar is enough: libraries keep theirs to themselves
    with patient_streams(), talking_to(loudness(arguments)):
        status = _run(arguments)
        if (failure := lost()) is None:
            return status
        complain("error", f"what was said cannot be written ({failure}): make room there.")
        return EXIT_BAD_INPUT


def _run(arguments: list[str]) -> int:
    try:
        _check_text(arguments)
        arguments = without_flags(arguments)
        if _said(arguments):
            return 0
        config = _parse(arguments)
        config.check()
        with _warnings_in_a_line(), full_disk_named(None):  # what no command has better words for
            return next(command.run for command in COMMANDS.values() if command.config is type(config))(config) or 0
    except SlimGPTError as error:
        complain("error", " ".join(str(error).split("\n")))
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        complain("interrupted", f"interrupted.{_how_to_resume(arguments)}")
        return EXIT_INTERRUPTED


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Inside, our own warnings are a line each, like our errors."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, DamageWarning):
            complain("warning", str(message))
        else:
            others(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", DamageWarning)
        others, warnings.showwarning = warnings.showwarning, show
        yield


def _check_text(arguments: list[str]) -> None:
    """What is given stands in records and cards, too."""
    for argument in arguments:
        if not is_text(argument):
            raise ConfigError(f"{shown(argument)} is not UTF-8: rename what it names, or write it anew.")


def _said(arguments: list[str]) -> bool:
    """Whether only a page of help or the version was asked for, which is then printed."""
    asked = {"-h", "--help"} & {*arguments}
    if not arguments or (asked and arguments[0] not in COMMANDS):
        print_commands(DESCRIPTION, {name: command.config for name, command in COMMANDS.items()})
    elif asked:
        print_help(arguments[0], COMMANDS[arguments[0]].config)
    elif arguments == ["--version"]:
        print(f"slimgpt {__version__}")
    else:
        return False
    return True


def _parse(arguments: list[str]) -> Any:
    """Options from flags; a recipe's values stand where flags do not."""
    commands = [
        Annotated[command.config, subcommand(name, default=_with_recipe(command.config, arguments))]
        if "recipe" in _fields(command.config)
        else Annotated[command.config, subcommand(name)]
        for name, command in COMMANDS.items()
    ]
    union: Any = Union[tuple(commands)]  # noqa: UP007  (built at run time)
    return tyro.cli(union, args=arguments, prog="slimgpt", description=DESCRIPTION)


def _with_recipe(config: Any, arguments: list[str]) -> Any:
    """The options that flags may still change: a recipe's where it was asked for, nothing where one is required."""
    required = [
        field.name
        for field in dataclasses.fields(config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    path = _recipe_path(arguments) if arguments[:1] and COMMANDS.get(arguments[0], (None,))[0] is config else None
    options = read_recipe(path, config) if path is not None else {}
    return config(**{**dict.fromkeys(required, tyro.MISSING), **options})


def _recipe_path(arguments: list[str]) -> str | None:
    """FILE of ``--recipe FILE``, read before the flags so that flags win."""
    for index, argument in enumerate(arguments):
        if argument == "--recipe" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--recipe="):
            return argument.removeprefix("--recipe=")
    return None


def _how_to_resume(arguments: list[str]) -> str:
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None or "resume" not in _fields(command.config):
        return ""
    return " What is finished is kept: give the same command with --resume to go on."


def _fields(config: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}
