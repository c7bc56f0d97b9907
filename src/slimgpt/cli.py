"""The command line: parses options, calls the library, prints. ``slimgpt COMMAND --help`` says it all."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
import yaml
from tyro.conf import subcommand

from slimgpt.config import (
    EvalConfig,
    ExportConfig,
    FamiliesConfig,
    GenerateConfig,
    InspectConfig,
    PruneConfig,
    options_from,
)
from slimgpt.errors import ConfigError, OutputError, SlimGPTError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what shells expect after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # one progress bar is enough: libraries keep theirs to themselves
    try:
        config = _parse(arguments)
        config.check()
        COMMANDS[type(config)](config)
    except SlimGPTError as error:
        print("slimgpt: error:", *str(error).split("\n"), file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"slimgpt: interrupted.{_how_to_resume(arguments)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _parse(arguments: list[str]) -> Any:
    """Options from flags; a recipe's values stand where flags do not."""
    prune_default = dataclasses.replace(PruneConfig(tyro.MISSING, tyro.MISSING), **_recipe(arguments))
    command = Union[  # noqa: UP007  (built at run time)
        Annotated[PruneConfig, subcommand("prune", default=prune_default)],
        Annotated[EvalConfig, subcommand("eval")],
        Annotated[InspectConfig, subcommand("inspect")],
        Annotated[FamiliesConfig, subcommand("families")],
        Annotated[GenerateConfig, subcommand("generate")],
        Annotated[ExportConfig, subcommand("export")],
    ]
    return tyro.cli(command, args=arguments, prog="slimgpt", description=DESCRIPTION)


DESCRIPTION = "Make language models smaller: whole heads and FFN channels gone, survivors optimally repaired."


def _recipe(arguments: list[str]) -> dict[str, Any]:
    """The options of ``--recipe FILE``, read before the flags so that flags win."""
    for index, argument in enumerate(arguments):
        if argument == "--recipe" and index + 1 < len(arguments):
            return read_recipe(arguments[index + 1])
        if argument.startswith("--recipe="):
            return read_recipe(argument.removeprefix("--recipe="))
    return {}


def read_recipe(path: str) -> dict[str, Any]:
    """Options for ``prune`` from a YAML file.

    Raises:
        ConfigError: missing, not YAML, not a mapping, or with an unknown or ill-typed option.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"--recipe {path!r} does not exist: name a YAML file of prune options.")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--recipe {path!r} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--recipe {path!r} must hold 'option: value' lines.")
    return options_from(settings, f"--recipe {path}")


def _prune(config: PruneConfig) -> None:
    from slimgpt.driver import prune
    from slimgpt.report.console import ProgressObserver, out, print_record

    observer = ProgressObserver()
    try:
        result = prune(config, observer)
    finally:
        observer.close()
    if result.record:  # of several processes one has it
        print_record(result.record)
        out.print(f"Written to {result.path}")


def _eval(config: EvalConfig) -> None:
    from slimgpt.evaluation import perplexity, read_text
    from slimgpt.loading import load_model
    from slimgpt.report.console import print_perplexity

    _refuse_existing(config.json)
    text = read_text(config.text)
    model, tokenizer = load_model(config.model, config.device)
    result = perplexity(model, tokenizer, text, config.seqlen, config.max_tokens, config.batch_size)
    print_perplexity(config.model, config.text, result)
    _write_json(config.json, {"model": config.model, "text": config.text, **dataclasses.asdict(result)})


def _inspect(config: InspectConfig) -> None:
    from slimgpt.inspection import inspect_model
    from slimgpt.report.console import print_inspection

    _refuse_existing(config.json)
    inspection = inspect_model(config.model)
    print_inspection(inspection)
    _write_json(config.json, inspection)


def _families(config: FamiliesConfig) -> None:
    from slimgpt.arch import FAMILIES
    from slimgpt.report.console import print_families

    print_families(FAMILIES)


def _generate(config: GenerateConfig) -> None:
    from slimgpt.generation import generate
    from slimgpt.loading import load_model

    model, tokenizer = load_model(config.model, config.device)
    print(
        generate(model, tokenizer, config.prompt, config.max_new_tokens, config.temperature, config.chat, config.seed)
    )


def _export(config: ExportConfig) -> None:
    from slimgpt.export import export

    done = export(config)
    for note in done.notes:
        print(note)
    if done.path is not None:
        print(f"Written to {done.path}")


COMMANDS: dict[type, Callable[[Any], None]] = {
    PruneConfig: _prune,
    EvalConfig: _eval,
    InspectConfig: _inspect,
    FamiliesConfig: _families,
    GenerateConfig: _generate,
    ExportConfig: _export,
}


def _refuse_existing(path: str | None) -> None:
    if path is None:
        return
    if Path(path).exists():
        raise OutputError(f"--json {path} exists: choose another name, or remove it.")
    if not Path(path).absolute().parent.is_dir():
        raise OutputError(f"--json {path} cannot be written: there is no folder {Path(path).parent}. Make it first.")


def _write_json(path: str | None, content: Any) -> None:
    from slimgpt.journal import write_json

    if path is not None:
        write_json(Path(path), content)


def _how_to_resume(arguments: list[str]) -> str:
    if arguments[:1] != ["prune"]:
        return ""
    return " Finished layers are kept: give the same command with --resume to go on."


if __name__ == "__main__":
    sys.exit(main())
