"""What the options of several commands have in common."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from slimgpt.errors import ConfigError

Model = Annotated[str, Positional, arg(metavar="MODEL")]
Out = Annotated[str, Positional, arg(metavar="OUT")]


def check_seed(seed: int) -> None:
    """Raise ConfigError on a seed that torch's generators do not take."""
    at_least("seed", seed, 0)
    if seed >= 2**63:
        raise ConfigError(f"--seed {seed} must be below 2**63.")


def at_least(name: str, value: int, least: int) -> None:
    """Raise ConfigError on a value of option ``--name`` below ``least``."""
    if value < least:
        raise ConfigError(f"--{name} {value} must be {least} or more.")
