"""The options of ``slimgpt study``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from slimgpt.config.checks import Out, at_least
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class StudyConfig:
    """Run a grid of pruned models, each with its dense control, and make a table and a page of it. Resumable."""

    grid: Annotated[str, Positional, arg(metavar="RECIPE")]
    """YAML file that says models, grid, calibration, tuning and evaluation: see docs/study.md."""

    out: Out
    """Folder of the study. What is finished there is kept and not run again."""

    workers: int = 1
    """Cells at a time on this machine."""

    ray: bool = False
    """Run cells on a Ray cluster: that of RAY_ADDRESS, or one on this machine with --workers workers. All machines must
    see the same files."""

    retry: bool = False
    """Run cells again that failed before."""

    keep_models: bool = False
    """Keep every cell's model; by default what was measured is kept and the weights go."""

    yes: bool = False
    """Run a grid however large it is."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        at_least("workers", self.workers, 1)
        if not self.grid.endswith((".yaml", ".yml")):
            raise ConfigError(f"RECIPE {self.grid!r} must be a .yaml file: see recipes/study-small.yaml.")
