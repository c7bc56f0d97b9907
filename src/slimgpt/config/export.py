"""The options of ``slimgpt export``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from slimgpt.config.checks import Model
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class ExportConfig:
    """Write a model, dense or pruned, as a file or folder that another tool loads."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    out: Annotated[str | None, Positional, arg(metavar="OUT")] = None
    """The .gguf file, or the folder, to make; it appears only when it is complete. Not for uniform-check."""

    format: Literal["gguf", "padded", "uniform-check", "onnx"] = "gguf"
    """gguf: for llama.cpp. padded: a stock class, every layer zero-padded to the widest. onnx: for uniform models.
    uniform-check: write nothing, say whether all layers have one size and what loads them."""

    outtype: Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"] = "f16"
    """Type of the matrices in a GGUF file."""

    verify: bool = False
    """Load the result with the tool it is for and compare logits with MODEL; keep it only if they agree."""

    force: bool = False
    """Replace OUT if it exists."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if self.format == "uniform-check":
            return
        if self.out is None:
            raise ConfigError(f"--format {self.format} needs OUT: slimgpt export MODEL OUT --format {self.format}.")
        if self.format == "gguf" and not self.out.endswith(".gguf"):
            raise ConfigError(f"OUT {self.out!r} must end in .gguf, by which tools know the format.")
