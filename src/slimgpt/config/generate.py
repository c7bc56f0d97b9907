"""The options of ``slimgpt generate``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from slimgpt.config.checks import Model, at_least, check_seed
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class GenerateConfig:
    """Continue a prompt, or answer it where the tokenizer has a chat template."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    prompt: Annotated[str, Positional, arg(metavar="PROMPT")]
    """What to say to the model."""

    max_new_tokens: int = 100
    """Length of the answer at most."""

    temperature: float = 0.0
    """0 takes the likeliest token each time."""

    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template."""

    seed: int = 0
    """Seed of the sampling."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        at_least("max-new-tokens", self.max_new_tokens, 1)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"--temperature {self.temperature} must be 0 or more.")
        check_seed(self.seed)
        if not self.prompt:
            raise ConfigError("the prompt is empty: give the model something to continue.")
