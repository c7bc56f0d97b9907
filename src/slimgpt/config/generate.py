"""The options of ``slimgpt generate``, ``compare`` and ``chat``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from slimgpt.config.checks import Model, at_least, check_seed
from slimgpt.errors import ConfigError

Prompt = Annotated[str, Positional, arg(metavar="PROMPT")]


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How models answer."""

    max_new_tokens: int = 100
    """Length of the answer at most."""

    temperature: float = 0.0
    """0 takes the likeliest token each time."""

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


@dataclass(frozen=True)
class GenerateConfig(AnswerOptions):
    """Continue a prompt, or answer it where the tokenizer has a chat template."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    prompt: Prompt
    """What to say to the model."""

    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        super().check()
        require_prompt(self.prompt)


@dataclass(frozen=True)
class CompareConfig(AnswerOptions):
    """Give the same prompt to two models, and show their answers side by side."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    other: Annotated[str, Positional, arg(metavar="OTHER")]
    """The model beside it."""

    prompt: Prompt
    """What to say to both."""

    chat: bool = False
    """Wrap the prompt in each tokenizer's chat template."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        super().check()
        require_prompt(self.prompt)


@dataclass(frozen=True)
class ChatConfig(AnswerOptions):
    """Talk to a model in the terminal, by its chat template; an empty line ends it."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    against: str | None = None
    """A second model, which hears the same and answers beside it."""


def require_prompt(prompt: str) -> None:
    """Raise ConfigError where there is nothing to continue."""
    if not prompt:
        raise ConfigError("the prompt is empty: give the model something to continue.")
