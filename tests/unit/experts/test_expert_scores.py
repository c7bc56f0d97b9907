"""What an expert is worth, against the same written out naively; and who stays by it."""

from __future__ import annotations

import math

import mixtures
import pytest
import tiny_llama
import torch
from mixtures import EXPERTS, expert_output, softmax_routing

from slimgpt.experts.choice import best
from slimgpt.experts.scores import SCORES
from slimgpt.experts.watching import RoutingStats, watched


@pytest.fixture(scope="module")
def seen() -> tuple[torch.nn.Module, RoutingStats, list[list[tuple[float, float]]]]:
    """A layer's experts, what was summed up of them in two batches, and by expert the gates and norms of its tokens."""
    model = mixtures.make_mixture("mixtral")
    block = model.model.layers[1].mlp
    stats, inputs = RoutingStats.of(EXPERTS), []
    block.register_forward_pre_hook(lambda module, args: inputs.append(args[0].flatten(0, 1)))
    with torch.inference_mode(), watched(block.experts, stats.update):
        for seed in (1, 2):
            model(input_ids=tiny_llama.tokens(2, 16, seed=seed))
        x_TD = torch.cat(inputs)
        expert_TK, gate_TK = softmax_routing(block, x_TD, (), renormalised=True)
        served = [
            [
                (float(gate), float(expert_output(block.experts, number, x_TD[token]).norm()))
                for token in range(len(x_TD))
                for chosen, gate in zip(expert_TK[token].tolist(), gate_TK[token], strict=True)
                if chosen == number
            ]
            for number in range(EXPERTS)
        ]
    return block.experts, stats, served


def score(name: str, experts: torch.nn.Module, stats: RoutingStats, seed: int = 0) -> list[float]:
    return SCORES[name](stats, experts, torch.Generator().manual_seed(seed)).tolist()


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def test_scores_by_routing(seen: tuple) -> None:  # type: ignore[type-arg]
    experts, stats, served = seen
    naive = {
        "reap": [mean([gate * norm for gate, norm in of]) for of in served],
        "man": [mean([norm for _, norm in of]) for of in served],
        "frequency": [float(len(of)) for of in served],
    }
    for name, expected in naive.items():
        assert score(name, experts, stats) == pytest.approx(expected, rel=1e-4), name
    assert sum(naive["frequency"]) == 2 * 2 * 16 * mixtures.PER_TOKEN


def test_aimer_is_of_weights_alone(seen: tuple) -> None:  # type: ignore[type-arg]
    experts, stats, _ = seen
    expected = []
    for number in range(EXPERTS):
        weights = (
            torch.cat([experts.gate_up_proj[number].flatten(), experts.down_proj[number].flatten()]).detach().double()
        )
        expected.append(-float(weights.abs().mean() / weights.square().mean().sqrt()))
    assert score("aimer", experts, stats) == pytest.approx(expected, rel=1e-9)
    even = torch.nn.Module()
    even.register_parameter("any", torch.nn.Parameter(torch.tensor([[[1.0, -1.0]], [[0.0, 3.0]]])))
    assert score("aimer", even, RoutingStats.of(2)) == pytest.approx([-1.0, -math.sqrt(0.5)])  # equal weights go first


def test_lots_depend_on_the_seed(seen: tuple) -> None:  # type: ignore[type-arg]
    experts, stats, _ = seen
    assert (
        score("random", experts, stats, 1) == score("random", experts, stats, 1) != score("random", experts, stats, 2)
    )


def test_an_expert_that_saw_nothing_is_worth_nothing() -> None:
    stats = RoutingStats.of(3)
    assert score("reap", torch.nn.Module(), stats) == score("man", torch.nn.Module(), stats) == [0.0] * 3


def test_the_best_stay_in_their_order() -> None:
    score_E = torch.tensor([1.0, 9.0, 2.0, 9.0, 8.0, 0.0])
    assert best(score_E, 3, groups=1).tolist() == [1, 3, 4]
    assert best(score_E, 4, groups=2).tolist() == [1, 2, 3, 4]
    assert best(torch.zeros(4), 2, groups=1).tolist() == [0, 1]
