"""Ratio curves of every part: by name, or from a file with the ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimgpt.allocation.curves import CURVES, Curve, scaled_curves
from slimgpt.config.paths import path_of
from slimgpt.config.yaml_file import read_yaml
from slimgpt.errors import ConfigError, last_line, shown
from slimgpt.machine.json_files import read_json

SEARCHED = "searched"
"""The allocation that is measured on the model at hand, not read off a curve."""

RANKED = "flap"
"""The allocation that ranks the units of all layers by their standardised fluctuation."""


def curves(allocation: str, parts: Sequence[str], num_layers: int) -> dict[str, Curve]:
    """The ratio curve of each part: one of ``CURVES`` for all, or a file with the ratios.

    Raises:
        ConfigError: neither a known name nor a readable file of the right length.
    """
    if allocation in CURVES:
        return dict.fromkeys(parts, CURVES[allocation](num_layers))
    path = path_of(allocation, "--allocation")
    if not path.is_file():
        raise ConfigError(
            f"--allocation {allocation!r} is neither one of {SEARCHED}, {RANKED}, {', '.join(CURVES)} nor a file with "
            "one ratio per layer."
        )
    content = _read(path)
    named = content if isinstance(content, Mapping) else dict.fromkeys(parts, content)
    if set(named) != set(parts):
        names = " and ".join(map(repr, parts))
        raise ConfigError(f"{path}: give a list of {num_layers} ratios, or one such list for each of {names}.")
    shapes = [_ratios(named[part], num_layers, f"{path}: {part}") for part in parts]
    if not any(map(any, shapes)):
        raise ConfigError(f"{path}: all ratios are 0, so there is no shape to scale to --ratio.")
    return dict(zip(parts, scaled_curves(*shapes), strict=True))


def _read(path: Path) -> Any:
    try:
        return read_json(path) if path.suffix == ".json" else read_yaml(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not valid JSON or YAML: {last_line(error)}. Mend it.") from error


def _ratios(values: Any, num_layers: int, where: str) -> Sequence[float]:
    if not isinstance(values, list) or len(values) != num_layers:
        raise ConfigError(f"{where}: needs a list of {num_layers} ratios, one per layer.")
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ConfigError(f"{where}: ratio {shown(value)} of layer {index} is not a number in [0, 1].")
    return values
