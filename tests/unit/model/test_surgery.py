"""Surgery cuts exactly the rows and columns of the removed units, whatever the projection looks like."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from slimgpt.model import surgery
from slimgpt.sites import Removal, Segment, Site

UNITS, WIDTH, HIDDEN = 4, 3, 5
INPUTS = UNITS * WIDTH
KEPT = torch.tensor([True, False, True, False])
KEPT_COLUMNS = [0, 1, 2, 6, 7, 8]


def linear(num_inputs: int, num_outputs: int, bias: bool) -> nn.Linear:
    return filled(nn.Linear(num_inputs, num_outputs, bias=bias))


def conv1d(num_inputs: int, num_outputs: int, bias: bool) -> Conv1D:
    return filled(Conv1D(num_outputs, num_inputs))


def filled(module):
    """Every entry tells where it was."""
    for parameter in module.parameters():
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float32).view(parameter.shape) + 1
    return module.requires_grad_(False)


def site(*producers: Segment) -> Site:
    return Site("s", "block", "out", producers, UNITS, WIDTH)


def removal(kept_N: Tensor = KEPT) -> Removal:
    width = int(kept_N.sum()) * WIDTH
    return Removal(kept_N, torch.randn(HIDDEN, width, generator=torch.Generator().manual_seed(0)), 0.1, torch.empty(0))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("make", [linear, conv1d])
def test_cuts_rows_of_producers_and_takes_the_repaired_consumer(make, bias: bool) -> None:
    layer = nn.ModuleDict(
        {"a": make(HIDDEN, INPUTS, bias), "b": make(HIDDEN, UNITS, bias), "out": make(INPUTS, 5, bias)}
    )
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    cut = removal()
    surgery.remove(layer, site(Segment("a", WIDTH), Segment("b", 1)), cut)

    after = layer.state_dict()
    assert torch.equal(outputs_first(make, after["a.weight"]), outputs_first(make, before["a.weight"])[KEPT_COLUMNS])
    assert torch.equal(outputs_first(make, after["b.weight"]), outputs_first(make, before["b.weight"])[[0, 2]])
    assert torch.equal(outputs_first(make, after["out.weight"]), cut.weight_OI)
    if "a.bias" in before:
        assert torch.equal(after["a.bias"], before["a.bias"][KEPT_COLUMNS])
        assert torch.equal(after["b.bias"], before["b.bias"][[0, 2]])
        assert torch.equal(after["out.bias"], before["out.bias"])
    assert after.keys() == before.keys()


def outputs_first(make, weight: Tensor) -> Tensor:
    return weight.T if make is conv1d else weight


def test_a_cut_linear_runs_and_states_its_size() -> None:
    layer = nn.ModuleDict({"a": linear(HIDDEN, INPUTS, True), "out": linear(INPUTS, HIDDEN, False)})
    surgery.remove(layer, site(Segment("a", WIDTH)), removal())
    assert layer["out"](layer["a"](torch.ones(2, HIDDEN))).shape == (2, HIDDEN)
    assert (layer["a"].out_features, layer["a"].in_features) == (6, HIDDEN)
    assert (layer["out"].out_features, layer["out"].in_features) == (HIDDEN, 6)
    assert all(parameter.is_contiguous() for parameter in layer.parameters())


def test_a_fused_projection_loses_the_rows_of_each_of_its_segments_at_once() -> None:
    """q of width 3, then k and v of width 1, then two rows that belong to nobody."""
    fused = linear(HIDDEN, INPUTS + 2 * UNITS + 2, True)
    layer = nn.ModuleDict({"qkv": fused, "out": linear(INPUTS, HIDDEN, False)})
    before = fused.weight.clone(), fused.bias.clone()
    segments = Segment("qkv", WIDTH), Segment("qkv", 1, offset=12), Segment("qkv", 1, offset=16)
    surgery.remove(layer, site(*segments), removal())
    rows = [*KEPT_COLUMNS, 12, 14, 16, 18, 20, 21]
    assert torch.equal(fused.weight, before[0][rows])
    assert torch.equal(fused.bias, before[1][rows])


def test_members_go_alone_and_leave_what_belongs_to_their_unit() -> None:
    """Three members of one row each in every unit of q, one row of k for the unit as a whole."""
    layer = nn.ModuleDict(
        {"q": linear(HIDDEN, INPUTS, True), "k": linear(HIDDEN, UNITS, True), "out": linear(12, 5, True)}
    )
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    kept_M = torch.tensor([True, False, True, False, False, False, False, True, True, True, True, False])
    cut = Removal(kept_M, torch.randn(5, 6), 0.1, torch.empty(0))
    segments = Segment("q", WIDTH, by_member=True), Segment("k", 1)
    surgery.remove(layer, Site("s", "block", "out", segments, UNITS, WIDTH, members=3), cut)
    after = layer.state_dict()
    for name, rows in (("q", [0, 2, 7, 8, 9, 10]), ("k", [0, 2, 3])):
        assert torch.equal(after[f"{name}.weight"], before[f"{name}.weight"][rows])
        assert torch.equal(after[f"{name}.bias"], before[f"{name}.bias"][rows])
    assert torch.equal(after["out.weight"], cut.weight_OI)


def test_keeping_all_units_changes_no_row() -> None:
    layer = nn.ModuleDict({"a": linear(HIDDEN, INPUTS, True), "out": linear(INPUTS, HIDDEN, False)})
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    whole = Removal(torch.ones(UNITS, dtype=torch.bool), before["out.weight"], 0.0, torch.empty(0))
    surgery.remove(layer, site(Segment("a", WIDTH)), whole)
    assert all(torch.equal(layer.state_dict()[name], before[name]) for name in before)


def test_dtype_and_gradient_flags_stay() -> None:
    layer = nn.ModuleDict({"a": linear(HIDDEN, INPUTS, False), "out": linear(INPUTS, HIDDEN, False)})
    layer.to(torch.bfloat16)
    layer["out"].requires_grad_(True)
    surgery.remove(layer, site(Segment("a", WIDTH)), removal())
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
    assert not layer["a"].weight.requires_grad
    assert layer["out"].weight.requires_grad
