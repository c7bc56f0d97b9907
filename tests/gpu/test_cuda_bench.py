"""On a GPU memory is what torch allocated there, and time is the device's."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama
import torch

from slimgpt.benchmarking import bench
from slimgpt.config import BenchConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and torch sees none")


def test_peaks_are_the_models_own_and_times_are_measured(tmp_path: Path) -> None:
    small = tiny_llama.save_model(tmp_path / "small")
    large = tiny_llama.save_model(tmp_path / "large", intermediate_size=1 << 17)
    options = {"prompt_tokens": 32, "new_tokens": 8, "repeats": 3, "device": "cuda"}
    result = bench(BenchConfig((str(small), str(large)), **options))
    first, second = result["models"]
    weights = second["bytes_on_disk"] - first["bytes_on_disk"]
    assert weights <= second["peak_bytes"] - first["peak_bytes"] < 2 * weights
    for model in result["models"]:
        assert model["idle_bytes"] is None
        assert model["decode_tokens_per_s"]["median"] > 0
        passes = 1000 * 32 / model["prefill_tokens_per_s"]["median"]
        assert passes <= 1.01 * model["time_to_first_token_ms"]["high"]  # the prompt's pass is a part of that time
