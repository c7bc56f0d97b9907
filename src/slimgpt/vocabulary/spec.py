"""A tokenizer as data: the parts of ``tokenizer.json`` that decide which tokens can be told apart and merged."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from slimgpt.errors import ModelError

SPACE = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ASCII = (*string.digits, *string.punctuation)
AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")


@dataclass(frozen=True)
class Spec:
    """The content of a ``tokenizer.json`` with a BPE model."""

    content: Mapping[str, Any]

    @property
    def model(self) -> Mapping[str, Any]:
        """Vocabulary and merges."""
        model: Mapping[str, Any] = self.content["model"]
        return model

    @cached_property
    def ids(self) -> dict[str, int]:
        """All tokens, added ones too, with their ids."""
        return {**self.model["vocab"], **{token["content"]: token["id"] for token in self.content["added_tokens"]}}

    @cached_property
    def added(self) -> frozenset[int]:
        """Ids of the tokens that are looked for in the text itself, special or not."""
        return frozenset(token["id"] for token in self.content["added_tokens"])

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs in order of rank; older files join them by a space."""
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in self.model["merges"])
        return [(left, right) for left, right in pairs]

    @property
    def is_byte_level(self) -> bool:
        """Text becomes bytes before it is merged, each written as one character."""
        steps = (self.content["pre_tokenizer"], self.content["normalizer"])
        return any(kind == "ByteLevel" for step in steps for kind in _kinds(step))

    def lasting(self) -> set[int]:
        """Ids that stay whatever a text uses: all that any text can be made of, digits, punctuation, added tokens."""
        vocab = self.model["vocab"]
        always = [token for token in vocab if len(token) == 1] if self.is_byte_level else [*BYTES, *ASCII, SPACE]
        unknown = [self.model["unk_token"]] if self.model.get("unk_token") else []
        named = {vocab[token] for token in (*always, *unknown) if token in vocab}
        return named | self.added


def spec_of(tokenizer: Any, source: str) -> Spec:
    """What a model's tokenizer is made of.

    Raises:
        ModelError: it is of a kind that cannot lose tokens without losing texts.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{source}: its tokenizer is {type(tokenizer).__name__}, which has no tokenizer.json to trim.")
    spec = Spec(json.loads(backend.to_str()))
    if (reason := _refused(spec)) is not None:
        raise ModelError(
            f"{source}: its tokenizer is {reason}, and only BPE over bytes (GPT-2, Llama 3, Qwen) or with bytes to "
            "fall back on (Llama 2, Gemma) can lose tokens and still write any text."
        )
    return spec


def _refused(spec: Spec) -> str | None:
    """Why its vocabulary has to stay; None where it can be trimmed."""
    model = spec.model
    if model["type"] != "BPE":
        return f"of kind {model['type']}"
    if (affix := next((name for name in AFFIXES if model.get(name)), None)) is not None:
        return f"BPE with {affix} {model[affix]!r}"
    if spec.is_byte_level or (model.get("byte_fallback") and all(byte in model["vocab"] for byte in BYTES)):
        return None
    return "BPE over characters without bytes to fall back on"


def _kinds(step: Mapping[str, Any] | None) -> Iterator[str]:
    """Types of a step and of the steps inside it."""
    if step is None:
        return
    yield step["type"]
    inner: Sequence[Mapping[str, Any]] = (*step.get("pretokenizers", ()), *step.get("normalizers", ()))
    for part in inner:
        yield from _kinds(part)
