"""Whether a model goes with the calibration text it is given, known before any layer runs."""

from __future__ import annotations

from typing import Any

import torch

from slimgpt.errors import ConfigError, ModelError
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.weights import require_finite


def check_context(model_config: Any, seqlen: int, option: str = "--seqlen") -> None:
    """Raise ConfigError if ``seqlen`` tokens, which an option asks for, are more than the model was made for."""
    context = getattr(model_config.get_text_config(decoder=True), "max_position_embeddings", None)
    if context is not None and seqlen > context:
        raise ConfigError(f"{option} {seqlen} is beyond the model's context of {context} tokens.")


def check_rest(checkpoint: Checkpoint, windows_BT: torch.Tensor | None, stored_dtype: torch.dtype) -> None:
    """What no layer will show: that the tokens have embeddings, and the weights outside the layers are numbers.

    Raises:
        ModelError: the tokenizer makes tokens that the model does not know.
        NumericalError: a weight is not finite.
    """
    skeleton: Any = checkpoint.skeleton
    vocabulary = skeleton.get_input_embeddings().weight.shape[0]
    largest = int(windows_BT.max()) if windows_BT is not None else 0
    if largest >= vocabulary:
        raise ModelError(
            f"{checkpoint.path}: the tokenizer makes token {largest}, but the model has embeddings for {vocabulary} "
            "tokens only: the tokenizer belongs to another model."
        )
    for name in checkpoint.other_names():
        require_finite(f"{checkpoint.path}: weight {name!r}", checkpoint.weights.get(name), stored_dtype)
