"""Tiny models with a few hundred tokens that were learned from text, of each kind of tokenizer."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_llama
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

WORDS = (
    *("the", "river", "runs", "over", "stones", "and", "under", "bridges", "while", "people", "read", "letters"),
    *("written", "in", "other", "lands"),
)
LEARNED = [
    " ".join(WORDS[(place * step) % len(WORDS)] + "," * (place % 7 == 0) for place in range(60)) + f" {step}{step} "
    for step in range(1, 40)
] + ["def main():\n    return [1, 2, 3]\n\n", "über die Brücke, größer und älter", "日本語の本を読む人々"] * 5
SPECIAL = ["<s>", "</s>", "<|turn|>"]
NUM_TOKENS = 620
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|turn|>' + message['role'] + '\\n' + message['content'] }}"
    "{% endfor %}"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    """As GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=NUM_TOKENS - 3, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LEARNED, trainer)
    return tokenizer


def whole_words() -> Tokenizer:
    """As Llama 3's: words that are tokens are not merged at all, and a token begins every text."""
    tokenizer = byte_level()
    tokenizer.model.ignore_merges = True
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    return tokenizer


def characters() -> Tokenizer:
    """As Gemma's: characters, bytes to fall back on, every pair that makes a token merges."""
    spaces = [normalizers.Replace(" ", "▁")]
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Sequence(spaces)
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    first = ["<unk>", *BYTES]
    learner.train_from_iterator(
        LEARNED, trainers.BpeTrainer(vocab_size=NUM_TOKENS - 3, special_tokens=first, show_progress=False)
    )
    vocab = learner.get_vocab()
    ranked = sorted(set(vocab) - set(first), key=vocab.__getitem__)
    pairs = [(token[:cut], token[cut:]) for token in ranked for cut in range(1, len(token))]
    merges = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "whole words": whole_words,
    "characters": characters,
}


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """With special tokens behind the others, one that is not special, a chat template, and a token before each text."""
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken("[keep me]", normalized=False)])
    begin = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = TEMPLATE
    return fast


@functools.cache
def texts(num: int) -> list[str]:
    """All of Unicode sampled, code, emoji, long words, runs of white space, special tokens in the text."""
    draw = random.Random(0)

    def character() -> str:
        return chr(
            draw.choice([draw.randrange(0x20, 0x7F), draw.randrange(0xA0, 0xD800), draw.randrange(0xE000, 0x110000)])
        )

    pieces = [
        lambda: "".join(character() for _ in range(draw.randrange(1, 12))),
        lambda: draw.choice(WORDS) + draw.choice(["", " ", ", "]),
        lambda: draw.choice([" ", "\n", "\t", "\r\n", "\u3000"]) * draw.randrange(1, 20),
        lambda: draw.choice(["👩‍👩‍👧", "🇨🇭", "é", "e\u0301", "日本語", "größer", "\x00", "▁", "<0x41>"]),
        lambda: draw.choice([*SPECIAL, "[keep me]", "<unk>"]),
        lambda: draw.choice(WORDS) * draw.randrange(1, 30),
        lambda: "def f(x):\n    return {'a': x ** 2, \"b\": [1, 2.5e-3]}\n",
    ]
    return ["".join(draw.choice(pieces)() for _ in range(draw.randrange(1, 8))) for _ in range(num)]


def save_model(folder: Path, kind: str, **changes: Any) -> Path:
    """A complete checkpoint folder, with rows that no token uses and vocabularies under other names."""
    tokenizer = make_tokenizer(kind)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = tiny_llama.make_model(**{"vocab_size": len(tokenizer) + 9, **ids, **changes})
    model.save_pretrained(folder)
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    ends = [tokenizer.eos_token_id, turn]
    GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, suppress_tokens=[turn]).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(b"the old vocabulary")
    (folder / "LICENSE").write_text("as you like")
    return folder
