"""The options of ``slimgpt sparsify``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from slimgpt.config.calibration import CalibrationOptions
from slimgpt.config.checks import Model, Out, at_least, check_seed
from slimgpt.errors import ConfigError

MAX_SPARSITY = 0.99
USUAL_SPARSITY = 0.5
UNSTRUCTURED = "unstructured"


@dataclass(frozen=True)
class SparsifyConfig(CalibrationOptions):
    """Set single weights of the decoder layers to zero; shapes, file size and speed of plain tools stay as they are."""

    model: Model
    """Local Hugging Face folder, hub id, or .gguf file."""

    out: Out
    """Folder of the sparse model; it appears only when it is complete."""

    method: Literal["magnitude", "wanda", "sparsegpt", "random"] = "sparsegpt"
    """sparsegpt: Optimal Brain Surgeon on single weights, survivors repaired. wanda: weight times norm of its input.
    magnitude and random look at no text."""

    sparsity: float | None = None
    """Zeros' share of the decoder layers' projections, in [0, 0.99]. Default: 0.5, or what --pattern says."""

    pattern: str = UNSTRUCTURED
    """unstructured, or N:M (2:4, 4:8): of every M consecutive inputs N keep their weight."""

    scope: Literal["layer", "global"] = "layer"
    """magnitude only. layer: every projection is as sparse as its layer's ratio says. global: one threshold for all."""

    layer_ratios: Literal["uniform", "log", "owl"] = "uniform"
    """How sparsity varies over layers: uniform, log (rises with depth, as in SlimGPT), or owl (layers with more
    outliers stay denser; measured on the calibration text)."""

    schedule: Literal["one-shot", "iterative", "gradual"] = "one-shot"
    """iterative: the sparsity is reached in equal steps, with new statistics in each. gradual: in steps that grow
    smaller (cubic)."""

    rounds: int = 1
    """Steps of the schedule; 1 is for one-shot alone."""

    damping: float = 0.01
    """sparsegpt: added to the Hessian's diagonal, as a fraction of its mean."""

    batch_size: int = 0
    """Windows in one forward pass; 0 chooses."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Dtype of the written weights; auto keeps the checkpoint's (float32 for a quantised GGUF file)."""

    seed: int = 0
    """Seed of the calibration windows and of random masks."""

    force: bool = False
    """Replace OUT if it exists."""

    @property
    def kept_of_group(self) -> tuple[int, int] | None:
        """N and M of the pattern; None without one.

        Raises:
            ConfigError: the pattern is no pattern.
        """
        if self.pattern == UNSTRUCTURED:
            return None
        found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", self.pattern)
        if found is None or not 0 < int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"--pattern {self.pattern!r} is neither {UNSTRUCTURED} nor N:M with 0 < N <= M: 2:4 keeps two of every "
                "four weights."
            )
        return int(found[1]), int(found[2])

    @property
    def target(self) -> float:
        """The zeros' share: as asked, as the pattern says, or the usual one."""
        if self.kept_of_group is not None:
            kept, group = self.kept_of_group
            return 1 - kept / group
        return USUAL_SPARSITY if self.sparsity is None else self.sparsity

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if self.sparsity is not None and not (math.isfinite(self.sparsity) and 0 <= self.sparsity <= MAX_SPARSITY):
            raise ConfigError(
                f"--sparsity {self.sparsity} is outside [0, {MAX_SPARSITY}]: it is the zeros' share of the decoder "
                "layers' projections."
            )
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise ConfigError(f"--damping {self.damping} must be 0 or more; 0.01 is usual.")
        self.check_calibration()
        at_least("batch-size", self.batch_size, 0)
        at_least("rounds", self.rounds, 1)
        check_seed(self.seed)
        self._check_pattern()
        self._check_together()

    def _check_pattern(self) -> None:
        """A pattern fixes the sparsity of every layer."""
        if self.kept_of_group is None:
            return
        if self.sparsity is not None and abs(self.sparsity - self.target) > 1e-6:
            raise ConfigError(
                f"--sparsity {self.sparsity} contradicts --pattern {self.pattern}, which makes it {self.target:g}: "
                "drop one of the two."
            )
        if self.layer_ratios != "uniform":
            raise ConfigError(
                f"--layer-ratios {self.layer_ratios} contradicts --pattern {self.pattern}, which makes all layers "
                "equally sparse: drop one of the two."
            )

    def _check_together(self) -> None:
        """Options that mean nothing without another one."""
        if self.scope == "global":
            if self.method != "magnitude":
                raise ConfigError(
                    f"--scope global is for --method magnitude: scores of {self.method} are not comparable between "
                    "layers. Use --layer-ratios owl to vary the sparsity of layers."
                )
            if self.kept_of_group is not None or self.layer_ratios != "uniform":
                raise ConfigError(
                    "--scope global leaves one threshold to say how sparse each layer is, which contradicts --pattern "
                    "and --layer-ratios: drop one of the two."
                )
        if (self.schedule == "one-shot") != (self.rounds == 1):
            raise ConfigError(
                f"--schedule {self.schedule} and --rounds {self.rounds} contradict each other: one-shot is one round, "
                "iterative and gradual are 2 or more."
            )
