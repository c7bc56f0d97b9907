"""Train a small mixture of experts from nothing, offline, in minutes on a CPU core, for benchmarks/experts.py.

Four kinds of text, so that experts have something to be experts in: Python's documentation, Python's own code, sums,
and JSON. A part of each is held out before the tokenizer is trained. The router is kept balanced by transformers'
auxiliary loss. OUT becomes

    OUT/model/              an ordinary Hugging Face folder (Qwen3-MoE)
    OUT/train.jsonl         what it learned from, all kinds in turn
    OUT/train-KIND.jsonl    the same, one kind
    OUT/held-out-KIND.txt   what it has never seen
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from train_tiny import END, rate, trained_tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from slimgpt.calibration.sources import resolve

SEQLEN, BATCH, PEAK_RATE = 128, 16, 4e-3
SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 0.01,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
CHARACTERS = 1_500_000  # of each kind
DOCUMENT = 2_000  # characters at most: longer ones are cut
HELD_OUT = 20  # one document in so many


def main() -> None:
    """Read, train, write."""
    arguments = parsed()
    out: Path = arguments.out
    if out.exists():
        raise SystemExit(f"{out} exists: choose another folder, or remove it.")
    torch.manual_seed(arguments.seed)
    kinds = {kind: documents_of(kind) for kind in ("documentation", "code", "sums", "json")}
    seen = {kind: [one for index, one in enumerate(texts) if index % HELD_OUT] for kind, texts in kinds.items()}
    turns = [text for texts in zip(*seen.values(), strict=False) for text in texts]
    tokenizer = trained_tokenizer(turns)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **SHAPE))
    train_(model, batches(tokenizer, seen), arguments.steps)
    out.mkdir(parents=True)
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    write_rows(out / "train.jsonl", turns)
    for kind, texts in kinds.items():
        write_rows(out / f"train-{kind}.jsonl", seen[kind])
        (out / f"held-out-{kind}.txt").write_text("\n\n".join(texts[::HELD_OUT]), encoding="utf-8")


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of 2,048 tokens")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def write_rows(file: Path, texts: list[str]) -> None:
    """As JSONL."""
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


# --- text -------------------------------------------------------------------------------------------


def documents_of(kind: str) -> list[str]:
    """Some characters of one kind, in an order of no meaning."""
    draw = random.Random(0)
    makers = {"documentation": documentation, "code": code, "sums": sums, "json": records}
    texts, characters = [], 0
    for text in makers[kind](draw):
        if text.strip():
            texts.append(text[:DOCUMENT])
            characters += len(texts[-1])
        if characters > CHARACTERS:
            break
    draw.shuffle(texts)
    return texts


def documentation(draw: random.Random) -> Iterator[str]:
    """English that comes with Python."""
    yield from resolve("builtin").documents(0)


def code(draw: random.Random) -> Iterator[str]:
    """Functions of the standard library, without what they say of themselves."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    draw.shuffle(modules)
    for module in modules:
        tree = ast.parse(module.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                if ast.get_docstring(node) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
                yield ast.unparse(node) + "\n"


def sums(draw: random.Random) -> Iterator[str]:
    """Additions, subtractions and products, with what they come to."""
    while True:
        lines = []
        for _ in range(40):
            one, other, sign = draw.randrange(100), draw.randrange(100), draw.choice("+-*")
            lines.append(
                f"{one} {sign} {other} = {one + other if sign == '+' else one - other if sign == '-' else one * other}"
            )
        yield "\n".join(lines)


def records(draw: random.Random) -> Iterator[str]:
    """Orders of a shop."""
    names, things = ("Ada", "Grace", "Alan", "Edsger", "Barbara"), ("lamp", "chair", "desk", "clock", "shelf")
    while True:
        yield "\n".join(
            json.dumps(
                {
                    "id": draw.randrange(10**6),
                    "customer": {"name": draw.choice(names), "member": draw.random() < 0.5},
                    "items": [
                        {"name": draw.choice(things), "count": draw.randrange(1, 9), "price": draw.randrange(500) / 4}
                        for _ in range(draw.randrange(1, 4))
                    ],
                }
            )
            for _ in range(8)
        )


# --- training ---------------------------------------------------------------------------------------


def batches(tokenizer: PreTrainedTokenizerFast, kinds: dict[str, list[str]]) -> Iterator[Tensor]:
    """B x T tokens, a quarter of the windows of each kind."""
    streams = []
    for texts in kinds.values():
        encoded = tokenizer([text + END for text in texts], add_special_tokens=False)["input_ids"]
        streams.append(torch.tensor([token for ids in encoded for token in ids]))
    while True:
        rows = []
        for stream in streams:
            for _ in range(BATCH // len(streams)):
                start = int(torch.randint(len(stream) - SEQLEN, ()))
                rows.append(stream[start : start + SEQLEN])
        yield torch.stack(rows)


def train_(model: Qwen3MoeForCausalLM, windows: Iterator[Tensor], steps: int) -> None:
    """AdamW with warm-up and a cosine to a tenth of the peak."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    start = time.monotonic()
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * rate(step, steps)
        ids_BT = next(windows)
        result = model(input_ids=ids_BT, labels=ids_BT, output_router_logits=True)  # its loss has the balancing in it
        optimiser.zero_grad()
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: {result.loss.item():.3f} nats a token, {time.monotonic() - start:.0f} s", flush=True)
    model.eval()


if __name__ == "__main__":
    main()
