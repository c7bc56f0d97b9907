"""How long a layer takes: exact greedy OBS, the paper's dynamic groups, and the loop that re-inverts.

    python benchmarks/solver.py                          # 1536 and 4864 inputs
    python benchmarks/solver.py --sizes 11008x4096 --repeats 1

Half the columns go. The inputs are correlated (ReLU features of a random mixture with a falling spectrum, more tokens
than inputs), the weights are Gaussian. The solvers take turns in one process, so that what else runs on the machine
hits all alike; figures are medians. The loop that re-inverts for every column would take hours: it is timed for one
step with all, three quarters and half of the columns, and integrated by Simpson's rule, which is exact for the cubic
that its cost is.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from slimgpt.sites import Removal, Solver, SolverOptions
from slimgpt.solvers import linalg
from slimgpt.solvers.elimination import eliminate_
from slimgpt.solvers.obs import obs
from slimgpt.solvers.slimgpt import slimgpt
from slimgpt.solvers.stats import InputStats

OPTIONS = SolverOptions(damping=0.01)


def problem(num_inputs: int, num_outputs: int) -> tuple[Tensor, Tensor]:
    """A Gaussian weight, and the Hessian of 5/4 as many tokens as inputs."""
    torch.manual_seed(0)
    stats, num_latents = InputStats(num_inputs), num_inputs // 4
    mixing = torch.logspace(0, -1.5, num_latents)[:, None] * torch.randn(num_latents, num_inputs)
    for _ in range(5):
        stats.update(torch.relu(torch.randn(num_inputs // 4, num_latents) @ mixing))
    return torch.randn(num_outputs, num_inputs), stats.hessian_II()


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def reinverting_step(weight_OI: Tensor, damped_II: Tensor) -> None:
    """One removal of the loop that inverts for every column: invert, choose, compensate."""
    inverse_II = linalg.inverse_(damped_II.clone(), OPTIONS.damping)
    best = int((weight_OI.square().sum(0) / inverse_II.diagonal()).argmin())
    weight_OI.addr_(weight_OI[:, best] / inverse_II[best, best], inverse_II[best], alpha=-1)


def reinverting_seconds(weight_OI: Tensor, hessian_II: Tensor, num_removed: int) -> float:
    """Simpson's rule over the sizes that the loop passes through."""
    damped_II, weight_OI = linalg.damped(hessian_II, OPTIONS.damping), weight_OI.double()
    size = len(damped_II)

    def step_seconds(columns: int) -> float:
        part = weight_OI[:, :columns].clone(), damped_II[:columns, :columns].contiguous()
        return seconds(lambda: reinverting_step(*part))

    full, middle, last = (step_seconds(m) for m in (size, size - num_removed // 2, size - num_removed))
    return num_removed * (full + 4 * middle + last) / 6


def compare(num_inputs: int, num_outputs: int, repeats: int) -> str:
    weight_OI, hessian_II = problem(num_inputs, num_outputs)
    removals: dict[str, Removal] = {}

    def solve(solver: Solver) -> None:
        removals[solver.__name__] = solver(weight_OI, hessian_II, num_inputs, num_inputs // 2, OPTIONS)

    rounds = [
        (
            seconds(lambda: solve(obs)),
            seconds(lambda: solve(slimgpt)),
            reinverting_seconds(weight_OI, hessian_II, num_inputs // 2),
        )
        for _ in range(repeats)
    ]
    exact, paper, naive = (median(column) for column in zip(*rounds, strict=True))
    paper_over_exact, naive_over_exact = (median(r[i] / r[0] for r in rounds) for i in (1, 2))
    return (
        f"| {num_inputs} | {num_outputs} | {exact:.2f} | {paper:.2f} | {naive:.0f} | {paper_over_exact:.2f} "
        f"| {naive_over_exact:.0f} | {removals['obs'].error:.5f} | {removals['slimgpt'].error:.5f} |"
    )


def sweep(num_inputs: int, num_outputs: int, repeats: int) -> str:
    """The elimination alone, half the columns, over the width of its panels."""
    weight_OI, hessian_II = problem(num_inputs, num_outputs)
    inverse_II = linalg.inverse_(linalg.damped(hessian_II, OPTIONS.damping), OPTIONS.damping)
    gram_II = linalg.gram(weight_OI, hessian_II)
    widths = (16, 32, 64, 96, 128, 192)
    times: dict[int, list[float]] = {width: [] for width in widths}
    for _ in range(repeats):
        for width in widths:
            copies = inverse_II.clone(), gram_II.clone()
            times[width].append(seconds(lambda: eliminate_(*copies, 1, num_inputs // 2, width)))  # noqa: B023
    cells = " | ".join(f"{median(times[width]):.2f}" for width in widths)
    return f"| {num_inputs} | {cells} |"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def size(text: str) -> tuple[int, int]:
    num_inputs, num_outputs = text.split("x")
    return int(num_inputs), int(num_outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=[(1536, 576), (4864, 896)], help="INPUTSxOUTPUTS")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sweep", action="store_true", help="time the panel widths of the elimination instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{date.today()}, {cpu_name()}, {args.threads} threads, torch {torch.__version__}, {args.repeats} repeats\n")
    if args.sweep:
        print("| inputs | 16 | 32 | 64 | 96 | 128 | 192 |\n|---|---|---|---|---|---|---|")
    else:
        print(
            "| inputs | outputs | exact greedy, s | paper, s | re-inverting, s (est.) | paper / exact "
            "| re-inverting / exact | error, exact | error, paper |\n|---|---|---|---|---|---|---|---|---|"
        )
    for num_inputs, num_outputs in args.sizes:
        print((sweep if args.sweep else compare)(num_inputs, num_outputs, args.repeats), flush=True)


if __name__ == "__main__":
    main()
