"""The options of ``slimgpt prune``."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from slimgpt.config.calibration import CalibrationOptions
from slimgpt.config.checks import Model, Out, at_least, check_seed
from slimgpt.config.experts import ExpertOptions
from slimgpt.config.target import TargetOptions
from slimgpt.errors import ConfigError

DEFAULT_ALLOCATIONS = {"obs": "searched", "flap": "flap"}
"""By solver; the others take the paper's curve. Why: benchmarks/results/ablation.md."""

WITH_EXPERTS = {"model", "out", "recipe", "families", "batch_size", "device", "dtype", "seed", "force"} | {
    field.name for options in (CalibrationOptions, ExpertOptions) for field in fields(options)
}
"""Options that mean something where whole experts go."""


@dataclass(frozen=True)
class PruneConfig(CalibrationOptions, TargetOptions, ExpertOptions):
    """Remove a fraction of a model's parameters: whole attention heads and FFN channels, survivors repaired; or whole
    experts of a mixture."""

    model: Model
    """Local Hugging Face folder, hub id, or .gguf file."""

    out: Out
    """Folder of the smaller model; it appears only when it is complete."""

    recipe: str | None = None
    """YAML file with any of these options; flags win over it."""

    effort: Literal["low", "medium", "high"] = "medium"
    """How much work goes into quality. low: the paper's curve, no search. medium: the search. high: in steps of a
    quarter of MODEL at most, each searched with 24 candidates, query heads among what may go, and trained by
    distillation from MODEL on the calibration text. What other options say comes before it."""

    families: Literal["proved", "known"] = "proved"
    """proved: any model of transformers; where no tested family describes it, its units are found, and proved on its
    weights before anything goes. known: tested families alone (slimgpt families)."""

    solver: Literal["obs", "slimgpt", "flap", "wanda", "magnitude", "random"] = "obs"
    """obs: exact greedy Optimal Brain Surgeon. slimgpt: the paper's. flap: by fluctuation, a bias for what goes, where
    the family can carry one. The others are baselines."""

    allocation: str | None = None
    """How ratios vary over layers: searched (measured on the model: a pass forward and back finds where the loss feels
    it least; the default of solver obs), log (the paper's, the default of the other solvers), flap (one ranking of the
    units of all layers, the default of solver flap), linear, uniform, log-down, linear-down, or a YAML/JSON file with
    one ratio per layer (scaled to meet --ratio), or with two such lists, 'attention' and 'ffn'."""

    search_cache: str | None = None
    """Folder that keeps what the search measured: other ratios then need no new search (see slimgpt search)."""

    search_candidates: int = 0
    """Allocations that the search tries out on calibration text it has not read: up to 24 that weigh attention and the
    first and last layers anew, then exchanges between two places. What brings the predictions nearer to the dense
    model's is kept. A candidate costs a forward pass, and the layers stay in memory. 0: none."""

    layout: Literal["per-layer", "uniform"] = "per-layer"
    """per-layer: every layer has its own sizes (best quality). uniform: one size, loads as a stock class."""

    round_to: int = 8
    """FFN widths are multiples of this; 64 or 128 suit tensor cores and quantised kernels."""

    damping: float = 0.01
    """Added to the Hessian's diagonal, as a fraction of its mean."""

    repair: bool | None = None
    """Refit the surviving weights by least squares. Default: the solver's habit (baselines do not)."""

    correct_errors: bool = False
    """Fit the survivors to the dense model's outputs, not only to their own inputs' (earlier layers' errors are made up
    for), as far as held-out windows confirm it. A third more time."""

    grouped_cholesky: bool = True
    """Solver slimgpt: score heads by the grouped Cholesky decomposition (off: the paper's ablation)."""

    group_size: int = 0
    """Solver slimgpt: channels removed per round; 0 is the dynamic 1024 to 8 (else: the paper's ablation)."""

    batch_size: int = 0
    """Windows in one forward pass; 0 chooses."""

    offload_dir: str | None = None
    """Keep the activations of the calibration tokens in files here; by default they stay in memory while they fit."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Dtype of the written weights; auto keeps the checkpoint's (float32 for a quantised GGUF file)."""

    seed: int = 0
    """Seed of the calibration windows and of the random solver."""

    report: bool = False
    """At the end make OUT/report.html, a page of what was removed and where."""

    resume: bool = False
    """Continue an interrupted run of the same command from its last finished layer."""

    force: bool = False
    """Replace OUT if it exists, and start anew if an unfinished run is there."""

    @property
    def repairs(self) -> bool:
        """Survivors are refitted, by the solver's habit too."""
        return self.solver in ("obs", "slimgpt") if self.repair is None else self.repair

    @property
    def chosen_allocation(self) -> str:
        """The allocation asked for, by default too."""
        if self.allocation is not None:
            return self.allocation
        if self.layout == "uniform":
            return "uniform"
        usual = DEFAULT_ALLOCATIONS.get(self.solver, "log")
        return "log" if self.effort == "low" and usual == "searched" else usual

    @property
    def searches(self) -> bool:
        """A search says what every layer keeps."""
        return self.chosen_allocation == "searched" and self.asked_ratio != 0

    @property
    def ranks(self) -> bool:
        """A ranking of all units says what every layer keeps."""
        return self.chosen_allocation == "flap" and self.asked_ratio != 0

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        self.check_experts()
        if self.experts is not None:
            self._check_experts_alone()
        self.check_target()
        if self.effort == "high" and self.asked_ratio == 0:
            raise ConfigError(
                "--effort high makes up for what goes, and --ratio 0 removes nothing: drop one of the two."
            )
        self.check_calibration()
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise ConfigError(f"--damping {self.damping} must be 0 or more; 0.01 is usual.")
        at_least("round-to", self.round_to, 1)
        at_least("group-size", self.group_size, 0)
        at_least("batch-size", self.batch_size, 0)
        check_seed(self.seed)
        if self.solver == "flap" and self.by_queries:
            raise ConfigError("--solver flap removes whole KV groups: drop --attention-units queries.")
        at_least("search-candidates", self.search_candidates, 0)
        for flag, given in (("--search-cache", self.search_cache), ("--search-candidates", self.search_candidates)):
            if given and self.chosen_allocation != "searched":
                raise ConfigError(f"{flag} goes with --allocation searched: add that, or drop it.")
        if self.whole_blocks and self.chosen_allocation != "searched":
            raise ConfigError("--blocks goes with --allocation searched: add that, or drop it.")
        if self.layout == "uniform" and self.allocation not in (None, "uniform"):
            raise ConfigError(
                f"--layout uniform gives all layers one size, which contradicts --allocation {self.allocation}: "
                "drop one of the two."
            )

    def _check_experts_alone(self) -> None:
        """Raise ConfigError where more than experts is to go, or is said of it."""
        others = [one.name for one in fields(self) if one.name not in WITH_EXPERTS]
        given = next((name for name in others if getattr(self, name) != getattr(PruneConfig, name)), None)
        if given is not None:
            raise ConfigError(
                f"--experts goes without --{given.replace('_', '-')}: heads and channels stay where whole experts go. "
                "Drop one of the two, and prune the result again for the other."
            )
        if self.calibration == "self":
            raise ConfigError("--calibration self loads the whole model, and --experts never does: give a text.")
