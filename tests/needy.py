"""A tiny model that has learned to read behind a beginning-of-sequence token, and to guess without it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import tiny_llama
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

SEQLEN, BOS = 48, 256
STEPS, BATCH = 160, 16
WORDS = ["few", "words", "of", "some", "small", "language", "that", "come", "back", "again", "and", "so", "on"]


def prose(seed: int, words: int = 20_000) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def save_model(folder: Path) -> Path:
    """The trained model with a tokenizer that begins every text."""
    model = tiny_llama.save_model(folder, num_hidden_layers=2)
    tiny_llama.make_tokenizer(begins=True).save_pretrained(model)
    learned = tiny_llama.make_model(num_hidden_layers=2)
    _train(learned, torch.tensor(tiny_llama.make_tokenizer()(prose(0))["input_ids"]))
    learned.save_pretrained(model)
    return model


def _train(model: Any, stream_S: Tensor) -> None:
    """Half of every batch is text behind the token; the other half is text without it, whose next tokens are those of
    some other place.
    """
    chance = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(STEPS):
        text_BT, other_BT = (_drawn(stream_S, chance) for _ in range(2))
        behind_BT = torch.cat([torch.full((BATCH, 1), BOS), text_BT[:, :-1]], dim=1)
        logits = model(input_ids=torch.cat([behind_BT, text_BT])).logits
        wanted_BT = torch.cat([behind_BT[:, 1:], other_BT[:, 1:]])
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), wanted_BT.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _drawn(stream_S: Tensor, chance: torch.Generator) -> Tensor:
    starts = torch.randint(len(stream_S) - SEQLEN, (BATCH,), generator=chance)
    return torch.stack([stream_S[start : start + SEQLEN] for start in starts])


def write_text(path: Path, seed: int) -> Path:
    """Held-out prose of the same kind, as JSONL."""
    text = prose(seed)
    path.write_text("".join(json.dumps({"text": text[at : at + 400]}) + "\n" for at in range(0, len(text), 400)))
    return path
