"""The options of ``slimgpt drop``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from slimgpt.config.calibration import CalibrationOptions
from slimgpt.config.checks import Model, Out, at_least, check_seed
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class DropConfig(CalibrationOptions):
    """Take whole decoder layers out of a model: those that change the residual stream least. Nothing is repaired."""

    model: Model
    """Local Hugging Face folder, hub id, or .gguf file."""

    out: Out
    """Folder of the shallower model; it appears only when it is complete."""

    layers: int | None = None
    """How many decoder layers go."""

    ratio: float | None = None
    """The same as a share of the decoder layers, rounded to whole ones."""

    method: Literal["angular", "block-influence"] = "angular"
    """angular: the run of consecutive layers whose output has the least angle to its input. block-influence: the layers
    that turn their input least, one by one, wherever they are."""

    batch_size: int = 0
    """Windows in one forward pass; 0 chooses."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Dtype of the written weights; auto keeps the checkpoint's (float32 for a quantised GGUF file)."""

    seed: int = 0
    """Seed of the calibration windows."""

    force: bool = False
    """Replace OUT if it exists."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if (self.layers is None) == (self.ratio is None):
            raise ConfigError("say how many layers go: --layers N, or --ratio R, and not both.")
        if self.layers is not None:
            at_least("layers", self.layers, 1)
        if self.ratio is not None and not (math.isfinite(self.ratio) and 0 < self.ratio < 1):
            raise ConfigError(f"--ratio {self.ratio} is outside (0, 1): it is the share of decoder layers that go.")
        self.check_calibration()
        at_least("batch-size", self.batch_size, 0)
        check_seed(self.seed)
