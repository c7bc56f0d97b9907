"""The options of ``slimgpt prune --experts``: whole experts of a mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from slimgpt.config.checks import at_least
from slimgpt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExpertOptions:
    """How many experts go, and by which score."""

    experts: float | None = None
    """In place of --ratio, for mixtures of experts: the fraction of the routed experts that goes, equally many in
    every layer, so that the result is a stock model. Heads and channels stay: prune the result again for those."""

    expert_score: Literal["exact", "reap", "man", "frequency", "aimer", "random"] = "exact"
    """With --experts, what an expert is worth. exact: experts go one by one, each time the one whose absence changes
    the layer's output least, its tokens sent to the others. reap: gate times norm of its output, over the tokens that
    it serves. man: the norm alone. frequency: how many tokens it serves. aimer: by its weights. random: lots."""

    experts_multiple_of: int = 1
    """With --experts: round the number of experts that stay to a multiple of this, for kernels and expert
    parallelism."""

    expert_repair: bool | None = None
    """With --experts: refit the last projections of the experts that stay by least squares on the tokens that they
    now serve, as far as tokens that the fit has not seen confirm it. Default: wherever their form allows it."""

    def check_experts(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        at_least("experts-multiple-of", self.experts_multiple_of, 1)
        if self.experts is None:
            for flag, other in (
                ("--expert-score", self.expert_score != "exact"),
                ("--experts-multiple-of", self.experts_multiple_of != 1),
                ("--expert-repair", self.expert_repair is not None),
            ):
                if other:
                    raise ConfigError(f"{flag} goes with --experts: add that, or drop it.")
        elif not (math.isfinite(self.experts) and 0 < self.experts < 1):
            raise ConfigError(f"--experts {self.experts} is outside (0, 1): it is the share of routed experts that go.")
