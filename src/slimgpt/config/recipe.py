"""Recipes: the options of a command as a YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from slimgpt.config.prune import PruneConfig
from slimgpt.config.yaml_file import read_mapping
from slimgpt.errors import ConfigError, is_text, shown

LARGEST = 2**63
"""Of a number's size, whatever the option."""


def read_recipe(path: str, config: type = PruneConfig) -> dict[str, Any]:
    """Options of one command from a YAML file.

    Raises:
        ConfigError: missing, not YAML, not a mapping, or with an unknown or ill-typed option.
    """
    settings = read_mapping(path, "--recipe", "a YAML file of options", "'option: value' lines")
    return options_from(settings, f"--recipe {path}", config)


def options_from(settings: Mapping[str, Any], where: str, config: type = PruneConfig) -> dict[str, Any]:
    """Check the keys of a recipe against a command's options and bring dashes to underscores.

    Raises:
        ConfigError: an unknown key (the nearest is offered), or a value of the wrong type.
    """
    fields = get_type_hints(config)
    options: dict[str, Any] = {}
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in fields or name == "recipe":
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f". Known: {', '.join(sorted(fields))}."
            raise ConfigError(f"{where}: unknown option {shown(key)}{hint}")
        options[name] = _typed(name, value, fields[name], where)
    return options


def _typed(name: str, value: Any, hint: Any, where: str) -> Any:
    """A recipe's value, if it is of the field's type; integers serve as floats, booleans as nothing else."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where}: {name} is {shown(value)}, but must be one of {', '.join(get_args(hint))}.")
        return value
    if get_origin(hint) is tuple:  # one value alone stands for a list of one
        items = value if isinstance(value, list) else [value]
        return tuple(_typed(name, item, get_args(hint)[0], where) for item in items)
    kinds = get_args(hint) or (hint,)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"{where}: {name} is {shown(value)}, but must be {names}.")
    if isinstance(value, str) and not is_text(value):
        raise ConfigError(f"{where}: {name} is {shown(value)}, which has half a character in it.")
    if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
        raise ConfigError(f"{where}: {name} is {shown(value)}, but no number here is that large.")
    return float(value) if float in kinds and value is not None else value
