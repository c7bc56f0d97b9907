"""Decoder layers by torch.compile: one loop over memory where eager PyTorch makes one for each element-wise operation.

On a CPU with fast matrix products those are more than half of a training step: normalisation, rotation, activation and
the changes of dtype around them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch._dynamo.config as dynamo
from torch import nn

from slimgpt.errors import ConfigError


def check(device: torch.device) -> None:
    """See that this machine compiles.

    Raises:
        ConfigError: it does not; on a CPU mostly for want of a C++ compiler.
    """
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except Exception as error:  # of the compiler, of the operating system, of torch
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"--compile: torch.compile does not work here ({lines[0]}). It needs a C++ compiler such as g++ for a CPU, "
            "and Triton for a GPU: install it, or leave --compile out."
        ) from error


def compile_layers(layers: nn.Module) -> None:
    """Compile each layer, at its first call, for its own widths and for the one shape of batches that there is.

    Layers of a pruned model differ in width, and torch gives up after a few variants of the same code, so it is told
    how many there are: each with and without gradients, and for an incomplete batch.
    """
    each = list(layers.children())
    dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * len(each))
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 8 * len(each))
    for layer in each:
        layer.compile(dynamic=False)


def as_written() -> AbstractContextManager[Any]:
    """Inside, nothing is compiled or runs compiled: for what is too seldom to be worth it."""
    return torch.compiler.set_stance("force_eager")
