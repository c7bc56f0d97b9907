"""What fewer tokens cost: parameters gone, length of texts, bits per byte, by the text that tokens were chosen by.

    python benchmarks/vocabulary.py --model gemma-3-270m.gguf --keep 131072 65536 32768 --chosen-by c4-half.jsonl \\
        --texts c4=c4-other-half.txt wikitext-2=wikitext-2-raw.valid.txt german=german.txt

Code is always measured as well: modules of Python's standard library, every other of which `--code-too` adds to what
tokens are chosen by. Every text is read to its end by all models, in windows of as many tokens.

Measurements are appended to a JSONL file as they finish and are not made again; the table is written beside it.
"""

from __future__ import annotations

import json
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from slimgpt import ExportConfig, TrimConfig, export, load_model, trim
from slimgpt.evaluation import read_text
from slimgpt.evaluation.likelihood import measure
from slimgpt.evaluation.windows import cut

CODE = "code"
MODULE = 3000  # characters of a module that are measured


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then write the table."""

    model: str
    keep: tuple[int, ...]
    chosen_by: tuple[str, ...]
    """Files, as ``slimgpt trim --text`` takes them."""
    texts: tuple[str, ...]
    """NAME=FILE, of which nothing is in --chosen-by."""
    code_too: bool = False
    characters: int = 16_000
    """Of each text, from its beginning."""
    seqlen: int = 512
    out: Path = Path("benchmarks/results/vocabulary.jsonl")
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for keep in (None, *options.keep):
        chosen = [*(Path(name).name for name in options.chosen_by), *([CODE] if options.code_too else [])]
        cell = {"model": Path(options.model).stem, "keep": keep, "chosen_by": chosen if keep else []}
        if not any(cell.items() <= row.items() for row in rows):
            rows.append({**cell, **measured(options, keep)})
            with options.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    options.out.with_suffix(".md").write_text(table(options, rows))


def measured(options: Options, keep: int | None) -> dict[str, Any]:
    """Sizes, and on each text tokens and bits per byte, of the model with so many tokens, or of all of it."""
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if keep is not None:
            texts = [*options.chosen_by, *([str(code_file(Path(folder)))] if options.code_too else [])]
            model = str(trim(TrimConfig(options.model, f"{folder}/trimmed", tuple(texts), keep=keep)).path)
        loaded, tokenizer = load_model(model)
        num_params = sum(parameter.numel() for parameter in loaded.parameters())
        rows = loaded.get_input_embeddings().weight.shape[0]
        texts_found = on_texts(options, loaded, tokenizer)
        return {"parameters": num_params, "rows": rows, **gguf_size(model, Path(folder)), "texts": texts_found}


def gguf_size(model: str, folder: Path) -> dict[str, int]:
    """Bytes of a GGUF file in f16; nothing where the model is a file already, whose type is another."""
    if not Path(model).is_dir():
        return {}
    file = export(ExportConfig(model, str(folder / "model.gguf"), format="gguf", outtype="f16")).path
    assert file is not None
    return {"gguf_bytes": file.stat().st_size}


def on_texts(options: Options, model: Any, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Tokens and bits per byte."""
    found = {}
    for name, text in all_texts(options).items():
        beginning = text[: options.characters]
        windows = cut(tokenizer, beginning, options.seqlen, to_the_end=True)
        tokens = len(tokenizer(beginning, add_special_tokens=False)["input_ids"])
        found[name] = {"tokens": tokens, "bits_per_byte": measure(model, tokenizer, windows).bits_per_byte}
    return found


def all_texts(options: Options) -> dict[str, str]:
    named = dict(text.split("=", 1) for text in options.texts)
    code = "\n\n".join(path.read_text(errors="replace")[:MODULE] for path in modules()[1::2])
    return {**{name: read_text(path) for name, path in named.items()}, CODE: code}


def code_file(folder: Path) -> Path:
    """Every other module, as a text to choose by."""
    file = folder / "code.jsonl"
    texts = (path.read_text(errors="replace") for path in modules()[::2])
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def modules() -> list[Path]:
    """Top-level modules of the standard library, the largest first: the smallest hardly hold code."""
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda path: (-path.stat().st_size, path.name))


def table(options: Options, rows: Sequence[dict[str, Any]]) -> str:
    names = list(rows[0]["texts"])
    lines = [
        "# Fewer tokens",
        "",
        f"`slimgpt trim` without any training; bits per byte on the first {options.characters:,} characters of texts "
        f"that no token was chosen by, read to the end in windows of {options.seqlen} tokens, and how much more they "
        f"are than the dense model's. {options.note}",
        "",
        f"| model | tokens | chosen by | parameters | gone | GGUF f16 | {' | '.join(names)} | tokens more |",
        f"|---|---:|---|---:|---:|---:|{'---:|' * len(names)}---:|",
    ]
    for row in rows:
        dense = next(other for other in rows if other["model"] == row["model"] and other["keep"] is None)
        lines.append(f"| {' | '.join(cells(row, dense, names))} |")
    return "\n".join(lines) + "\n"


def cells(row: dict[str, Any], dense: dict[str, Any], names: Sequence[str]) -> list[str]:
    gone = 1 - row["parameters"] / dense["parameters"]
    gguf = f"{row['gguf_bytes'] / 1e6:,.0f} MB" if "gguf_bytes" in row else ""
    more = (f"{row['texts'][name]['tokens'] / dense['texts'][name]['tokens'] - 1:+.1%}" for name in names)
    costs = (cost(row["texts"][name], dense["texts"][name], row is dense) for name in names)
    chosen = ", ".join(row["chosen_by"]) or "all"
    size = [f"{row['parameters'] / 1e6:,.1f} M", f"{gone:.1%}", gguf]
    return [row["model"], f"{row['rows']:,}", chosen, *size, *costs, "" if row is dense else " ".join(more)]


def cost(found: dict[str, float], dense: dict[str, float], is_dense: bool) -> str:
    bits = found["bits_per_byte"]
    return f"{bits:.4f}" if is_dense else f"{bits:.4f} ({bits / dense['bits_per_byte'] - 1:+.1%})"


if __name__ == "__main__":
    main(tyro.cli(Options))
