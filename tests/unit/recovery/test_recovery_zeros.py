"""Fine-tuning that leaves zeros where pruning put them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from recovery_shop import sentences
from safetensors.torch import load_file
from tiny_llama import edit_weights, make_model, save_model

from slimgpt.config import RecoverConfig
from slimgpt.errors import ConfigError
from slimgpt.recovery import recover
from slimgpt.recovery.zeros import hold_zeros


def half_zero(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if "down_proj" in name:
            tensor[:, ::2] = 0


def test_adamw_moves_the_others_alone() -> None:
    model = make_model()
    down = model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        down[:, ::2] = 0
    before = down.detach().clone()
    assert hold_zeros(model) >= before[:, ::2].numel()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model(input_ids=torch.arange(12)[None], labels=torch.arange(12)[None]).loss.backward()
        optimiser.step()
    assert not down[:, ::2].any()
    assert (down[:, 1::2] != before[:, 1::2]).all()


def test_without_it_zeros_fill() -> None:
    """Negative control."""
    model = make_model()
    down = model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        down[:, ::2] = 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(input_ids=torch.arange(12)[None], labels=torch.arange(12)[None]).loss.backward()
    optimiser.step()
    assert down[:, ::2].any()


def test_a_recovered_model_has_the_zeros_that_went_in(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    edit_weights(model, half_zero)
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": sentence}) + "\n" for sentence in sentences(0, 60)))
    recover(
        RecoverConfig(
            str(model), str(tmp_path / "out"), str(text), full=True, keep_zeros=True, max_steps=3, batch_size=4,
            seqlen=32, warmup=0, learning_rate=1e-3, held_out=0.2, device="cpu",
        )
    )  # fmt: skip
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("model", "out"))
    changed = 0
    for name, tensor in before.items():
        assert torch.equal(after[name] == 0, tensor == 0), name
        changed += not torch.equal(after[name], tensor)
    assert changed


def test_adapters_cannot_keep_zeros() -> None:
    with pytest.raises(ConfigError, match="--keep-zeros is for --full: merged adapters change every weight"):
        RecoverConfig("m", "o", "d", keep_zeros=True).check()
