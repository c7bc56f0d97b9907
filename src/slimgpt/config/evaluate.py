"""The options of ``slimgpt eval``."""

from __future__ import annotations

from dataclasses import dataclass

from slimgpt.config.checks import Model, at_least


@dataclass(frozen=True)
class EvalConfig:
    """Measure a model's perplexity on a text."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    text: str
    """UTF-8 text file."""

    seqlen: int = 2048
    """Tokens in a window; the literature uses 2048 and 128."""

    max_tokens: int | None = None
    """Stop after this many tokens; default: the whole text."""

    batch_size: int = 0
    """Windows in one forward pass; 0 chooses."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    json: str | None = None
    """Also write the result to this file."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        at_least("seqlen", self.seqlen, 2)
        at_least("batch-size", self.batch_size, 0)
        if self.max_tokens is not None:
            at_least("max-tokens", self.max_tokens, self.seqlen)
