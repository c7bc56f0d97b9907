"""A tokenizer of transformers as GGUF metadata.

llama.cpp knows two kinds that models of ours have: byte-level BPE ("gpt2"), whose way of splitting text before BPE it
knows by name, and BPE over characters with bytes to fall back on, SentencePiece's ("llama"), which it runs on scores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gguf import GGUFWriter, TokenType

from slimgpt.errors import ModelError
from slimgpt.model.beginning import adds_bos

GPT2 = "the regex of GPT-2"
DIGITS = "single digits"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: Mapping[tuple[str, ...], str] = {
    (GPT2,): "gpt-2",
    (DIGITS, GPT2): "smollm",
    (WORDS.format(digits="{1,3}"),): "llama-bpe",
    (WORDS.format(digits=""),): "qwen2",
    (TEKKEN,): "tekken",
}
"""How text is split before BPE -> llama.cpp's name for it."""

SPACE = "▁"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
UNMERGED = -1e6  # below every merge


def add_tokenizer(writer: GGUFWriter, tokenizer: Any, vocab_size: int) -> None:
    """Write everything llama.cpp needs to tokenize as ``tokenizer`` does, padded to the rows of the embedding.

    Raises:
        ModelError: a kind of tokenizer that llama.cpp does not have, or more tokens than the embedding has rows.
    """
    spec = _spec(tokenizer)
    tokens, types = _tokens(spec, vocab_size)
    add_kind = _add_character_bpe if spec["model"].get("byte_fallback") else _add_byte_bpe
    add_kind(writer, spec, tokens, types)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special_tokens(writer, tokenizer)


def _spec(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spec: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {"type": "slow"}}
    if spec["model"]["type"] != "BPE":
        raise ModelError(
            f"the tokenizer is of kind {spec['model']['type']!r}, and only BPE (of GPT-2's or SentencePiece's style) "
            "can be written to GGUF: use --format padded and llama.cpp's own convert_hf_to_gguf.py."
        )
    return spec


def _tokens(spec: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """Texts and types by token id; rows of the embedding that no token uses get a name and are marked unused."""
    vocab = {**spec["model"]["vocab"], **{added["content"]: added["id"] for added in spec["added_tokens"]}}
    if max(vocab.values()) >= vocab_size:
        raise ModelError(
            f"the tokenizer has token id {max(vocab.values())}, but the embedding has only {vocab_size} rows: they do "
            "not belong together."
        )
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [int(TokenType.UNUSED)] * vocab_size
    for token, index in vocab.items():
        tokens[index], types[index] = token, TokenType.NORMAL
    for added in spec["added_tokens"]:
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    return tokens, types


def _add_byte_bpe(writer: GGUFWriter, spec: Mapping[str, Any], tokens: list[str], types: list[int]) -> None:
    steps = tuple(_steps(spec["pre_tokenizer"]))
    if steps not in PRE_TOKENIZERS:
        raise ModelError(
            f"the tokenizer splits text by {list(steps)}, which llama.cpp has no name for that we know. Known: "
            f"{', '.join(PRE_TOKENIZERS.values())}. Use --format padded and llama.cpp's own convert_hf_to_gguf.py."
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[steps])
    writer.add_token_merges([" ".join(pair) for pair in _merges(spec)])


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Iterator[str]:
    """What a pre-tokenizer does to text, step by step, as far as tokens depend on it."""
    kind = (pre_tokenizer or {"type": "none"})["type"]
    if pre_tokenizer is None or kind == "Sequence":
        for step in (pre_tokenizer or {}).get("pretokenizers", []):
            yield from _steps(step)
    elif kind == "Split":
        yield from pre_tokenizer["pattern"].values()
    elif kind == "Digits" and pre_tokenizer["individual_digits"]:
        yield DIGITS
    elif kind != "ByteLevel":
        yield kind
    elif pre_tokenizer["use_regex"]:
        yield GPT2


def _merges(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs in order of rank; older files join them by a space."""
    merges = spec["model"]["merges"]
    return [(pair.split(" ")[0], pair.split(" ")[1]) if isinstance(pair, str) else tuple(pair) for pair in merges]


def _add_character_bpe(writer: GGUFWriter, spec: Mapping[str, Any], tokens: list[str], types: list[int]) -> None:
    """SentencePiece's BPE. Its scores are the ranks of merges, negated: the best score is merged first."""
    rank: dict[str, int] = {}
    for left, right in _merges(spec):
        rank.setdefault(left + right, len(rank))
    for index, token in enumerate(tokens):
        if BYTE.fullmatch(token):
            types[index] = TokenType.BYTE
        elif token == spec["model"]["unk_token"]:
            types[index] = TokenType.UNKNOWN
        elif types[index] == TokenType.USER_DEFINED:
            tokens[index] = token.replace(SPACE, " ")  # llama.cpp looks for these in the text as it came
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([-float(rank[token]) if token in rank else UNMERGED for token in tokens])
    writer.add_add_space_prefix(_prepends_space(spec))


def _prepends_space(spec: Mapping[str, Any]) -> bool:
    """Old files prepend ▁ as they normalise, new ones as they split."""
    normalizers = (spec["normalizer"] or {}).get("normalizers", [spec["normalizer"]])
    split = spec["pre_tokenizer"] or {}
    return any(step and step["type"] == "Prepend" for step in normalizers) or (
        split.get("type") == "Metaspace" and split.get("prepend_scheme") != "never"
    )


def _add_special_tokens(writer: GGUFWriter, tokenizer: Any) -> None:
    for role in ("bos", "eos", "unk", "pad"):
        token_id = getattr(tokenizer, f"{role}_token_id")
        if token_id is not None:
            getattr(writer, f"add_{role}_token_id")(token_id)
    bare, dressed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    writer.add_add_bos_token(adds_bos(tokenizer))
    writer.add_add_eos_token(len(dressed) > len(bare) and dressed[-1] == tokenizer.eos_token_id)
    template = tokenizer.chat_template
    if template:
        writer.add_chat_template(template["default"] if isinstance(template, dict) else template)
