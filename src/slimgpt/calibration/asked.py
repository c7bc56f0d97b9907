"""The windows that a command's options ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from slimgpt.calibration.cache import cached_windows
from slimgpt.calibration.mixture import SELF, mixed, shares
from slimgpt.calibration.sources import resolve
from slimgpt.config.calibration import CalibrationOptions
from slimgpt.model.beginning import first_tokens


def asked_windows(
    config: CalibrationOptions,
    tokenizer: Any,
    seed: int,
    note: Callable[[str], None] = lambda text: None,
    written: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Windows of the text, or of several by weight, from the cache if they are there.

    ``note(text)`` hears of files that are not read; ``written(count)`` are windows that the model writes itself, where
    a command has them.

    Raises:
        CalibrationError: a text cannot be read, or is too short.
        ConfigError: a beginning-of-sequence token is asked for, and the tokenizer has none; or a mixture is not well
            said.
    """
    first = first_tokens(tokenizer, config.bos)

    def windows_of(name: str, count: int) -> Tensor:
        if name == SELF and written is not None:
            return written(count)
        if (said := resolve(name).note) is not None:
            note(said)
        return cached_windows(name, tokenizer, count, config.seqlen, seed, first, config.text_field)

    return mixed([windows_of(*share) for share in shares(config.calibration, config.samples)], seed)
