"""The exact error of experts' absence, against layers that are run without them."""

from __future__ import annotations

from typing import Any

import mixtures
import pytest
import tiny_llama
import torch
from mixtures import EXPERTS
from torch import Tensor

from slimgpt.experts.exact import Trials, grams, order_of_going
from slimgpt.experts.rerouting import Rerouting
from slimgpt.experts.watching import Sample

PATH = "mlp.experts"
DIMS = {
    "mixtral": {"mlp.gate.weight": 0},
    "qwen2_moe": {"mlp.gate.weight": 0},
    "deepseek_v3": {"mlp.gate.weight": 0, "mlp.gate.e_score_correction_bias": 0},
}


def dims_of(kind: str) -> dict[str, int]:
    return {**DIMS[kind], f"{PATH}.gate_up_proj": 0, f"{PATH}.down_proj": 0}


def layer_and_tokens(kind: str) -> tuple[Any, Tensor]:
    """The last layer of a random model, and what enters its block with experts."""
    model, inputs = mixtures.make_mixture(kind).requires_grad_(False), list[Tensor]()
    layer = model.model.layers[-1]
    layer.mlp.register_forward_pre_hook(lambda module, args: inputs.append(args[0].flatten(0, 1)))
    model(input_ids=tiny_llama.tokens(2, 24))
    return layer, inputs[0]


def routed_output(layer: Any, x_TD: Tensor, gates_TE: Tensor) -> Tensor:
    outputs = [mixtures.expert_output(layer.mlp.experts, number, x_TD) for number in range(EXPERTS)]
    return sum(gates_TE[:, number, None] * outputs[number] for number in range(EXPERTS))


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
def test_the_router_alone_is_the_router(kind: str) -> None:
    layer, x_TD = layer_and_tokens(kind)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    for gone in ((), (1, 5)):
        found_TE = Rerouting(layer, PATH, dims_of(kind)).gates(x_TD, gone)
        expert_TK, gate_TK = mixtures.softmax_routing(layer.mlp, x_TD, gone, renormalised=kind == "mixtral")
        expected_TE = torch.zeros(len(x_TD), EXPERTS).scatter(1, expert_TK, gate_TK)
        torch.testing.assert_close(found_TE, expected_TE)
        assert not found_TE[:, list(gone)].any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize(("kind", "groups"), [("mixtral", 1), ("qwen2_moe", 1), ("deepseek_v3", 2)])
def test_each_time_the_least_missed_goes(kind: str, groups: int) -> None:
    """Tried by brute force: the layer's output without each candidate."""
    layer, x_TD = layer_and_tokens(kind)
    rerouting = Rerouting(layer, PATH, dims_of(kind))
    dense_TD = routed_output(layer, x_TD, rerouting.gates(x_TD, ()))
    gone: list[int] = []
    while len(gone) < EXPERTS // 2:
        full = {
            one // (EXPERTS // groups)
            for one in gone
            if groups > 1
            and sum(other // (EXPERTS // groups) == one // (EXPERTS // groups) for other in gone)
            == EXPERTS // 2 // groups
        }
        candidates = [one for one in range(EXPERTS) if one not in gone and one // (EXPERTS // groups) not in full]
        errors = {
            one: float((routed_output(layer, x_TD, rerouting.gates(x_TD, [*gone, one])) - dense_TD).square().sum())
            for one in candidates
        }
        gone.append(min(errors, key=errors.__getitem__))
    place_E = order_of_going(layer.mlp.experts, rerouting, x_TD, EXPERTS // 2, groups)
    assert place_E.argsort(stable=True).tolist()[: len(gone)] == gone
    assert (place_E == EXPERTS).sum() == EXPERTS // 2


def test_the_error_is_that_of_the_output() -> None:
    layer, x_TD = layer_and_tokens("mixtral")
    rerouting = Rerouting(layer, PATH, dims_of("mixtral"))
    dense_TE, first_TE, then_TE = (rerouting.gates(x_TD, gone) for gone in ((), (0,), (0, 3)))
    expected = float(routed_output(layer, x_TD, then_TE - dense_TE).square().sum())
    trials = Trials(grams(layer.mlp.experts, EXPERTS, x_TD), dense_TE)
    assert trials.error(dense_TE) == 0
    assert trials.error(then_TE) == pytest.approx(expected, rel=1e-4)
    trials.settle(first_TE)
    assert trials.error(then_TE) == pytest.approx(expected, rel=1e-4)


def test_many_go_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x_TD = layer_and_tokens("mixtral")
    rerouting, tried = Rerouting(layer, PATH, dims_of("mixtral")), list[int]()
    monkeypatch.setattr("slimgpt.experts.exact.ROUNDS", EXPERTS // 2)
    monkeypatch.setattr(Trials, "error", lambda self, gates_TE: float(tried.append(len(tried)) or len(tried)))
    place_E = order_of_going(layer.mlp.experts, rerouting, x_TD, EXPERTS - 3, groups=1)
    assert place_E.tolist() == [0, 1, 2, *[EXPERTS] * (EXPERTS - 3)]
    assert len(tried) == EXPERTS + EXPERTS - 2


def test_of_two_that_do_the_same_one_goes_first_and_the_other_stays() -> None:
    """Redundancy: without its twin an expert costs nothing, and then it is missed."""
    layer, x_TD = layer_and_tokens("mixtral")
    experts = layer.mlp.experts
    for tensor in (experts.gate_up_proj, experts.down_proj, layer.mlp.gate.weight):
        tensor[6].copy_(tensor[7])  # the largest, twice: tokens that go to one go to both
    place_E = order_of_going(experts, Rerouting(layer, PATH, dims_of("mixtral")), x_TD, EXPERTS - 2, groups=1)
    assert place_E[6:].max() == EXPERTS


def test_a_sample_is_drawn_evenly_and_by_its_seed() -> None:
    def drawn(seed: int) -> list[float]:
        sample = Sample(10, 100, torch.Generator().manual_seed(seed))
        for part in torch.arange(100.0)[:, None].split(30):
            sample.update(part)
        return sample.rows.flatten().tolist()

    assert drawn(1) == drawn(1) == sorted(drawn(1)) != drawn(2)
    assert len(drawn(1)) == 10 and max(drawn(1)) > 50
