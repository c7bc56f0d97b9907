"""Slow, obvious float64 twins of the kernels: what they compute, written so that it can be believed by reading.

Everything re-inverts, loops over single columns, and works on the inputs X themselves where that is possible.

Shapes: O outputs · I inputs (= N·K) · T tokens · N units · K columns per unit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def damped(hessian_II: Tensor, damping: float) -> Tensor:
    diagonal_I = hessian_II.double().diagonal()
    result = hessian_II.double() + damping * diagonal_I.mean() * torch.eye(len(hessian_II), dtype=torch.float64)
    for j in range(len(result)):
        if diagonal_I[j] == 0:
            result[j, j] = 1.0
    return result


def without_dead_inputs(weight_OI: Tensor, hessian_II: Tensor) -> Tensor:
    result = weight_OI.double().clone()
    result[:, hessian_II.diagonal() == 0] = 0.0
    return result


def best_weights(weight_OI: Tensor, damped_II: Tensor, kept: list[int]) -> Tensor:
    """argmin over W' of tr(E H̃ Eᵀ) by the normal equations, E = W minus W' on the kept columns."""
    return torch.linalg.solve(damped_II[kept][:, kept], damped_II[kept] @ weight_OI.T).T


def loss(weight_OI: Tensor, damped_II: Tensor, kept: list[int]) -> float:
    """What is lost at best when only the kept columns stay."""
    lost_OI = weight_OI.clone()
    lost_OI[:, kept] -= best_weights(weight_OI, damped_II, kept)
    return float((lost_OI @ damped_II * lost_OI).sum())


def columns(units: list[int], width: int) -> list[int]:
    return [unit * width + k for unit in units for k in range(width)]


def greedy(
    weight_OI: Tensor, hessian_II: Tensor, width: int, num_steps: int, damping: float, blocks: int = 1
) -> tuple[list[int], Tensor]:
    """Try every unit, solve the least-squares problem without it, let the cheapest go; the curve of the losses.

    Of several blocks only those are tried that have lost no more than another.
    """
    damped_II, weight_OI = damped(hessian_II, damping), without_dead_inputs(weight_OI, hessian_II)
    left = list(range(len(hessian_II) // width))
    size = len(left) // blocks
    order, losses = [], [0.0]
    for _ in range(num_steps):
        gone = [sum(u // size == block for u in order) for block in range(blocks)]
        turn = [u for u in left if gone[u // size] == min(gone)]
        trial = {u: loss(weight_OI, damped_II, columns([v for v in left if v != u], width)) for u in turn}
        order.append(min(turn, key=lambda u: trial[u]))
        losses.append(trial[order[-1]])
        left.remove(order[-1])
    total = (weight_OI @ hessian_II.double() * weight_OI).sum()
    return order, torch.tensor(losses, dtype=torch.float64) / total


def reinverting(
    weight_OI: Tensor, hessian_II: Tensor, width: int, num_steps: int, damping: float
) -> tuple[list[int], Tensor]:
    """The same greedy choice by Optimal Brain Surgeon, inverting anew at every step; quicker than trying all."""
    damped_II, weight_OI = damped(hessian_II, damping), without_dead_inputs(weight_OI, hessian_II)
    total = (weight_OI @ hessian_II.double() * weight_OI).sum()
    left, order, losses = list(range(len(hessian_II) // width)), [], [0.0]
    for _ in range(num_steps):
        here = columns(left, width)
        inverse_II = torch.linalg.inv(damped_II[here][:, here])
        costs, repairs = [], []
        for place in range(len(left)):
            s = slice(place * width, (place + 1) * width)
            scale_OK = torch.linalg.solve(inverse_II[s, s], weight_OI[:, here][:, s].T).T
            repairs.append(scale_OK @ inverse_II[s])
            costs.append(float((scale_OK * weight_OI[:, here][:, s]).sum()))
        best = min(range(len(left)), key=lambda place: costs[place])
        losses.append(losses[-1] + costs[best])
        weight_OI[:, here] -= repairs[best]
        order.append(left.pop(best))
    return order, torch.tensor(losses, dtype=torch.float64) / total


def surgeon(weight_OI: Tensor, damped_II: Tensor, left: list[int], column: int) -> tuple[Tensor, float]:
    """One step of Optimal Brain Surgeon among the columns left: the compensated weight, and the step's cost."""
    inverse_II = torch.linalg.inv(damped_II[left][:, left])
    p = left.index(column)
    scale_O = weight_OI[:, column] / inverse_II[p, p]
    result = weight_OI.clone()
    result[:, left] -= torch.outer(scale_O, inverse_II[p])
    return result, float(scale_O @ weight_OI[:, column])


def paper_scores(weight_OI: Tensor, damped_II: Tensor, left: list[int], width: int, grouped: bool) -> dict[int, float]:
    """Σ_j ‖W[:,j]‖² / L_jj² of each unit, L the Cholesky factor of its block of the inverse (or of its diagonal)."""
    inverse_II = torch.linalg.inv(damped_II[columns(left, width)][:, columns(left, width)])
    scores = {}
    for place, unit in enumerate(left):
        block = inverse_II[columns([place], width)][:, columns([place], width)]
        pivots = torch.linalg.cholesky(block).diagonal().square() if grouped else block.diagonal()
        scores[unit] = float((weight_OI[:, columns([unit], width)].square().sum(0) / pivots).sum())
    return scores


