"""What travels beside the GPU's work arrives whole, however long the work and the batches are."""

from __future__ import annotations

import pytest
import torch

from slimgpt.streaming.conveyor import conveyor, to_host

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and torch sees none")

NUM_ROWS, WIDTH, BATCH = 23, 1 << 20, 4


@pytest.mark.parametrize("pinned", [True, False])
def test_every_pass_finds_what_the_last_one_left(pinned: bool) -> None:
    host = torch.arange(NUM_ROWS, dtype=torch.float32)[:, None].repeat(1, WIDTH)
    belt = conveyor(host.pin_memory() if pinned else host, torch.device("cuda"), torch.float32)
    expected_B = torch.arange(NUM_ROWS, dtype=torch.float32)
    busy = torch.eye(2048, device="cuda")
    for _ in range(4):
        for start in range(0, NUM_ROWS, BATCH):
            rows = slice(start, min(start + BATCH, NUM_ROWS))
            busy = busy @ busy  # the device is behind the host
            batch = belt.take(rows)
            belt.put(rows, batch * 2 + 1)
            del batch
            torch.full((BATCH, WIDTH), -1.0, device="cuda")  # would land where a batch was freed too early
        belt.settle()
        expected_B = expected_B * 2 + 1
    torch.cuda.synchronize()
    assert torch.equal(belt.host, expected_B[:, None].expand(-1, WIDTH))


def test_what_is_brought_to_the_host_is_pinned_and_converted() -> None:
    there = torch.randn(100, 3, device="cuda")
    here = to_host(there, torch.bfloat16)
    assert here.is_pinned()
    assert torch.equal(here, there.cpu().bfloat16())
