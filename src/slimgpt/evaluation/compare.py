"""Two models side by side on one text: where they differ, by how much, and what corrupted text does to them.

Shapes: B windows · T tokens a window · V vocabulary · N tokens · D, E widths of the two models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from slimgpt.evaluation.corruption import CORRUPTIONS, corrupt
from slimgpt.evaluation.likelihood import TOKENS_PER_BATCH, check_vocabulary, measure
from slimgpt.evaluation.similarity import LinearCKA
from slimgpt.evaluation.windows import Windows, cut, token_ids
from slimgpt.model.beginning import AUTO
from slimgpt.model.generation import generate

NUM_TOKENS = 4096  # of the text, from its beginning
NUM_SAMPLES = 3
PROMPT_TOKENS, NEW_TOKENS = 24, 40
VOCABULARY_ROWS = 1024  # tokens whose distributions over the whole vocabulary are held at once


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        model: the causal LM.
        tokenizer: its tokenizer.
        layers: names of its decoder layers.
    """

    model: Any
    tokenizer: Any
    layers: Sequence[str]


@dataclass
class Divergence:
    """Sums over tokens of how two models' predictions differ."""

    num_tokens: int = 0
    kl_sum: float = 0.0
    num_agreeing: int = 0

    def update(self, logits_NV: Tensor, against_NV: Tensor) -> None:
        """Add tokens: KL(against ‖ model) in nats, in float32, and whether both find the same token likeliest."""
        vocabulary = min(logits_NV.shape[1], against_NV.shape[1])  # embeddings may be padded, tokens are not there
        for rows in torch.arange(len(logits_NV)).split(VOCABULARY_ROWS):
            ours, theirs = (logits[rows, :vocabulary].float() for logits in (logits_NV, against_NV))
            kl = functional.kl_div(ours.log_softmax(1), theirs.log_softmax(1), log_target=True, reduction="sum")
            self.kl_sum += kl.item()
            self.num_agreeing += int((ours.argmax(1) == theirs.argmax(1)).sum())
        self.num_tokens += len(logits_NV)


@dataclass
class TokenComparison:
    """What two models with one tokenizer make of the same tokens."""

    similarities: list[LinearCKA] = field(default_factory=list)
    divergence: Divergence = field(default_factory=Divergence)

    def figures(self) -> dict[str, Any]:
        """The entries of compare.json; without tokens there are none."""
        tokens = self.divergence.num_tokens
        return {
            "cka": [similarity.value() for similarity in self.similarities],
            "kl_nats_per_token": self.divergence.kl_sum / tokens if tokens else None,
            "top1_agreement": self.divergence.num_agreeing / tokens if tokens else None,
        }


@torch.inference_mode()
def compare_tokens(ours: Model, theirs: Model, windows: Windows, batch_size: int = 0) -> TokenComparison:
    """Both models on the same windows: CKA of each decoder layer's output, and how the predictions differ.

    Models of different depth have no layers to pair, so there is no CKA.
    """
    paired = len(ours.layers) == len(theirs.layers)
    found = TokenComparison([LinearCKA() for _ in ours.layers] if paired else [])
    for model in (ours, theirs):
        check_vocabulary(model.model, windows.ids_BT)
    batch_size = batch_size or max(1, TOKENS_PER_BATCH // windows.ids_BT.shape[1])
    for ids_BT in windows.ids_BT.split(batch_size):
        mine, other = (_forward(model, ids_BT) for model in (ours, theirs))
        for index, similarity in enumerate(found.similarities):
            similarity.update(mine.outputs[index], other.outputs[index])
        found.divergence.update(mine.logits_NV, other.logits_NV)
    return found


@dataclass(frozen=True)
class _Forward:
    logits_NV: Tensor
    outputs: list[Tensor]


def _forward(model: Model, ids_BT: Tensor) -> _Forward:
    with _outputs_of(model) as outputs:
        logits_BTV = model.model(input_ids=ids_BT.to(model.model.device), use_cache=False).logits
    return _Forward(logits_BTV.flatten(0, 1), outputs)


@contextmanager
def _outputs_of(model: Model) -> Iterator[list[Tensor]]:
    """What each decoder layer puts out, in order, one row a token; the hooks go whatever happens.

    Without the first token of each window: attention rests there, its features dwarf the others'
    (https://arxiv.org/abs/2402.17762), and a similarity over all tokens would be that of this one.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, given: Any, put_out: Any) -> None:
        outputs.append((put_out[0] if isinstance(put_out, tuple) else put_out)[:, 1:].flatten(0, 1))

    handles = [model.model.get_submodule(name).register_forward_hook(keep) for name in model.layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def robustness(
    ours: Model,
    theirs: Model,
    text: str,
    seqlen: int,
    seed: int,
    batch_size: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
    bos: str = AUTO,
    to_the_end: bool = False,
) -> list[dict[str, Any]]:
    """Bits per byte of both models on the text as it is and after each corruption; ``bos`` and ``to_the_end``, without
    which models with different tokenizers read different ends, as in :func:`~slimgpt.evaluation.windows.cut`.
    """
    rows = []
    for name in ("none", *CORRUPTIONS):
        progress(f"text corrupted: {name}")
        flawed = text if name == "none" else corrupt(text, name, seed)
        figures = [_bits_per_byte(model, flawed, seqlen, batch_size, bos, to_the_end) for model in (ours, theirs)]
        rows.append({"corruption": name, "model_bits_per_byte": figures[0], "against_bits_per_byte": figures[1]})
    return rows


def _bits_per_byte(model: Model, text: str, seqlen: int, batch_size: int, bos: str, to_the_end: bool) -> float:
    """In windows that are no longer than the text, whose corruption may have made it shorter."""
    fitting = min(seqlen, len(token_ids(model.tokenizer, text)))
    windows = cut(model.tokenizer, text, fitting, bos=bos, to_the_end=to_the_end)
    return measure(model.model, model.tokenizer, windows, batch_size).bits_per_byte


def samples(ours: Model, theirs: Model, text: str) -> list[dict[str, str]]:
    """What both models, each taking its likeliest token, make of beginnings from the text."""
    return [
        {
            "prompt": prompt,
            "model": generate(ours.model, ours.tokenizer, prompt, NEW_TOKENS),
            "against": generate(theirs.model, theirs.tokenizer, prompt, NEW_TOKENS),
        }
        for prompt in prompts(ours.tokenizer, text)
    ]


def prompts(tokenizer: Any, text: str) -> list[str]:
    """Beginnings of lines spread over the text, of those lines that are long enough, if any is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    long = [line for line in lines if len(line.split()) >= PROMPT_TOKENS] or lines
    chosen = [long[index * len(long) // NUM_SAMPLES] for index in range(min(NUM_SAMPLES, len(long)))]
    return [tokenizer.decode(token_ids(tokenizer, line)[:PROMPT_TOKENS]).strip() for line in chosen]


def beginning(tokenizer: Any, text: str, num_tokens: int) -> str:
    """About the first ``num_tokens`` tokens of the text: the same characters for every model."""
    share = num_tokens / max(1, len(token_ids(tokenizer, text)))
    return text if share >= 1 else text[: math.ceil(len(text) * share)]
