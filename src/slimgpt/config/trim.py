"""The options of ``slimgpt trim``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slimgpt.config.checks import Model, Out, at_least
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class TrimConfig:
    """Take out of a model's vocabulary what a text does not use. Any text can still be written, with more tokens."""

    model: Model
    """Local Hugging Face folder, hub id, or .gguf file."""

    out: Out
    """Folder of the model with fewer tokens; it appears only when it is complete."""

    text: tuple[str, ...] = ()
    """Text that says which tokens are used: text, JSONL, CSV, TSV or Parquet files, folders of those, or 'builtin'
    (English text that comes with Python). They are read whole and counted together."""

    text_field: str = "text"
    """Column or field that holds the text, or a list of chat messages, which the model's own chat template renders.
    Where there is no 'text', 'messages' is taken."""

    keep: int | None = None
    """Rows that the embedding keeps: the most frequent tokens, with all that they are merged from."""

    coverage: float | None = None
    """Keep the fewest tokens that are this share of the text's tokens, with all that they are merged from."""

    multiple_of: int = 1
    """Round the number of rows up to a multiple of this, with the tokens that come next."""

    force: bool = False
    """Replace OUT if it exists."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if not self.text:
            raise ConfigError("which tokens are used, a text says: give --text FILE, or several.")
        if (self.keep is None) == (self.coverage is None):
            raise ConfigError("say how much stays: --keep N tokens, or --coverage C of the text, and not both.")
        if self.keep is not None:
            at_least("keep", self.keep, 1)
        if self.coverage is not None and not (math.isfinite(self.coverage) and 0 < self.coverage <= 1):
            raise ConfigError(f"--coverage {self.coverage} is outside (0, 1]: it is a share of the text's tokens.")
        at_least("multiple-of", self.multiple_of, 1)
