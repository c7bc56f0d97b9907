"""Do our Wanda and SparseGPT choose what a public library chooses? Masks compared matrix by matrix, perplexity beside.

Three steps that talk through one folder, because the library wants versions of its own:

    python benchmarks/mask_agreement.py prepare WORK --model MODEL --calibration c4-sample.jsonl

    python -m venv library
    library/bin/pip install 'torch==2.13.0' 'llmcompressor==0.14.0.1'
    library/bin/python benchmarks/mask_agreement.py library WORK

    python benchmarks/mask_agreement.py compare WORK --calibration c4-sample.jsonl --text wikitext-2-raw.test.txt

`prepare` writes the model in float32, so that both sides compute in it, and the calibration windows as token ids: the
library reads those very ids. `compare` sparsifies with the same windows (from the cache, and checked) what is not there
yet, and writes the results. Masks are the zeros of what was written; a weight that was zero before counts too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor

DAMPING = 0.01
BLOCK = 128
SPARSITY = 0.5


@dataclass(frozen=True)
class Case:
    """One way to sparsify, as both sides spell it."""

    name: str
    method: str
    pattern: str
    modifier: str
    structure: str


CASES = (
    Case("wanda-50", "wanda", "unstructured", "WandaPruningModifier", "0:0"),
    Case("sparsegpt-50", "sparsegpt", "unstructured", "SparseGPTModifier", "0:0"),
    Case("sparsegpt-2of4", "sparsegpt", "2:4", "SparseGPTModifier", "2:4"),
)


def main() -> None:
    options = arguments()
    {"prepare": prepare, "library": library, "compare": compare}[options.step](options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("prepare", "library", "compare"):
        step = steps.add_parser(name)
        step.add_argument("work", type=Path)
        step.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
        if name != "library":
            step.add_argument("--calibration", required=True)
    steps.choices["prepare"].add_argument("--model", required=True)
    steps.choices["prepare"].add_argument("--samples", type=int, default=32)
    steps.choices["prepare"].add_argument("--seqlen", type=int, default=256)
    compared = steps.choices["compare"]
    compared.add_argument("--text", required=True)
    compared.add_argument("--max-tokens", type=int, default=8192)
    compared.add_argument("--out", type=Path, default=Path("benchmarks/results/mask_agreement.json"))
    compared.add_argument("--note", default="", help="hardware and date")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Case]:
    return [case for case in CASES if case.name in options.cases]


# --- what both sides read ---------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from slimgpt.calibration import cached_windows

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    windows_BT = cached_windows(options.calibration, tokenizer, options.samples, options.seqlen, 0)
    options.work.mkdir(parents=True, exist_ok=True)
    save_file({"windows_BT": windows_BT.contiguous()}, options.work / "windows.safetensors")
    AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).save_pretrained(options.work / "dense")
    tokenizer.save_pretrained(options.work / "dense")


def read_windows(work: Path) -> Tensor:
    return load_file(work / "windows.safetensors")["windows_BT"]


# --- the library's side -----------------------------------------------------------------------------------------------


def library(options: argparse.Namespace) -> None:
    """Prune by llmcompressor; nothing of slimgpt is imported here."""
    windows_BT = read_windows(options.work)
    for case in chosen(options):
        out = options.work / f"theirs-{case.name}"
        if not out.exists():
            start = time.perf_counter()
            prune_by_library(case, options.work / "dense", windows_BT, out)
            note = {"seconds": round(time.perf_counter() - start, 1), "versions": library_versions()}
            (out / "library.json").write_text(json.dumps(note))


def prune_by_library(case: Case, dense: Path, windows_BT: Tensor, out: Path) -> None:
    """The library patches `save_pretrained` of the model it pruned, so the weights go into a fresh one to be saved."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(dense)
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    rows = {"input_ids": windows_BT.tolist(), "attention_mask": torch.ones_like(windows_BT).tolist()}
    oneshot(
        model=model,
        processor=tokenizer,
        dataset=Dataset.from_dict(rows),
        recipe=[modifier(case)],
        num_calibration_samples=len(windows_BT),
        max_seq_length=windows_BT.shape[1],
        shuffle_calibration_samples=False,
        pipeline="sequential",
    )
    fresh = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    fresh.load_state_dict(model.state_dict())
    fresh.save_pretrained(out)
    tokenizer.save_pretrained(out)


def modifier(case: Case) -> Any:
    from llmcompressor.modifiers import pruning

    extra = {"dampening_frac": DAMPING, "block_size": BLOCK} if case.method == "sparsegpt" else {}
    kind = getattr(pruning, case.modifier)
    return kind(sparsity=SPARSITY, mask_structure=case.structure, targets=["Linear"], ignore=["re:.*lm_head"], **extra)


def library_versions() -> dict[str, str]:
    names = ("llmcompressor", "compressed-tensors", "transformers", "torch")
    return {name: importlib.metadata.version(name) for name in names}


# --- our side, and the comparison -------------------------------------------------------------------------------------


def compare(options: argparse.Namespace) -> None:
    dense = options.work / "dense"
    rows = [{"name": "dense", "perplexity": {"dense": measure(options, dense)}}]
    for case in chosen(options):
        ours, theirs = (options.work / f"{side}-{case.name}" for side in ("ours", "theirs"))
        if not ours.exists():
            sparsify_by_us(options, case, ours)
        rows.append(
            {
                "name": case.name,
                "perplexity": {"ours": measure(options, ours), "theirs": measure(options, theirs)},
                "matrices": matrices(ours, theirs),
                "library": json.loads((theirs / "library.json").read_text()),
            }
        )
        print(case.name, rows[-1]["perplexity"], summary(rows[-1]["matrices"]), flush=True)
    windows_BT = read_windows(options.work)
    found = {"note": options.note, "windows": list(windows_BT.shape), "max_tokens": options.max_tokens, "rows": rows}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(found))


