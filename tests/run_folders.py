"""Folders as slimgpt leaves them, written without any model: records and measurements that have everything."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DENSE_PARAMETERS = 134_515_008
NUM_LAYERS, NUM_UNITS, NUM_CHANNELS = 12, 9, 1536
VERSIONS = {"slimgpt": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"}
TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")


def record(ratio: float = 0.2, **changes: Any) -> dict[str, Any]:
    """A slimgpt.json, deeper layers cut harder."""
    choice = random.Random(round(1000 * ratio))
    sites = [
        entry
        for index in range(NUM_LAYERS)
        for entry in (
            _cut(choice, index, "attention", "KV group", NUM_UNITS, ratio * (0.4 + index / NUM_LAYERS)),
            _cut(choice, index, "ffn", "channel", NUM_CHANNELS, ratio * (0.6 + index / NUM_LAYERS)),
        )
    ]
    after = round(DENSE_PARAMETERS * (1 - ratio))
    return {
        "schema": 2,
        "source": "models/SmolLM2-135M-Instruct",
        "family": "llama",
        "options": {"model": "models/SmolLM2-135M-Instruct", "ratio": ratio, "solver": "obs", "allocation": "log"},
        "fingerprint": {},
        "versions": VERSIONS,
        "parameters": {
            "before": DENSE_PARAMETERS,
            "after": after,
            "removed_ratio": ratio,
            "bytes_after": 2 * after,
        },
        "sizes": [{}] * NUM_LAYERS,
        "sites": sites,
        "cost": {
            "seconds": {"prepare": 1.25, "attention solve": 3.5, "ffn solve": 21.0},
            "peak_host_bytes": 1_009_741_824,
            "peak_device_bytes": None,
            "device": "cpu (x86_64, 2 threads)",
        },
        **changes,
    }


def _cut(choice: random.Random, layer: int, name: str, unit: str, num_units: int, ratio: float) -> dict[str, Any]:
    kept = sorted(choice.sample(range(num_units), max(1, round(num_units * (1 - min(ratio, 0.9))))))
    return site(layer, name, num_units, kept, 0.3 * (1 - len(kept) / num_units), unit=unit)


def site(
    layer: int | None, name: str, num_units: int, kept: Sequence[int], error: float = 0.1, **more: Any
) -> dict[str, Any]:
    """What a record says of one site."""
    where = {"layer": layer, "site": name, "unit": "unit"}
    return {**where, "num_units": num_units, "kept": [*kept], "error": error, **more}


def old_form(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it was before schema 2: layer by layer, the sites by their names, and units without one."""
    layers = [{"layer": index, "config": sizes, "sites": {}} for index, sizes in enumerate(record["sizes"])]
    for entry in record["sites"]:
        told = {key: value for key, value in entry.items() if key not in ("layer", "site", "unit")}
        layers[entry["layer"]]["sites"][entry["site"]] = told
    rest = {key: value for key, value in record.items() if key not in ("sites", "sizes")}
    return {**rest, "schema": 1, "layers": layers}


def eval_json(parameters: int = DENSE_PARAMETERS, harm: float = 0.0, **changes: Any) -> dict[str, Any]:
    """An eval.json; ``harm`` is what pruning added to the nats per token."""
    texts = {}
    for name, nll in (("wiki.test@128", 3.9 + harm), ("wiki.test@2048", 3.2 + harm)):
        texts[name] = {
            "alias": name,
            "perplexity,none": math.exp(nll),
            "perplexity_stderr,none": 0.02 * math.exp(nll),
            "nll_per_token,none": nll,
            "nll_per_token_stderr,none": 0.02,
            "bits_per_byte,none": nll / 2.6,
            "bits_per_byte_stderr,none": 0.008,
        }
    tasks = {
        name: {
            "alias": name,
            "acc,none": 0.35 + 0.05 * index - 0.1 * harm,
            "acc_stderr,none": 0.02,
            "acc_norm,none": 0.36 + 0.05 * index - 0.1 * harm,
            "acc_norm_stderr,none": 0.02,
        }
        for index, name in enumerate(TASKS)
    }
    mean = sum(task["acc,none"] for task in tasks.values()) / len(tasks)  # type: ignore[misc]
    suite = {"slimgpt": {"alias": "slimgpt", "acc,none": mean, "acc_stderr,none": 0.0076}}
    return {
        "kind": "eval",
        "schema": 1,
        "model": "a model",
        "parameters": parameters,
        "tokenizer": "6d1c",
        "date": "2026-11-20T12:00:00+00:00",
        "versions": VERSIONS,
        "results": {**texts, **tasks, **suite},
        "configs": {name: {"stride": None, "bos": "never", "num_tokens": 4096, "num_windows": 4} for name in texts},
        "n-shot": dict.fromkeys(TASKS, 0),
        "n-samples": {name: {"original": 1000, "effective": 500} for name in TASKS},
        "higher_is_better": {name: {"acc": True} for name in TASKS},
        "config": {"limit": 500, "batch_size": 0, "dtype": "float32", "device": "cpu"},
        **changes,
    }


