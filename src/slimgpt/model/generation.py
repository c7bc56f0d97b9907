"""Talking to a model."""

from __future__ import annotations

from typing import Any

import torch

from slimgpt.errors import ModelError


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
        ModelError: ``chat`` asked of a tokenizer without a chat template.
    """
    if chat and not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template: leave --chat out to continue the prompt as plain text.")
    if chat:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat).to(model.device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    torch.manual_seed(seed)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
