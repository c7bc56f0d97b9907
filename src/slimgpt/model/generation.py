"""Talking to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from slimgpt.errors import ModelError
from slimgpt.model.reading import border

Message = Mapping[str, str]
"""``role`` and ``content``, as chat templates take them."""


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    chat: bool = False,
    seed: int = 0,
) -> str:
    """The model's continuation of ``prompt`` (its answer, with ``chat``), without the prompt itself.

    Raises:
        ModelError: ``chat`` asked of a tokenizer whose chat template fails, or that has none; or the model has settings
            of generation that do not work.
    """
    settings = (max_new_tokens, temperature, seed)
    if chat:
        return reply(model, tokenizer, [{"role": "user", "content": prompt}], *settings)
    return _continued(model, tokenizer, prompt, True, *settings)


def reply(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Message],
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """What the model says next in a conversation, by its own chat template.

    Raises:
        ModelError: the template fails, or there is none; or the model has settings of generation that do not work.
    """
    if not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template: leave --chat out to continue the prompt as plain text.")
    with border("the tokenizer's chat template fails", "Mend it, or leave --chat out."):
        text = str(tokenizer.apply_chat_template([*messages], tokenize=False, add_generation_prompt=True))
    return _continued(model, tokenizer, text, False, max_new_tokens, temperature, seed)


def _continued(
    model: Any, tokenizer: Any, text: str, special: bool, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """``special``: the tokenizer adds its special tokens, which a template has written already."""
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=special).to(model.device)
    sampling: dict[str, Any] = {"do_sample": temperature > 0, "num_beams": 1, "num_return_sequences": 1}
    if temperature > 0:
        sampling["temperature"] = temperature
    torch.manual_seed(seed)
    with torch.inference_mode(), border("the model does not generate", "Look into its generation_config.json."):
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, trust_remote_code=False, **sampling)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