def paper(
    weight_OI: Tensor, hessian_II: Tensor, width: int, sizes: list[int], damping: float, grouped: bool = True
) -> tuple[list[int], Tensor, Tensor]:
    """The paper's rounds, literally, one column after the other: order, curve, and the weight with gone columns 0."""
    damped_II, weight_OI = damped(hessian_II, damping), without_dead_inputs(weight_OI, hessian_II)
    total = (weight_OI @ hessian_II.double() * weight_OI).sum()
    left, order, losses = list(range(len(hessian_II) // width)), [], [0.0]
    for size in sizes:
        scores = paper_scores(weight_OI, damped_II, left, width, grouped)
        leaving = sorted(left, key=lambda u: scores[u])[:size]
        here = columns(left, width)
        for unit in leaving:
            losses.append(losses[-1])
            for column in columns([unit], width):
                weight_OI, cost = surgeon(weight_OI, damped_II, here, column)
                here.remove(column)
                losses[-1] += cost
        order += leaving
        left = [unit for unit in left if unit not in leaving]
    return order, torch.tensor(losses, dtype=torch.float64) / total, weight_OI


def coarse_kl(teacher_V: Tensor, student_V: Tensor, kept: list[int], temperature: float) -> float:
    """τ² KL of two logits at one position over the kept tokens and, as one more outcome, all others together."""
    p_V = torch.softmax(teacher_V.double() / temperature, 0)
    q_V = torch.softmax(student_V.double() / temperature, 0)
    others = [token for token in range(len(p_V)) if token not in kept]
    outcomes = [[token] for token in kept] + ([others] if others else [])
    p, q = ([float(of_V[tokens].sum()) for tokens in outcomes] for of_V in (p_V, q_V))
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def lowest_in(scores: list[float], num: int) -> set[int]:
    """Places of the ``num`` lowest; of equal ones the first."""
    return set(sorted(range(len(scores)), key=lambda place: scores[place])[:num])


def masked(weight_OI: Tensor, score_OI: Tensor, sparsity: float, group: int, by_row: bool) -> Tensor:
    """The weight with zeros at the lowest scores: of each group, row, or the whole matrix; zeros go first."""
    num_outputs, num_inputs = weight_OI.shape
    whole = [(i, j) for i in range(num_outputs) for j in range(num_inputs)]
    rows = [whole[i * num_inputs : (i + 1) * num_inputs] for i in range(num_outputs)]
    groups = [row[j : j + group] for row in rows for j in range(0, num_inputs, group)] if group else []
    result = weight_OI.clone()
    for places in groups or (rows if by_row else [whole]):
        scores = [-1.0 if weight_OI[place] == 0 else float(score_OI[place]) for place in places]
        for gone in lowest_in(scores, math.floor(sparsity * len(places) + 0.5)):
            result[places[gone]] = 0.0
    return result


def sparsegpt(
    weight_OI: Tensor, hessian_II: Tensor, sparsity: float, group: int, damping: float, block: int = 128
) -> Tensor:
    """Input after input, inverting anew the Hessian of those left; every weight that goes is repaired alone."""
    damped_II, weight_OI = damped(hessian_II, damping), weight_OI.double().clone()
    num_outputs, num_inputs = weight_OI.shape
    before_OI, dead_I = weight_OI == 0, hessian_II.diagonal() == 0
    inverses = [torch.linalg.inv(damped_II[j:, j:]) for j in range(num_inputs)]
    width = group or block
    gone: set[tuple[int, int]] = set()
    for j in range(num_inputs):
        if j % width == 0:
            here = range(j, min(j + width, num_inputs))
            cost = {
                (i, k): -1.0
                if before_OI[i, k]
                else 0.0
                if dead_I[k]
                else float(weight_OI[i, k] ** 2 / inverses[k][0, 0])
                for i in range(num_outputs)
                for k in here
            }
            if group:
                for i in range(num_outputs):
                    num = math.floor(sparsity * group + 0.5)
                    gone |= {(i, j + place) for place in lowest_in([cost[i, k] for k in here], num)}
            else:
                last, first = (math.floor(sparsity * num_outputs * end + 0.5) for end in (here.stop, j))
                places = list(cost)
                gone |= {places[place] for place in lowest_in(list(cost.values()), last - first)}
        for i in range(num_outputs):
            if (i, j) in gone or before_OI[i, j]:
                weight_OI[i, j:] -= weight_OI[i, j].clone() / inverses[j][0, 0] * inverses[j][0]
                weight_OI[i, j] = 0.0
    return weight_OI


def movement(start, gradients, sparsities, rate):
    """Movement pruning weight by weight, with plain descent: the masked weight in the end, and how many came back."""
    value = start.double().flatten().tolist()
    score, masked, came_back = [0.0] * len(value), [False] * len(value), 0
    for gradient, sparsity in zip(gradients.double().flatten(1).tolist(), sparsities, strict=True):
        for i, slope in enumerate(gradient):
            score[i] -= value[i] * slope
            if not masked[i]:
                value[i] -= rate * slope
        lowest = sorted(range(len(value)), key=score.__getitem__)[: math.floor(sparsity * len(value) + 0.5)]
        now = [i in set(lowest) for i in range(len(value))]
        came_back += sum(before and not after for before, after in zip(masked, now, strict=True))
        masked = now
    result = [0.0 if gone else v for v, gone in zip(value, masked, strict=True)]
    return torch.tensor(result, dtype=torch.float64).view_as(start), came_back
