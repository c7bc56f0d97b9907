"""The windows that a command's options ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from slimgpt.calibration.cache import cached_windows
from slimgpt.calibration.sources import resolve
from slimgpt.config.calibration import CalibrationOptions
from slimgpt.model.beginning import first_tokens


def asked_windows(
    config: CalibrationOptions, tokenizer: Any, seed: int, note: Callable[[str], None] = lambda text: None
) -> Tensor:
    """Windows of the text, from the cache if they are there; ``note(text)`` hears of files that are not read.

    Raises:
        CalibrationError: the text cannot be read, or is too short.
        ConfigError: a beginning-of-sequence token is asked for, and the tokenizer has none.
    """
    first = first_tokens(tokenizer, config.bos)
    if (said := resolve(config.calibration).note) is not None:
        note(said)
    return cached_windows(config.calibration, tokenizer, config.samples, config.seqlen, seed, first, config.text_field)
