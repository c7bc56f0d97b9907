"""The options of ``slimgpt trim``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slimgpt.config.checks import Model, Out, at_least
from slimgpt.config.target import count
from slimgpt.errors import ConfigError

SIZES = ("keep", "coverage", "target_params")


@dataclass(frozen=True)
class TrimConfig:
    """Take out of a model's vocabulary what a text does not use. Any text can still be written, with more tokens."""

    model: Model
    """Local Hugging Face folder, hub id, or .gguf file."""

    out: Out
    """Folder of the model with fewer tokens; it appears only when it is complete."""

    text: tuple[str, ...] = ()
    """Text that says which tokens are used: text, JSONL, CSV, TSV or Parquet files, folders of those, or 'builtin'
    (English text that comes with Python). They are read whole, and each file or folder that is named counts as much as
    any other, however long it is."""

    text_field: str = "text"
    """Column or field that holds the text, or a list of chat messages, which the model's own chat template renders.
    Where there is no 'text', 'messages' is taken."""

    keep: int | None = None
    """Rows that the embedding keeps: the most frequent tokens, with all that they are merged from."""

    coverage: float | None = None
    """Keep the fewest tokens that are this share of the text's tokens, with all that they are merged from."""

    target_params: int | str | None = None
    """Keep as many tokens as leave this many parameters at most, embeddings included, such as 100M or 1.5B."""

    multiple_of: int = 1
    """Round the number of rows up to a multiple of this, with the tokens that come next; with --target-params down."""

    force: bool = False
    """Replace OUT if it exists."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if not self.text:
            raise ConfigError("which tokens are used, a text says: give --text FILE, or several.")
        if sum(getattr(self, name) is not None for name in SIZES) != 1:
            raise ConfigError(
                "say how much stays by one of these: --keep N tokens, --coverage C of the text, or --target-params P "
                "of the whole model."
            )
        if self.keep is not None:
            at_least("keep", self.keep, 1)
        if self.coverage is not None and not (math.isfinite(self.coverage) and 0 < self.coverage <= 1):
            raise ConfigError(f"--coverage {self.coverage} is outside (0, 1]: it is a share of the text's tokens.")
        if self.target_params is not None:
            count(self.target_params)
        at_least("multiple-of", self.multiple_of, 1)
