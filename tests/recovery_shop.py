"""A taught tiny model, a pruned one, and data: what the tests of recovery share."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import tiny_llama
import torch
from transformers import AutoModelForCausalLM

from slimgpt import prune
from slimgpt.config import RecoverConfig
from slimgpt.recovery import recover

WORDS = ["few", "words", "of", "some", "small", "language", "that", "come", "back", "again", "and", "so", "on"]
SETTINGS: dict[str, Any] = {
    "seqlen": 32,
    "batch_size": 8,
    "warmup": 1,
    "max_steps": 8,
    "eval_every": 2,
    "learning_rate": 3e-3,
    "precision": "float32",
    "device": "cpu",
}


def sentences(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=10)) for _ in range(count)]


class Shop:
    """Models and data that the tests share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = folder / "text.jsonl"
        self.text.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(0, 200)))
        self.instructions = folder / "instructions.jsonl"
        rows = [{"instruction": text[:5], "output": text} for text in sentences(1, 60)]
        self.instructions.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.dense = self._dense()
        self.pruned = folder / "pruned"
        options = {"ratio": 0.5, "solver": "random", "calibration": str(self.text), "samples": 4}
        prune(tiny_llama.prune_config(self.dense, self.pruned, **options))

    def _dense(self) -> Path:
        """A model that knows the sentences, as a teacher must."""
        untaught = tiny_llama.save_model(self.folder / "untaught")
        options = {**SETTINGS, "max_steps": 100, "eval_every": 50, "learning_rate": 1e-2}
        config = RecoverConfig(str(untaught), str(self.folder / "dense"), str(self.text), full=True, **options)
        return recover(config).path


def options(shop: Shop, out: Path, **changes: Any) -> RecoverConfig:
    given = {"model": str(shop.pruned), "data": str(shop.text), **SETTINGS, **changes}
    return RecoverConfig(out=str(out), **given)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=tiny_llama.tokens(2, 20, seed=5)).logits


def loaded(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path)


class Watching:
    """Notes held-out perplexities."""

    def __init__(self) -> None:
        self.perplexities: dict[int, float] = {}

    def said(self, text: str) -> None: ...

    def planned(self, job: Any) -> None: ...

    def taught(self, tokens: int) -> None: ...

    def training(self) -> None: ...

    def writing(self) -> None: ...

    def stepped(self, step: int) -> None: ...

    def noted(self, loss: float) -> None: ...

    def measured(self, step: int, perplexity: float) -> None:
        self.perplexities[step] = perplexity