def sparsify_by_us(options: argparse.Namespace, case: Case, out: Path) -> None:
    from transformers import AutoTokenizer

    from slimgpt.calibration import cached_windows
    from slimgpt.config import SparsifyConfig
    from slimgpt.sparsity import sparsify

    windows_BT, dense = read_windows(options.work), options.work / "dense"
    num, seqlen = windows_BT.shape
    again_BT = cached_windows(options.calibration, AutoTokenizer.from_pretrained(dense), num, seqlen, 0)
    if not again_BT.equal(windows_BT):
        raise SystemExit(f"{options.calibration} gives other windows than the library read: run all three steps again.")
    config = SparsifyConfig(
        str(dense),
        str(out),
        method=case.method,  # type: ignore[arg-type]
        pattern=case.pattern,
        damping=DAMPING,
        calibration=options.calibration,
        samples=num,
        seqlen=seqlen,
    )
    sparsify(config)


def measure(options: argparse.Namespace, model: Path) -> float:
    from slimgpt import load_model, perplexity
    from slimgpt.evaluation import read_text

    loaded, tokenizer = load_model(str(model))
    return perplexity(loaded, tokenizer, read_text(options.text), 512, options.max_tokens).perplexity


def matrices(ours: Path, theirs: Path) -> list[dict[str, Any]]:
    """Of every projection of the decoder layers: how far the two masks agree."""
    found = []
    with safe_open(ours / "model.safetensors", "pt") as mine, safe_open(theirs / "model.safetensors", "pt") as other:
        for name in sorted(mine.keys()):
            if name.endswith("_proj.weight"):
                found.append({"name": name, **agreement(mine.get_tensor(name), other.get_tensor(name))})
    return found


def agreement(ours_OI: Tensor, theirs_OI: Tensor) -> dict[str, float]:
    """Shares of entries; `chance` is what independent masks of these sparsities would agree on.

    `overlap` is the share of our kept weights that they keep too; `distance` is ‖W − W'‖ / ‖W'‖.
    """
    mine, other = ours_OI != 0, theirs_OI != 0
    kept, theirs = mine.double().mean().item(), other.double().mean().item()
    return {
        "entries": mine.numel(),
        "zeros_ours": 1 - kept,
        "zeros_theirs": 1 - theirs,
        "agreement": (mine == other).double().mean().item(),
        "chance": kept * theirs + (1 - kept) * (1 - theirs),
        "overlap": (mine & other).double().mean().item() / kept,
        "distance": ((ours_OI - theirs_OI).norm() / theirs_OI.norm()).item(),
    }


def summary(found: list[dict[str, Any]]) -> dict[str, float]:
    """Means over entries, and the least agreement of a matrix."""
    total = sum(row["entries"] for row in found)
    keys = [key for key in found[0] if key not in ("name", "entries")]
    means = {key: sum(row[key] * row["entries"] for row in found) / total for key in keys}
    return {**means, "least": min(row["agreement"] for row in found)}


def page(found: dict[str, Any]) -> str:
    dense, *rows = found["rows"]
    samples, seqlen = found["windows"]
    names = ", ".join(f"{name} {version}" for name, version in rows[0]["library"]["versions"].items())
    lines = [
        "# Our masks and a public library's",
        "",
        f"Zeros by `slimgpt sparsify` and by llmcompressor from the same float32 weights and the same {samples} x "
        f"{seqlen} calibration tokens, 50 % of every projection; the library's environment: {names}. Perplexity on the "
        f"first {found['max_tokens']:,} tokens of WikiText-2 test at 512 (dense: {dense['perplexity']['dense']:.2f}). "
        f"{found['note']}",
        "",
        "| | masks agree | least, of a matrix | by chance | our kept that they keep | zeros, ours / theirs | "
        "distance of weights | perplexity, ours / theirs |",
        "|---" * 8 + "|",
    ]
    lines += [table_row(row) for row in rows]
    return "\n".join([*lines, "", "By layer, masks that agree, in per cent:", "", *by_layer(rows)]) + "\n"


def table_row(row: dict[str, Any]) -> str:
    means, perplexity = summary(row["matrices"]), row["perplexity"]
    return (
        f"| {row['name']} | **{means['agreement']:.3%}** | {means['least']:.3%} | {means['chance']:.1%} | "
        f"{means['overlap']:.3%} | {means['zeros_ours']:.4%} / {means['zeros_theirs']:.4%} | {means['distance']:.4f} | "
        f"{perplexity['ours']:.2f} / {perplexity['theirs']:.2f} |"
    )


def by_layer(rows: list[dict[str, Any]]) -> list[str]:
    """The first layers see the same inputs on both sides; later ones what the earlier ones let through."""
    layers = sorted({layer_of(entry) for entry in rows[0]["matrices"]})
    shown = [layer for layer in layers if layer in (0, 1, 2, layers[-1]) or layer % 5 == 0]
    lines = ["| | " + " | ".join(f"{layer}" for layer in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for row in rows:
        means = [summary([e for e in row["matrices"] if layer_of(e) == layer])["agreement"] for layer in shown]
        lines.append(f"| {row['name']} | " + " | ".join(f"{mean:.2%}" for mean in means) + " |")
    return lines


def layer_of(entry: dict[str, Any]) -> int:
    return int(entry["name"].split("layers.")[1].split(".")[0])


if __name__ == "__main__":
    main()
