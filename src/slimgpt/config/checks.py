"""What the options of several commands have in common."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from slimgpt.errors import ConfigError, shown

Model = Annotated[str, Positional, arg(metavar="MODEL")]
Out = Annotated[str, Positional, arg(metavar="OUT")]

MOST = 10**9
"""Of whatever is counted: windows, tokens, steps."""


def check_seed(seed: int) -> None:
    """Raise ConfigError on a seed that torch's generators do not take."""
    if seed >= 2**63:
        raise ConfigError(f"--seed {shown(seed)} must be below 2**63.")
    at_least("seed", seed, 0, most=seed)


def at_least(name: str, value: int, least: int, most: int = MOST) -> None:
    """Raise ConfigError on a value of option ``--name`` below ``least``, or so large that it must be a slip."""
    if value < least:
        raise ConfigError(f"--{name} {shown(value)} must be {least} or more.")
    if value > most:
        raise ConfigError(f"--{name} {shown(value)} must be {most:,} or less.")
