"""A model's files, mutated: it opens (and then prunes to something that loads), or is refused in one line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
from harm import CONFIG, EVIL_CODE, GENERATION, TOKENIZER
from hostile import RARELY, SEEDS, as_json, copied, damaged, mutated, outcome, outcome_of, write

from slimgpt import generate, load_model, open_checkpoint, prune
from slimgpt.config import ExportConfig
from slimgpt.exports import export
from slimgpt.model.tokenizer import load_tokenizer

FAMILIES = ("llama", "qwen3", "gemma3_text", "phi3", "gpt2", "opt", "gpt_neox", "mixtral", "qwen2_moe")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of every shape, and one that slimgpt has pruned."""
    place = tmp_path_factory.mktemp("models")
    dense = [tiny.save_model(place / name, name) for name in FAMILIES]
    prune(tiny_llama.prune_config(dense[0], place / "pruned", solver="magnitude", allocation="log"))
    for folder in dense:
        (folder / "evil.py").write_text(EVIL_CODE)
    return [*dense, place / "pruned"]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_sharded(tmp_path_factory.mktemp("sharded") / "model")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gguf")
    export(ExportConfig(str(tiny_llama.save_model(place / "model")), str(place / "model.gguf"), outtype="f32"))
    return place / "model.gguf"


def test_sound_models_pass(models: list[Path], sharded: Path, gguf: Path, tmp_path: Path) -> None:
    """Negative control: what all these tests begin with."""
    for model in (*models, sharded):
        assert outcome(lambda model=model: open_checkpoint(str(model)).tokenizer()) is None
    assert outcome(lambda: open_checkpoint(str(gguf))) is None
    assert outcome_of("generate", models[0], "Hi", "--max-new-tokens", 2) is None


@SEEDS
def test_config(seed: int, models: list[Path], tmp_path: Path) -> None:
    choice = random.Random(seed)
    model = copied(choice.choice(models), tmp_path / "model")
    content = mutated(json.loads((model / "config.json").read_text()), choice, CONFIG)
    write(model / "config.json", as_json(content, choice))
    if outcome(lambda: open_checkpoint(str(model))) is None and choice.random() < RARELY:
        prunes(model, tmp_path / "out", choice)


def prunes(model: Path, out: Path, choice: random.Random) -> None:
    """What opens can be pruned to something that loads, or is refused yet."""
    config = tiny_llama.prune_config(model, out, solver=choice.choice(("magnitude", "slimgpt")), allocation="log")
    if outcome(lambda: prune(config)) is None:
        assert outcome(lambda: load_model(str(out), "cpu")) is None


@SEEDS
def test_generation_settings(seed: int, models: list[Path], tmp_path: Path) -> None:
    choice = random.Random(seed)
    model = copied(models[0], tmp_path / "model")
    start = {"bos_token_id": 256, "eos_token_id": 257, "do_sample": True, "temperature": 0.7, "max_length": 60}
    write(model / "generation_config.json", as_json(mutated(start, choice, GENERATION), choice))
    if choice.random() < RARELY:
        outcome_of("generate", model, "Hi", "--max-new-tokens", 2)
    else:
        outcome(lambda: generate(*load_model(str(model), "cpu"), "Hi", 2, temperature=choice.choice((0.0, 0.5))))


@SEEDS
def test_tokenizer(seed: int, models: list[Path], tmp_path: Path) -> None:
    choice = random.Random(seed)
    model = copied(models[0], tmp_path / "model")
    file = model / choice.choice(("tokenizer.json", "tokenizer_config.json", "tokenizer_config.json"))
    write(file, as_json(mutated(json.loads(file.read_text()), choice, TOKENIZER), choice))
    read: list[Any] = []
    if outcome(lambda: read.append(load_tokenizer(model))) is None:
        read[0].save_pretrained(tmp_path / "out")  # what was read at the start can be written at the end
        if choice.random() < RARELY:
            outcome_of("generate", model, "Hi", "--max-new-tokens", 2, "--chat")


@SEEDS
def test_index(seed: int, sharded: Path, tmp_path: Path) -> None:
    choice = random.Random(seed)
    model = copied(sharded, tmp_path / "model")
    file = model / "model.safetensors.index.json"
    write(file, as_json(mutated(json.loads(file.read_text()), choice), choice))
    outcome(lambda: open_checkpoint(str(model)))


@SEEDS
def test_header_of_weights(seed: int, models: list[Path], tmp_path: Path) -> None:
    choice = random.Random(seed)
    model = copied(choice.choice(models), tmp_path / "model")
    data = (model / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + size], data[8 + size :]
    if choice.random() < 0.6:
        header = as_json(mutated(json.loads(header), choice), choice)
        begin = len(header).to_bytes(8, "little") + header
    else:
        begin = damaged(data[: 8 + size], choice)
    write(model / "model.safetensors", begin + tensors)
    outcome(lambda: open_checkpoint(str(model)))


@SEEDS
def test_gguf(seed: int, gguf: Path, tmp_path: Path) -> None:
    """Damage mostly where numbers and names stand, which is in the beginning."""
    choice = random.Random(seed)
    data = gguf.read_bytes()
    end = choice.choice((64, 2_000, len(data) - 4 * 260 * 48, len(data)))
    write(tmp_path / "model.gguf", damaged(data[:end], choice) + data[end:])
    outcome(lambda: open_checkpoint(str(tmp_path / "model.gguf")))
