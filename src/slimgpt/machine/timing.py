"""How long a causal LM takes: a pass over prompts, then the tokens after them, one by one.

Shapes: B prompts · T tokens of a prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Result = TypeVar("Result")


@dataclass(frozen=True)
class Load:
    """How much work one repeat is: prompts, their tokens, the tokens generated after each, and the prompts' seed."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    seed: int


@dataclass(frozen=True)
class Repeat:
    """Seconds of one repeat: the prompts' pass, the same until the first token is here, the steps after it."""

    prefill_s: float
    first_token_s: float
    decode_s: float


class Measured:
    """A loaded model and a random prompt for it.

    Args:
        model: the causal LM, on its device.
        work: how much a repeat is.
    """

    def __init__(self, model: Any, work: Load) -> None:
        self.model = model
        self.device = torch.device(model.device)
        self._work = work
        generator = torch.Generator().manual_seed(work.seed)
        vocabulary = model.get_input_embeddings().weight.shape[0]
        self._prompt_BT = torch.randint(vocabulary, (work.batch_size, work.prompt_tokens), generator=generator)

    @torch.inference_mode()
    def repeat(self) -> Repeat:
        """Read the prompts, then generate; stop tokens stop nothing."""
        _synchronise(self.device)
        start = time.perf_counter()
        prompt_BT = self._prompt_BT.to(self.device)
        (token_B1, cache), prefill_s = _timed(self.device, lambda: self._step(prompt_BT, None))
        token_B1.tolist()
        first_token_s = time.perf_counter() - start
        _, decode_s = _timed(self.device, lambda: self._decode(token_B1, cache))
        return Repeat(prefill_s, first_token_s, decode_s)

    def _step(self, ids_BT: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """The likeliest next token of each prompt, B x 1, and the cache."""
        output = self.model(input_ids=ids_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1:].argmax(-1), output.past_key_values

    def _decode(self, token_B1: Tensor, cache: Any) -> None:
        for _ in range(self._work.new_tokens - 1):
            token_B1, cache = self._step(token_B1, cache)

    @torch.no_grad()
    def flops_per_token(self) -> int:
        """Counted by torch, which knows attention only where it is written out as matrix products."""
        with sdpa_kernel(SDPBackend.MATH):
            token_B1, cache = self._step(self._prompt_BT[:1].to(self.device), None)
            with FlopCounterMode(display=False) as counter:
                self._step(token_B1, cache)
        return int(counter.get_total_flops())


def _timed(device: torch.device, work: Callable[[], Result]) -> tuple[Result, float]:
    """What ``work`` returns, and its seconds: by the device's own clock on CUDA, by ours elsewhere."""
    _synchronise(device)
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(torch.cuda.current_stream(device))
        result = work()
        end.record(torch.cuda.current_stream(device))
        end.synchronize()
        return result, begin.elapsed_time(end) / 1000
    start = time.perf_counter()
    result = work()
    _synchronise(device)
    return result, time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
