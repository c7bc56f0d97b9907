"""The options of ``slimgpt bench``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from slimgpt.config.checks import at_least, check_seed
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class BenchConfig:
    """Measure models: size, peak memory, FLOPs and speed, the models taking turns so that their ratios hold."""

    models: Annotated[tuple[str, ...], Positional, arg(metavar="MODEL...")]
    """Local folders (dense or pruned), hub ids, or .gguf files; speeds are compared with the first."""

    prompt_tokens: int = 128
    """Tokens of each prompt, which are read in one pass."""

    new_tokens: int = 32
    """Tokens generated after each prompt, one by one."""

    batch_size: int = 1
    """Prompts at a time."""

    repeats: int = 7
    """Measurements of each model; the median and the quartiles are given."""

    warmup: int = 1
    """Unmeasured repeats before them."""

    quantise: Literal["int8", "int4"] | None = None
    """Round the linear layers of all models but the first to 8 or 4 bits, by torchao."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    seed: int = 0
    """Seed of the random prompt."""

    server: Literal["vllm"] | None = None
    """Measure what this server serves over HTTP, in place of a model by itself. Every MODEL has a server of its own;
    all run at once, and one is asked at a time."""

    clients: tuple[int, ...] = (1, 8)
    """With --server: requests at a time, in place of --batch-size; each number is measured."""

    server_command: str = "vllm"
    """With --server: its command, of any environment: a name on PATH, or a path."""

    server_options: str = ""
    """With --server: options for every server, such as --server-options='--dtype float32 --enforce-eager'."""

    record: bool = False
    """Keep the result with every pruned MODEL, as measured/bench.json, where slimgpt report finds it."""

    json: str | None = None
    """Also write the result to this file."""

    @property
    def repeats_of_each(self) -> int:
        """How often each model is measured, unmeasured repeats included."""
        return (self.warmup + self.repeats) * (1 if self.server is None else len(self.clients))

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if not self.models:
            raise ConfigError("no MODEL is named: slimgpt bench DENSE PRUNED compares the second with the first.")
        at_least("prompt-tokens", self.prompt_tokens, 1)
        at_least("new-tokens", self.new_tokens, 2)  # the first comes from the prompt's pass, the others are timed
        at_least("batch-size", self.batch_size, 1)
        at_least("repeats", self.repeats, 1)
        at_least("warmup", self.warmup, 0)
        check_seed(self.seed)
        for clients in self.clients:
            at_least("clients", clients, 1)
        if self.server is not None:
            self._check_server()
        if self.quantise is not None and len(self.models) < 2:
            raise ConfigError(
                f"--quantise {self.quantise} leaves the first MODEL as it is, to compare with: name it and another."
            )
        if self.record and self.quantise is not None:
            raise ConfigError(
                f"--record keeps figures of models as they are stored, and --quantise {self.quantise} changes them: "
                "drop one of the two."
            )

    def _check_server(self) -> None:
        """Raise ConfigError on what a server has no use for."""
        if not self.clients:
            raise ConfigError(f"--server {self.server} needs --clients: one number or more of requests at a time.")
        ours = {"--batch-size": self.batch_size != 1, "--device": self.device != "auto", "--record": self.record}
        for option, given in {**ours, "--quantise": self.quantise is not None}.items():
            if given:
                raise ConfigError(
                    f"{option} does not go with --server {self.server}, which serves models as they are stored: "
                    "see --clients, --server-options and --json."
                )
