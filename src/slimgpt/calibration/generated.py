"""Calibration text that the model writes itself, for users without data.

Every window starts with a token drawn uniformly from the vocabulary, so that windows are about many things, and goes
on with what the model says, sampled at temperature 1: text in proportion to what the model believes is text. A random
first token is how LLM-QAT (https://arxiv.org/abs/2305.17888) starts its training data.

Shapes: B windows · T tokens of a window · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimgpt.errors import CalibrationError


@torch.no_grad()  # not inference mode: a search takes gradients behind these windows
def generated_windows(
    model: Any, first_tokens: Sequence[int], num_windows: int, seqlen: int, batch_size: int, seed: int
) -> Tensor:
    """Windows written by a causal LM on its device, int64 ``windows_BT`` on the CPU.

    A window starts with one of ``first_tokens``; ``batch_size`` of them are written at a time. The same seed gives the
    same windows on the same device.

    Raises:
        CalibrationError: the model's logits are not finite.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    starts = torch.tensor(first_tokens, device=model.device)
    drawn_B = torch.randint(len(starts), (num_windows,), generator=generator, device=model.device)
    batches = starts[drawn_B, None].split(batch_size)
    return torch.cat([_continued(model, first_B1, seqlen, generator).cpu() for first_B1 in batches])


def _continued(model: Any, token_B1: Tensor, seqlen: int, generator: torch.Generator) -> Tensor:
    """All windows of a batch grow by a token at a time; what ends a text in one of them does not end the window."""
    window, cache = [token_B1], None
    while len(window) < seqlen:
        output = model(input_ids=token_B1, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        token_B1 = _drawn(output.logits[:, -1], generator)
        window.append(token_B1)
    return torch.cat(window, dim=1)


def _drawn(logits_BV: Tensor, generator: torch.Generator) -> Tensor:
    if not logits_BV.isfinite().all():
        raise CalibrationError(
            "calibration 'self': the model's logits are not finite, so it cannot write text. Check the checkpoint, or "
            "give text of your own."
        )
    return torch.multinomial(logits_BV.float().softmax(-1), 1, generator=generator)
