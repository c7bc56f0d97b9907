"""Which precision a processor computes in, by what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slimgpt.machine import devices

CPU = torch.device("cpu")
PROCESSORS: list[tuple[str, dict[str, Any], bool]] = [
    ("AMX", {"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
    ("Intel without AMX", {"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
    ("AMD with bfloat16", {"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, True),
    ("no bfloat16", {"cpu_name": "Intel Core", "avx512_bf16": False, "amx_bf16": False}, False),
    ("not asked for its name", {"avx512_bf16": True}, True),
]


@pytest.mark.parametrize(("capabilities", "fast"), [row[1:] for row in PROCESSORS], ids=[row[0] for row in PROCESSORS])
def test_bfloat16_is_for_processors_that_multiply_it_faster(
    capabilities: dict[str, Any], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert devices.has_bfloat16(CPU) == fast
    assert devices.compute_dtype(torch.bfloat16, CPU) == (torch.bfloat16 if fast else torch.float32)
    assert devices.compute_dtype(torch.float16, CPU) == torch.float32


def test_a_torch_that_cannot_tell_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert devices.compute_dtype(torch.bfloat16, CPU) == torch.float32
