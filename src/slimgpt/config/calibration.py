"""Which text a model is calibrated on, and how it is cut: the options that all commands with calibration share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slimgpt.config.checks import at_least

Bos = Literal["auto", "always", "never"]
"""Where texts begin with a beginning-of-sequence token (BOS). What each means: :mod:`slimgpt.model.beginning`."""


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """A text, and windows of it."""

    calibration: str = "c4"
    """Text, JSONL, CSV, TSV or Parquet file, a folder of those, a hub dataset, 'c4' (streamed from the hub), 'builtin'
    (English text that comes with Python, for offline use), or, for slimgpt prune alone, 'self' (text that the model
    itself makes). Several with weights: c4:0.7,chats.jsonl:0.3."""

    text_field: str = "text"
    """Column or field that holds the text, or a list of chat messages, which the model's own chat template renders.
    Where there is no 'text', 'messages' is taken."""

    bos: Bos = "auto"
    """Every window begins with the beginning-of-sequence token. auto: where the tokenizer puts it before a text by
    itself. always, never: whatever the tokenizer does (the paper has none)."""

    samples: int = 128
    """Calibration windows."""

    seqlen: int = 2048
    """Tokens in a window, a beginning-of-sequence token among them."""

    def check_calibration(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        at_least("samples", self.samples, 1)
        at_least("seqlen", self.seqlen, 2)
