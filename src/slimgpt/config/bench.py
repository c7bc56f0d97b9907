"""The options of ``slimgpt bench``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from slimgpt.config.checks import at_least, check_seed
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class BenchConfig:
    """Measure models: size, peak memory, FLOPs and speed, the models taking turns so that their ratios hold."""

    models: Annotated[tuple[str, ...], Positional, arg(metavar="MODEL...")]
    """Local folders (dense or pruned), hub ids, or .gguf files; speeds are compared with the first."""

    prompt_tokens: int = 128
    """Tokens of each prompt, which are read in one pass."""

    new_tokens: int = 32
    """Tokens generated after each prompt, one by one."""

    batch_size: int = 1
    """Prompts at a time."""

    repeats: int = 7
    """Measurements of each model; the median and the quartiles are given."""

    warmup: int = 1
    """Unmeasured repeats before them."""

    quantise: Literal["int8", "int4"] | None = None
    """Round the linear layers of all models but the first to 8 or 4 bits, by torchao."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    seed: int = 0
    """Seed of the random prompt."""

    record: bool = False
    """Keep the result with every pruned MODEL, as measured/bench.json, where slimgpt report finds it."""

    json: str | None = None
    """Also write the result to this file."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if not self.models:
            raise ConfigError("no MODEL is named: slimgpt bench DENSE PRUNED compares the second with the first.")
        at_least("prompt-tokens", self.prompt_tokens, 1)
        at_least("new-tokens", self.new_tokens, 2)  # the first comes from the prompt's pass, the others are timed
        at_least("batch-size", self.batch_size, 1)
        at_least("repeats", self.repeats, 1)
        at_least("warmup", self.warmup, 0)
        check_seed(self.seed)
        if self.quantise is not None and len(self.models) < 2:
            raise ConfigError(
                f"--quantise {self.quantise} leaves the first MODEL as it is, to compare with: name it and another."
            )
        if self.record and self.quantise is not None:
            raise ConfigError(
                f"--record keeps figures of models as they are stored, and --quantise {self.quantise} changes them: "
                "drop one of the two."
            )
