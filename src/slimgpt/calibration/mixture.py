"""Several texts by weight, ``c4:0.5,self:0.5``: how many windows each gives, and their order.

Shapes: B windows · T tokens of a window.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from slimgpt.errors import ConfigError, shown

SELF = "self"
"""Text that the model writes itself."""

PART = re.compile(r"(?P<name>.+):(?P<weight>\d+(?:\.\d+)?|\.\d+)")
MOST = 1e9  # of a weight


def names(text: str) -> list[str]:
    """The texts that ``--calibration`` names.

    Raises:
        ConfigError: it is a mixture, and not well said.
    """
    return [name for name, _ in _parts(text)]


def shares(text: str, num_windows: int) -> list[tuple[str, int]]:
    """Each text and the windows it gives, ``num_windows`` together; one text gives them all.

    Weights need not add up to 1. What is left over by rounding down goes to those that lost most by it.

    Raises:
        ConfigError: it is a mixture, and not well said, or there are too few windows for all of its texts.
    """
    parts = _parts(text)
    whole = sum(weight for _, weight in parts)
    exact = [num_windows * weight / whole for _, weight in parts]
    counts = [int(share) for share in exact]
    lost = sorted(range(len(parts)), key=lambda index: counts[index] - exact[index])
    for index in lost[: num_windows - sum(counts)]:
        counts[index] += 1
    if 0 in counts:
        name = parts[counts.index(0)][0]
        raise ConfigError(f"--calibration {shown(text)}: of {num_windows} windows {name!r} gets none: raise --samples.")
    return [(name, count) for (name, _), count in zip(parts, counts, strict=True)]


def mixed(parts: Sequence[Tensor], seed: int) -> Tensor:
    """Windows of several texts in an order by chance, so that any number of the first ones is a mixture too, B x T."""
    if len(parts) == 1:
        return parts[0]
    windows_BT = torch.cat(list(parts))
    order = random.Random(seed).sample(range(len(windows_BT)), len(windows_BT))
    return windows_BT[order]


def _parts(text: str) -> list[tuple[str, float]]:
    """Names and weights; a name that has a comma and is a file's, or none of whose parts has a weight, is one name."""
    parts = [part.strip() for part in text.split(",")]
    found = [PART.fullmatch(part) for part in parts]
    if len(parts) == 1 or not any(found) or os.path.exists(os.path.expanduser(text)):
        return [(text, 1.0)]
    for part, match in zip(parts, found, strict=True):
        if match is None or not 0 < float(match["weight"]) < MOST:
            raise ConfigError(
                f"--calibration {shown(text)}: {part!r} has no weight above 0: write c4:0.5,text.jsonl:0.5."
            )
    named = [(match["name"], float(match["weight"])) for match in found if match is not None]
    if len(dict(named)) < len(named):
        raise ConfigError(f"--calibration {shown(text)} names a text twice: add up its weights.")
    return named
