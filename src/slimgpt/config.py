"""Every option of every command, as frozen dataclasses: the command line, YAML recipes and the Python API share them.

``check()`` is called before any work and raises :class:`~slimgpt.errors.ConfigError`. Standard library only, but for
tyro's marker that says which fields are positional on the command line.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import Positional, arg

from slimgpt.errors import ConfigError

MAX_RATIO = 0.9

Model = Annotated[str, Positional, arg(metavar="MODEL")]


@dataclass(frozen=True)
class PruneConfig:
    """Remove a fraction of a model's parameters: whole attention heads and FFN channels, survivors repaired."""

    model: Model
    """Local Hugging Face folder, hub id, or .gguf file."""

    out: Annotated[str, Positional, arg(metavar="OUT")]
    """Folder of the smaller model; it appears only when it is complete."""

    ratio: float = 0.25
    """Removed fraction of all parameters, embeddings included, in [0, 0.9]."""

    recipe: str | None = None
    """YAML file with any of these options; flags win over it."""

    calibration: str = "c4"
    """Text file, JSONL or Parquet (field 'text'), a folder of those, a hub dataset, 'c4' (streamed from the hub), or
    'builtin' (English text that comes with Python, for offline use)."""

    samples: int = 128
    """Calibration windows."""

    seqlen: int = 2048
    """Tokens in a window."""

    solver: Literal["obs", "slimgpt", "wanda", "magnitude", "random"] = "obs"
    """obs: exact greedy Optimal Brain Surgeon. slimgpt: the paper's. The others are baselines."""

    allocation: str | None = None
    """How ratios vary over layers: log (the paper's, default), linear, uniform, log-down, linear-down, or a YAML/JSON
    file with one ratio per layer (scaled to meet --ratio), or with two such lists, 'attention' and 'ffn'."""

    layout: Literal["per-layer", "uniform"] = "per-layer"
    """per-layer: every layer has its own sizes (best quality). uniform: one size, loads as a stock class."""

    round_to: int = 8
    """FFN widths are multiples of this; 64 or 128 suit tensor cores and quantised kernels."""

    damping: float = 0.01
    """Added to the Hessian's diagonal, as a fraction of its mean."""

    repair: bool | None = None
    """Refit the surviving weights by least squares. Default: the solver's habit (baselines do not)."""

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

    resume: bool = False
    """Continue an interrupted run of the same command from its last finished layer."""

    force: bool = False
    """Replace OUT if it exists, and start anew if an unfinished run is there."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if not (math.isfinite(self.ratio) and 0 <= self.ratio <= MAX_RATIO):
            raise ConfigError(
                f"--ratio {self.ratio} is outside [0, {MAX_RATIO}]: it is the removed fraction of all parameters."
            )
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise ConfigError(f"--damping {self.damping} must be 0 or more; 0.01 is usual.")
        _at_least("samples", self.samples, 1)
        _at_least("seqlen", self.seqlen, 2)
        _at_least("round-to", self.round_to, 1)
        _at_least("group-size", self.group_size, 0)
        _at_least("batch-size", self.batch_size, 0)
        _check_seed(self.seed)
        if self.layout == "uniform" and self.allocation not in (None, "uniform"):
            raise ConfigError(
                f"--layout uniform gives all layers one size, which contradicts --allocation {self.allocation}: "
                "drop one of the two."
            )


@dataclass(frozen=True)
class EvalConfig:
    """Measure a model's perplexity on a text."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    text: str
    """UTF-8 text file."""

    seqlen: int = 2048
    """Tokens in a window; the literature uses 2048 and 128."""

    max_tokens: int | None = None
    """Stop after this many tokens; default: the whole text."""

    batch_size: int = 0
    """Windows in one forward pass; 0 chooses."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    json: str | None = None
    """Also write the result to this file."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        _at_least("seqlen", self.seqlen, 2)
        _at_least("batch-size", self.batch_size, 0)
        if self.max_tokens is not None:
            _at_least("max-tokens", self.max_tokens, self.seqlen)


@dataclass(frozen=True)
class InspectConfig:
    """Show a model's family, per-layer heads, KV heads and FFN widths, and parameters by part."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    json: str | None = None
    """Also write the result to this file."""

    def check(self) -> None:
        """Nothing here can be outside a rule."""


@dataclass(frozen=True)
class FamiliesConfig:
    """List the model families that can be pruned, and what goes in each."""

    def check(self) -> None:
        """There is nothing to check."""


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


@dataclass(frozen=True)
class GenerateConfig:
    """Continue a prompt, or answer it where the tokenizer has a chat template."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    prompt: Annotated[str, Positional, arg(metavar="PROMPT")]
    """What to say to the model."""

    max_new_tokens: int = 100
    """Length of the answer at most."""

    temperature: float = 0.0
    """0 takes the likeliest token each time."""

    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template."""

    seed: int = 0
    """Seed of the sampling."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        _at_least("max-new-tokens", self.max_new_tokens, 1)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"--temperature {self.temperature} must be 0 or more.")
        _check_seed(self.seed)
        if not self.prompt:
            raise ConfigError("the prompt is empty: give the model something to continue.")


def _check_seed(seed: int) -> None:
    _at_least("seed", seed, 0)
    if seed >= 2**63:
        raise ConfigError(f"--seed {seed} must be below 2**63.")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"--{name} {value} must be {least} or more.")


def options_from(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the keys of a recipe against PruneConfig and bring dashes to underscores.

    Raises:
        ConfigError: an unknown key (the nearest is offered), or a value of the wrong type.
    """
    fields = get_type_hints(PruneConfig)
    options: dict[str, Any] = {}
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in fields or name == "recipe":
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f". Known: {', '.join(sorted(fields))}."
            raise ConfigError(f"{where}: unknown option {key!r}{hint}")
        options[name] = _typed(name, value, fields[name], where)
    return options


def _typed(name: str, value: Any, hint: Any, where: str) -> Any:
    """A recipe's value, if it is of the field's type; integers serve as floats, booleans as nothing else."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where}: {name} is {value!r}, but must be one of {', '.join(get_args(hint))}.")
        return value
    kinds = get_args(hint) or (hint,)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"{where}: {name} is {value!r}, but must be {names}.")
    return float(value) if float in kinds else value
