"""Train a small Llama from nothing, offline, in minutes on one CPU core: the first model of recipes/study-small.yaml.

The text comes with Python (its language reference and docstrings). A twentieth of the documents is held out before the
tokenizer is trained, so that neither it nor the model has seen them. OUT becomes

    OUT/model/          an ordinary Hugging Face folder
    OUT/train.jsonl     what it learned from, for calibration and fine-tuning
    OUT/seen.txt        the beginning of that, for the loss on seen text
    OUT/held-out.txt    what it has never seen, for perplexity
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slimgpt.calibration.sources import resolve
from slimgpt.machine.devices import has_bfloat16

VOCABULARY, SEQLEN = 2048, 256
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
HELD_OUT = 20  # one document in so many
SEEN_CHARACTERS = 120_000
BATCH, PEAK_RATE, WARMUP = 16, 3e-3, 30
END = "</s>"


def main() -> None:
    """Read, train, write."""
    arguments = parsed()
    out: Path = arguments.out
    if out.exists():
        raise SystemExit(f"{out} exists: choose another folder, or remove it.")
    torch.manual_seed(arguments.seed)
    documents = [text for text in resolve("builtin").documents(arguments.seed) if text.strip()]
    held_out = documents[HELD_OUT - 1 :: HELD_OUT]
    seen = [text for index, text in enumerate(documents) if index % HELD_OUT != HELD_OUT - 1]
    tokenizer = trained_tokenizer(seen)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **SHAPE))
    train_(model, tokenizer, seen, arguments.steps)
    out.mkdir(parents=True)
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    (out / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in seen), encoding="utf-8")
    (out / "seen.txt").write_text("\n\n".join(seen)[:SEEN_CHARACTERS], encoding="utf-8")
    (out / "held-out.txt").write_text("\n\n".join(held_out), encoding="utf-8")


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--steps", type=int, default=500, help="optimiser steps of 4,096 tokens")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def trained_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a small vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def train_(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], steps: int) -> None:
    """AdamW with warm-up and a cosine to a tenth of the peak, in bfloat16 where this CPU multiplies it."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    batches, start = shuffled(tokenizer, texts), time.monotonic()
    lower = torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bfloat16(torch.device("cpu")))
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * rate(step, steps)
        ids_BT = next(batches)
        with lower:
            loss = model(input_ids=ids_BT, labels=ids_BT).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item():.3f} nats a token, {time.monotonic() - start:.0f} s", flush=True)
    model.eval()


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP))


def shuffled(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Iterator[Tensor]:
    """Batches of windows, in a new order at a new offset each time the text has been used up."""
    encoded = tokenizer([text + END for text in texts], add_special_tokens=False)["input_ids"]
    stream = torch.tensor([token for ids in encoded for token in ids])
    while True:
        offset = int(torch.randint(SEQLEN, ()))
        windows_NT = stream[offset:].unfold(0, SEQLEN, SEQLEN)
        order = torch.randperm(len(windows_NT))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            yield windows_NT[order[first : first + BATCH]]


if __name__ == "__main__":
    main()
