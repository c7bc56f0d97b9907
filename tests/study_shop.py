"""Studies whose commands run in no time: losses that are known by construction, in files like those of slimgpt."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from slimgpt.config import StudyConfig
from slimgpt.studies import study

WINDOWS, TOKENS = 40, 127
PARAMETERS = 1_000_000
RECIPE: dict[str, Any] = {
    "models": [{"name": "tiny", "path": "a-model", "text": "held-out.txt", "seen_text": "seen.txt"}],
    "grid": [{"methods": ["wanda", "magnitude"], "granularities": ["structured"], "ratios": [0.2], "seeds": [0, 1]}],
    "calibration": {"samples": 4, "seqlen": 32},
    "tuning": {"full": {"full": True, "max_steps": 3}},
    "evaluation": {"max_tokens": 4096},
}


def write_recipe(folder: Path, **sections: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **sections}), encoding="utf-8")
    return path


def study_config(folder: Path, sections: Mapping[str, Any] | None = None, **options: Any) -> StudyConfig:
    return StudyConfig(str(write_recipe(folder, **(sections or {}))), str(folder / "out"), **options)


def main(arguments: Sequence[str]) -> int:
    """A study of pretended commands as a command line: RECIPE OUT."""
    study(StudyConfig(*arguments), command=Pretended())
    return 0


class Pretended:
    """Answers commands with the files that they would write.

    Args:
        nll: nats per token that a chain of commands ends with, from all its arguments.
        refuse: substring of the arguments of commands that fail.
    """

    def __init__(self, nll: Callable[[str], float] = lambda words: 3.0, refuse: str | None = None) -> None:
        self.nll, self.refuse = nll, refuse
        self.calls: list[list[str]] = []

    def __call__(self, arguments: Sequence[str], log: Path) -> int:
        self.calls.append(list(arguments))
        words = " ".join(arguments)
        if self.refuse is not None and self.refuse in words:
            log.write_text("reading the model\nslimgpt: error: there is no such luck: try again\n")
            return 2
        log.write_text("fine\n")
        self._write(list(arguments), words)
        return 0

    def _write(self, arguments: list[str], words: str) -> None:
        command = arguments[0]
        if command in ("prune", "sparsify", "drop", "recover"):
            out = Path(arguments[2])
            out.mkdir()
            (out / "model.safetensors").write_bytes(b"weights")
            before = out.parent / "pruned" / "slimgpt.json"
            history = json.loads(before.read_text())["history"] if before.is_file() else []
            recovery = [{"history": [{"step": 1, "loss": 2.5}]}] if command == "recover" else []
            said = words.replace(str(out.parent), "CELL")  # its name has the number of this process
            record = {"history": [*history, said], "recovery": recovery, "layers": [1, 2, 3]}
            (out / "slimgpt.json").write_text(json.dumps(record))
        if command == "eval":
            target = Path(arguments[arguments.index("--json") + 1])
            made = Path(arguments[1]) / "slimgpt.json"
            history = " ".join(json.loads(made.read_text())["history"]) if made.is_file() else "dense"
            target.write_text(json.dumps(evaluation(self.nll(f"{history} {words}"), pruned=made.is_file())))
        if command == "bench":
            Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps(bench()))


def evaluation(nll: float, pruned: bool = False, zeros: int = 0, noise: float = 0.02, seed: int = 7) -> dict[str, Any]:
    """An ``eval.json``: windows as hard as each other's twins in all models, plus a little of their own."""
    hard, own = random.Random(1), random.Random(zlib.crc32(f"{nll} {seed}".encode()))
    raw = [hard.gauss(0, 0.5) + own.gauss(0, noise) for _ in range(WINDOWS)]
    centre = sum(raw) / WINDOWS
    windows = [TOKENS * (nll + one - centre) for one in raw]
    name = "held-out@128"
    entry = {"perplexity,none": 2.718281828**nll, "nll_per_token,none": nll, "nll_per_token_stderr,none": 0.05}
    return {
        "kind": "eval",
        "parameters": PARAMETERS * 3 // 4 if pruned else PARAMETERS,
        "zeros": zeros,
        "quantisation": None,
        "results": {name: {**entry, "bits_per_byte,none": nll / 2}},
        "configs": {name: {"num_tokens": WINDOWS * TOKENS, "seqlen": 128}},
        "window_nll": {name: windows},
    }


def bench() -> dict[str, Any]:
    """A ``bench.json`` of the dense model and another."""

    def speed(median: float) -> dict[str, float]:
        return {"median": median, "low": median, "high": median}

    model = {
        "parameters": PARAMETERS,
        "bytes_on_disk": 4 * PARAMETERS,
        "peak_bytes": 1 << 28,
        "flops_per_token": 2 * PARAMETERS,
        "decode_tokens_per_s": speed(50.0),
        "ratios_to_first": {"prefill": speed(1.1), "decode": speed(1.2), "time_to_first_token": speed(0.9)},
    }
    return {"kind": "bench", "models": [model, model]}
