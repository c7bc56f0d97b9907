"""Batches between host and device; tests/gpu has those that travel beside a GPU's work."""

from __future__ import annotations

import torch

from slimgpt.streaming.conveyor import conveyor, to_host

CPU = torch.device("cpu")


def test_batches_come_in_the_dtype_of_the_work_and_go_back_in_the_hosts() -> None:
    host = torch.arange(12, dtype=torch.bfloat16).view(4, 3)
    belt = conveyor(host, CPU, torch.float32)
    batch = belt.take(slice(1, 3))
    assert batch.dtype == torch.float32
    assert batch.tolist() == [[3, 4, 5], [6, 7, 8]]
    belt.put(slice(1, 3), batch + 0.5)
    belt.settle()
    assert host[1].tolist() == [3.5, 4.5, 5.5]
    assert host[0].tolist() == [0, 1, 2]


def test_on_the_cpu_a_batch_is_no_copy() -> None:
    host = torch.zeros(4, 3)
    assert conveyor(host, CPU, torch.float32).take(slice(0, 2)).data_ptr() == host.data_ptr()
    assert to_host(host, torch.float32) is host
