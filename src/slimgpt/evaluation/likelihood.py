"""Perplexity by the literature's convention: the whole text as one stream of tokens, cut into windows.

By default windows do not overlap, each starts without context (but for a beginning-of-sequence token where the
tokenizer adds one to a text by itself), and a last partial window is left out. So a figure belongs to its window
length: 128 and 2048 are usual, and cannot be compared with each other.

Shapes: B windows · T tokens a window · V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from slimgpt.errors import ModelError
from slimgpt.evaluation.windows import Windows, cut
from slimgpt.model.beginning import AUTO
from slimgpt.model.checks import check_context

TOKENS_PER_BATCH = 2048  # tokens in one forward pass: their logits over the whole vocabulary are held at once
ROWS = 512  # tokens whose logits are turned to float32 at once


@dataclass(frozen=True)
class Perplexity:
    """A measured perplexity and its conditions.

    Attributes:
        perplexity: exp of the mean negative log-likelihood per predicted token.
        nll_per_token: that mean, in nats.
        standard_error: of the mean, from the spread of the tokens.
        bits_per_byte: the same in bits per UTF-8 byte of text, comparable between tokenizers.
        num_tokens: predicted tokens.
        num_bytes: their bytes.
        num_windows: windows read.
        seqlen: tokens in a window.
        stride: tokens from one window to the next.
        bos: where a beginning-of-sequence token stood: never, always (in front of each window) or text.
        window_nll: nats of each window, summed over its predicted tokens: what a paired comparison of models needs.
    """

    perplexity: float
    nll_per_token: float
    standard_error: float
    bits_per_byte: float
    num_tokens: int
    num_bytes: int
    num_windows: int
    seqlen: int
    stride: int
    bos: str
    window_nll: tuple[float, ...]

    @property
    def perplexity_error(self) -> float:
        """Standard error of the perplexity, to first order."""
        return self.perplexity * self.standard_error

    @property
    def bits_per_byte_error(self) -> float:
        """Standard error of the bits per byte."""
        return self.standard_error * self.num_tokens / (math.log(2) * self.num_bytes)


def perplexity(
    model: Any,
    tokenizer: Any,
    text: str,
    seqlen: int = 2048,
    max_tokens: int | None = None,
    batch_size: int = 0,
    progress: Callable[[int], None] = lambda tokens: None,
    stride: int | None = None,
    bos: str = AUTO,
) -> Perplexity:
    """Measure ``model`` on ``text``, every token predicted once; see :func:`~slimgpt.evaluation.windows.cut`.

    Raises:
        ConfigError: windows longer than the model's context, or ``bos`` of a tokenizer without one.
        CalibrationError: the text is shorter than one window.
        ModelError: the tokenizer belongs to another model.
    """
    check_context(model.config, seqlen)
    return measure(model, tokenizer, cut(tokenizer, text, seqlen, stride, bos, max_tokens), batch_size, progress)


@torch.inference_mode()
def measure(
    model: Any,
    tokenizer: Any,
    windows: Windows,
    batch_size: int = 0,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Perplexity:
    """Measure ``model`` on windows that were cut by its ``tokenizer``.

    Raises:
        ModelError: the tokenizer belongs to another model.
    """
    check_vocabulary(model, windows.ids_BT)
    counts_BT = windows.counts_BT()
    batch_size = batch_size or max(1, TOKENS_PER_BATCH // windows.ids_BT.shape[1])
    losses = []
    for ids_BT, count_BT in zip(windows.ids_BT.split(batch_size), counts_BT.split(batch_size), strict=True):
        losses.append(_token_losses(model, ids_BT.to(model.device))[count_BT[:, 1:]])
        progress(ids_BT.numel())
    counts = counts_BT.sum(1).tolist()
    return _summarise(torch.cat(losses).double(), counts, windows, windows.num_bytes(tokenizer))


@torch.inference_mode()
def both_ways(model: Any, ids_BT: Tensor, token: int) -> tuple[float, float]:
    """Mean nats of all tokens but the first of each window: as they are, and behind ``token``."""
    without = _token_losses(model, ids_BT.to(model.device))
    behind_BT = torch.cat([torch.full((len(ids_BT), 1), token), ids_BT], dim=1)
    behind = _token_losses(model, behind_BT.to(model.device))[:, 1:]
    return without.mean().item(), behind.mean().item()


def check_vocabulary(model: Any, ids_BT: Tensor) -> None:
    """Raise ModelError if a token has no embedding."""
    num_known, largest = model.get_input_embeddings().weight.shape[0], int(ids_BT.max())
    if largest >= num_known:
        raise ModelError(
            f"the tokenizer makes token {largest}, but the model has embeddings for {num_known} tokens only: the "
            "tokenizer belongs to another model."
        )


def _token_losses(model: Any, ids_BT: Tensor) -> Tensor:
    """Negative log-likelihood of tokens 2 … T of each window, B x (T−1), float32 on the CPU."""
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1]
    losses = [token_losses(logits_TV, ids_T[1:]) for logits_TV, ids_T in zip(logits_BTV, ids_BT, strict=True)]
    return torch.stack(losses).cpu()


def token_losses(logits_NV: Tensor, ids_N: Tensor) -> Tensor:
    """Negative log-likelihood of N tokens, float32.

    The vocabulary is the last dimension: along any other, torch sums one term after the other, and over 50,000 of them
    float32 loses the fourth digit. A few rows at a time, because all in float32 would take twice the logits' memory.
    """
    rows = zip(logits_NV.split(ROWS), ids_N.split(ROWS), strict=True)
    return torch.cat([functional.cross_entropy(logits.float(), ids, reduction="none") for logits, ids in rows])


def _summarise(losses: Tensor, counts: list[int], windows: Windows, num_bytes: int) -> Perplexity:
    mean = losses.mean().item()
    return Perplexity(
        perplexity=math.exp(mean),
        nll_per_token=mean,
        standard_error=(losses.std() / math.sqrt(len(losses))).item(),
        bits_per_byte=losses.sum().item() / math.log(2) / num_bytes,
        num_tokens=len(losses),
        num_bytes=num_bytes,
        num_windows=len(windows.ids_BT),
        seqlen=windows.ids_BT.shape[1],
        stride=windows.stride,
        bos=windows.bos,
        window_nll=tuple(round(own.sum().item(), 4) for own in losses.split(counts)),
    )
