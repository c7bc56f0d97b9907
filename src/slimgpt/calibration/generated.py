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
    model: Any,
    first_tokens: Sequence[int],
    num_windows: int,
    seqlen: int,
    batch_size: int,
    seed: int,
    before: Sequence[int] = (),
) -> Tensor:
    """Windows written by a causal LM on its device, int64 ``windows_BT`` on the CPU.

    A window starts with one of ``first_tokens``, behind what stands ``before`` every text; ``batch_size`` of them are
    written at a time. The same seed gives the same windows on the same device.

    Raises:
        CalibrationError: the model's logits are not finite.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    starts = torch.tensor(first_tokens, device=model.device)
    drawn_B = torch.randint(len(starts), (num_windows,), generator=generator, device=model.device)
    before_BT = torch.tensor(before, dtype=torch.int64, device=model.device).expand(num_windows, -1)
    batches = torch.cat([before_BT, starts[drawn_B, None]], dim=1).split(batch_size)
    return torch.cat([_continued(model, first_BT, seqlen, generator).cpu() for first_BT in batches])


def _continued(model: Any, new_BT: Tensor, seqlen: int, generator: torch.Generator) -> Tensor:
    """All windows of a batch grow by a token at a time; what ends a text in one of them does not end the window."""
    window, cache = [new_BT], None
    for _ in range(seqlen - new_BT.shape[1]):
        output = model(input_ids=new_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        new_BT = _drawn(output.logits[:, -1], generator)
        window.append(new_BT)
    return torch.cat(window, dim=1)


def _drawn(logits_BV: Tensor, generator: torch.Generator) -> Tensor:
    if not logits_BV.isfinite().all():
        raise CalibrationError(
            "calibration 'self': the model's logits are not finite, so it cannot write text. Check the checkpoint, or "
            "give text of your own."
        )
    return torch.multinomial(logits_BV.float().softmax(-1), 1, generator=generator)
