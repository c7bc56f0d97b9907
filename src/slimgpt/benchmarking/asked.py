"""Whether a model can be measured as asked, before it is loaded."""

from __future__ import annotations

from slimgpt.config import BenchConfig
from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint


def fitting(model: str, config: BenchConfig) -> Checkpoint:
    """The model, whose context holds a prompt and what is generated after it.

    Raises:
        ConfigError: it does not.
        ModelError: the model cannot be read.
    """
    checkpoint = open_checkpoint(model)
    context = getattr(checkpoint.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if context is not None and config.prompt_tokens + config.new_tokens > context:
        raise ConfigError(
            f"--prompt-tokens {config.prompt_tokens} and --new-tokens {config.new_tokens} are together beyond the "
            f"context of {model}, {context} tokens."
        )
    return checkpoint
