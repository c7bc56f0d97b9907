"""Perplexity by the literature's convention: the whole text as one stream of tokens, cut into windows.

Windows do not overlap, each starts without context, no special tokens are added, and a last partial window is left
out. So a figure belongs to its window length: 128 and 2048 are usual, and cannot be compared with each other.

Shapes: B windows · T tokens a window · V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from slimgpt.errors import CalibrationError, ConfigError, ModelError

TOKENS_PER_BATCH = 2048  # tokens in one forward pass: their logits over the whole vocabulary are held at once


@dataclass(frozen=True)
class Perplexity:
    """A measured perplexity.

    Attributes:
        perplexity: exp of the mean negative log-likelihood per predicted token.
        nll_per_token: that mean, in nats.
        standard_error: of the mean, from the spread of the tokens.
        bits_per_byte: the same in bits per UTF-8 byte of text, comparable between tokenizers.
        num_tokens: predicted tokens.
        num_windows: windows read.
        seqlen: tokens in a window.
    """

    perplexity: float
    nll_per_token: float
    standard_error: float
    bits_per_byte: float
    num_tokens: int
    num_windows: int
    seqlen: int


def read_text(path: str) -> str:
    """A UTF-8 text file, as it is.

    Raises:
        CalibrationError: missing, empty, or not UTF-8.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CalibrationError(f"text {path!r} does not exist: name a UTF-8 text file.")
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CalibrationError(f"text {path!r} is not UTF-8 (byte {error.start}): convert it first.") from error
    if not text.strip():
        raise CalibrationError(f"text {path!r} is empty: name a text with something in it.")
    return text


@torch.inference_mode()
def perplexity(
    model: Any,
    tokenizer: Any,
    text: str,
    seqlen: int = 2048,
    max_tokens: int | None = None,
    batch_size: int = 0,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Perplexity:
    """Measure ``model`` on ``text``; every window predicts its tokens 2 … T.

    Raises:
        ConfigError: windows longer than the model's context.
        CalibrationError: the text is shorter than one window.
        ModelError: the tokenizer belongs to another model.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and seqlen > context:
        raise ConfigError(f"--seqlen {seqlen} is beyond the model's context of {context} tokens.")
    windows_BT = _windows(tokenizer, text, seqlen, max_tokens)
    _check_vocabulary(model, windows_BT)
    batch_size = batch_size or max(1, TOKENS_PER_BATCH // seqlen)
    losses = []
    for start in range(0, len(windows_BT), batch_size):
        batch_BT = windows_BT[start : start + batch_size].to(model.device)
        losses.append(_token_losses(model, batch_BT).flatten())
        progress(batch_BT.numel())
    return _summarise(torch.cat(losses).double(), windows_BT, tokenizer)


def _windows(tokenizer: Any, text: str, seqlen: int, max_tokens: int | None) -> Tensor:
    ids = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    num_windows = min(len(ids), max_tokens or len(ids)) // seqlen
    if num_windows == 0:
        raise CalibrationError(
            f"the text has {len(ids)} tokens, less than one window of {seqlen}: give more text or a smaller --seqlen."
        )
    return torch.tensor(ids[: num_windows * seqlen], dtype=torch.int64).view(num_windows, seqlen)


def _check_vocabulary(model: Any, windows_BT: Tensor) -> None:
    num_known, largest = model.get_input_embeddings().weight.shape[0], int(windows_BT.max())
    if largest >= num_known:
        raise ModelError(
            f"the tokenizer makes token {largest}, but the model has embeddings for {num_known} tokens only: the "
            "tokenizer belongs to another model."
        )


def _token_losses(model: Any, ids_BT: Tensor) -> Tensor:
    """Negative log-likelihood of tokens 2 … T of each window, B x (T−1), float32 on the CPU."""
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none").cpu()


def _summarise(losses: Tensor, windows_BT: Tensor, tokenizer: Any) -> Perplexity:
    mean = losses.mean().item()
    predicted = tokenizer.batch_decode(windows_BT[:, 1:].tolist(), clean_up_tokenization_spaces=False)
    num_bytes = sum(len(text.encode()) for text in predicted)
    return Perplexity(
        perplexity=math.exp(mean),
        nll_per_token=mean,
        standard_error=(losses.std() / math.sqrt(len(losses))).item(),
        bits_per_byte=losses.sum().item() / math.log(2) / num_bytes,
        num_tokens=len(losses),
        num_windows=len(windows_BT),
        seqlen=windows_BT.shape[1],
    )
