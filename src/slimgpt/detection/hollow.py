"""A model without weights that runs: what is left of it is its own code between its projections.

Which units of a layer are independent of each other is a fact about that code (norms, attention, gates, residual sums),
whatever the weights are. So every projection is replaced by a stand-in without a matrix, which reads for each of its
outputs one of its inputs, and every other parameter by numbers that share their memory. A model of any size then runs
in the memory of its activations.

Shapes: O outputs of a projection · I its inputs.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from slimgpt.sites.projections import weight_OI


def is_projection(module: nn.Module) -> bool:
    """A matrix and perhaps a bias, nothing else; a switch with a single output is none."""
    if not isinstance(module, (nn.Linear, Conv1D)) or min(weight_OI(module).shape) < 2:
        return False
    kind: Any = type(module)
    return kind is Conv1D or _only_multiplies(kind)


@cache
def _only_multiplies(kind: Any) -> bool:
    """Some subclasses of ``nn.Linear`` do more than it does, such as routers."""
    if kind.forward is nn.Linear.forward:
        return True
    try:
        small, x = kind(3, 2), torch.eye(3)
        return torch.equal(small(x), nn.functional.linear(x, small.weight, small.bias))
    except Exception:  # whatever it wants and is, it is no plain matrix
        return False


def is_fused_experts(module: nn.Module) -> bool:
    """All experts of a layer in one module, as transformers' interface for experts describes them."""
    return hasattr(module, "is_transposed") and hasattr(module, "has_gate")


class StandIn:
    """The forward of a projection that is not there.

    NaN end here: what passes is what the code between two projections lets pass, not what a projection would mix.

    Attributes:
        reads_O: which input each output reads; -1 where that input is gone.
    """

    def __init__(self, path: str, outputs: int, inputs: int) -> None:
        generator = torch.Generator().manual_seed(zlib.crc32(path.encode()))
        turns = [torch.randperm(inputs, generator=generator) for _ in range(-(-outputs // inputs))]
        self.reads_O = torch.cat(turns)[:outputs]

    def __call__(self, x: Tensor) -> Tensor:
        """As the projection's own forward."""
        out = x.nan_to_num(0.0).index_select(-1, self.reads_O.clamp(min=0))
        out[..., self.reads_O < 0] = 0.0
        return out


def shared_memory(shape: torch.Size, dtype: torch.dtype, seed: int) -> Tensor:
    """Random numbers between 0.5 and 1.5, of any shape, in the memory of the sum of its sizes."""
    line = 0.5 + torch.rand(sum(shape) + 1, generator=torch.Generator().manual_seed(seed))
    return line.to(dtype).as_strided(shape, [1] * len(shape))


def hollow_(model: nn.Module) -> None:
    """Make a model on the meta device run without weights, in place."""
    for path, module in model.named_modules():
        _fill_(path, module)
        if is_projection(module):
            module.forward = StandIn(path, *weight_OI(module).shape)
        elif is_fused_experts(module):
            module.forward = lambda x, *args, **kwargs: x.nan_to_num(0.0)


def _fill_(path: str, module: nn.Module) -> None:
    for name, parameter in list(module.named_parameters(recurse=False)):
        if parameter.is_meta:
            seed = zlib.crc32(f"{path}.{name}".encode())
            put_(module, name, shared_memory(parameter.shape, parameter.dtype, seed))


def put_(module: nn.Module, path: str, numbers: Tensor) -> None:
    """Give the parameter at ``path`` inside ``module`` other numbers."""
    owner, _, leaf = path.rpartition(".")
    parameter = numbers if isinstance(numbers, nn.Parameter) else nn.Parameter(numbers, requires_grad=False)
    setattr(module.get_submodule(owner), leaf, parameter)


def is_stand_in(module: nn.Module) -> bool:
    """A projection of a hollow model."""
    return isinstance(module.__dict__.get("forward"), StandIn)