def bench_json(models: Mapping[str, tuple[int, float]], **changes: Any) -> dict[str, Any]:
    """A bench.json of models with their parameters and how often as fast as the first they are."""
    return {
        "kind": "bench",
        "schema": 1,
        "date": "2026-11-20T12:00:00+00:00",
        "versions": VERSIONS,
        "device": "cpu (x86_64, 2 threads)",
        "settings": {"prompt_tokens": 128, "new_tokens": 32, "batch_size": 1, "repeats": 7, "warmup": 1, "threads": 2},
        "models": [_timed(name, parameters, speed) for name, (parameters, speed) in models.items()],
        **changes,
    }


def _timed(name: str, parameters: int, speed: float) -> dict[str, Any]:
    return {
        "model": name,
        "parameters": parameters,
        "bytes_on_disk": 2 * parameters,
        "peak_bytes": 3 * parameters + 400_000_000,
        "flops_per_token": 2 * parameters,
        "prefill_tokens_per_s": _spread(500 * speed),
        "decode_tokens_per_s": _spread(14 * speed),
        "time_to_first_token_ms": _spread(256 / speed),
        "ratios_to_first": {
            "prefill": _spread(speed, 0.02),
            "decode": _spread(speed, 0.02),
            "time_to_first_token": _spread(1 / speed, 0.02),
        },
    }


def _spread(median: float, share: float = 0.05) -> dict[str, float]:
    return {"median": median, "low": median * (1 - share), "high": median * (1 + share)}


def compare_json(harm: float = 0.5, **changes: Any) -> dict[str, Any]:
    """A compare.json of a model that drifts away from the dense one with depth."""
    corruptions = (("none", 0.0), ("typos", 0.5), ("case", 0.2), ("shuffled-words", 0.9))
    return {
        "kind": "compare",
        "schema": 1,
        "model": "pruned",
        "against": "dense",
        "date": "2026-11-20T12:00:00+00:00",
        "versions": VERSIONS,
        "cka": [1 - 0.2 * harm * index / NUM_LAYERS for index in range(NUM_LAYERS)],
        "kl_nats_per_token": harm,
        "top1_agreement": 0.8 - 0.2 * harm,
        "robustness": [
            {"corruption": name, "model_bits_per_byte": 1.2 + 0.4 * harm + extra, "against_bits_per_byte": 1.2 + extra}
            for name, extra in corruptions
        ],
        "samples": [
            {
                "prompt": "The harbour was built in",
                "model": " 1891, and it was the first of its kind in the county.",
                "against": " 1891 by the Great Northern Railway, which needed a port on the east coast.",
            },
            {"prompt": "Water boils at", "model": " a temperature of 100", "against": " 100 degrees Celsius."},
        ],
        **changes,
    }


def recovery() -> dict[str, Any]:
    """What slimgpt recover adds to a record."""
    history = [{"step": step, "loss": 3 - step / 100, "eval_perplexity": 60 - step / 4} for step in range(0, 101, 20)]
    return {"method": "fine-tuning", "options": {"rank": 8, "learning_rate": 1e-4}, "seconds": 12.5, "history": history}


def save(folder: Path, **files: Mapping[str, Any] | None) -> Path:
    """Write ``slimgpt``, ``eval``, ``bench`` and ``compare`` where they belong; those that are None are left out."""
    (folder / "measured").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is not None:
            place = folder if name == "slimgpt" else folder / "measured"
            (place / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def save_dense(folder: Path, **changes: Any) -> Path:
    """The dense model's measurements, as users keep them."""
    folder.mkdir(parents=True)
    (folder / "eval.json").write_text(json.dumps(eval_json(**changes)), encoding="utf-8")
    return folder


def save_runs(place: Path, ratios: Sequence[float] = (0.2, 0.25, 0.5)) -> list[Path]:
    """Runs with all measurements, the last of them trained after pruning."""
    folders = []
    for index, ratio in enumerate(ratios):
        harm, name = 2.5 * ratio, f"pruned-{ratio:.0%}".removesuffix("%")
        made = record(ratio, **({"recovery": [recovery()]} if index == len(ratios) - 1 and index else {}))
        parameters = made["parameters"]["after"]
        bench = bench_json({"dense": (DENSE_PARAMETERS, 1.0), name: (parameters, 1 + 0.9 * ratio)})
        files = {"slimgpt": made, "eval": eval_json(parameters, harm), "bench": bench, "compare": compare_json(harm)}
        folders.append(save(place / name, **files))
    return folders
