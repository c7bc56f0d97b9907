"""What fewer tokens cost: parameters gone, length of texts, bits per byte, by the text that tokens were chosen by.

    python benchmarks/vocabulary.py --model gemma-3-270m.gguf --keep 131072 65536 32768 \\
        --domains c4=c4-half.jsonl german=german-half.jsonl \\
        --texts c4=c4-other-half.txt wikitext-2=wikitext-2-raw.valid.txt german=german-other-half.txt

The rows are those that ``slimgpt trim`` would write, but nothing is written: the model is read once. Code is one more
domain and one more text: modules of Python's standard library, every other of which is measured. Every text is read to
its end by all models, in windows of as many tokens.

Measurements are appended to a JSONL file as they finish and are not made again; the table is written beside it.
"""

from __future__ import annotations

import json
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from slimgpt import load_model
from slimgpt.evaluation import read_text
from slimgpt.evaluation.likelihood import measure
from slimgpt.evaluation.windows import cut
from slimgpt.model.checkpoint import open_checkpoint
from slimgpt.vocabulary.ancestry import Ancestry
from slimgpt.vocabulary.choice import Choice
from slimgpt.vocabulary.counting import count, sources_of, weighed
from slimgpt.vocabulary.lasting import lasting_ids
from slimgpt.vocabulary.renumber import new_ids, smaller_tokenizer
from slimgpt.vocabulary.spec import spec_of

CODE = "code"
MODULE = 3000  # characters of a module that are measured


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then write the table."""

    model: str
    keep: tuple[int, ...]
    domains: tuple[str, ...]
    """NAME=FILE: texts to choose tokens by, by the first of them alone and by all of them and code."""
    texts: tuple[str, ...]
    """NAME=FILE, of which nothing is in --domains."""
    characters: int = 16_000
    """Of each text, from its beginning."""
    seqlen: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    out: Path = Path("benchmarks/results/vocabulary.jsonl")
    note: str = ""
    """Hardware and date, for the table."""


class Bench:
    """A model with its tied embedding, which is cut and put back."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.model, self.tokenizer = load_model(options.model)
        self.model.to(getattr(torch, options.dtype))
        self.checkpoint = open_checkpoint(options.model)
        self.spec = spec_of(self.tokenizer, options.model)
        self.table_VD = self.model.get_input_embeddings().weight.data

    @cached_property
    def choice(self) -> Choice:
        """As ``slimgpt trim`` makes it."""
        tokens = {index for index in self.spec.ids.values() if index < self.checkpoint.vocabulary}
        lasting = lasting_ids(self.checkpoint, self.tokenizer, self.spec)
        return Choice(Ancestry(self.spec), lasting, tokens, self.checkpoint.vocabulary)

    @cached_property
    def counts(self) -> dict[str, Counter[int]]:
        """Of each domain, and of code."""
        files = dict(domain.split("=", 1) for domain in self.options.domains)
        sources = sources_of(list(files.values()), "text", self.tokenizer)
        found = {name: count(source, self.tokenizer) for name, source in zip(files, sources, strict=True)}
        code = [path.read_text(errors="replace") for path in modules()[::2]]
        ids = self.tokenizer(code, add_special_tokens=False, verbose=False)["input_ids"]
        return {**found, CODE: Counter(index for of_module in ids for index in of_module)}

    def kept(self, keep: int, chosen_by: Sequence[str]) -> list[int]:
        """Rows that stay."""
        return self.choice.heaviest(weighed([self.counts[name] for name in chosen_by]), keep)

    def measured(self, kept: list[int] | None) -> dict[str, Any]:
        """Sizes, and on each text tokens and bits per byte, of the model with these rows, or of all of it."""
        tokenizer, rows_VD = self.tokenizer, self.table_VD
        if kept is not None:
            tokenizer = smaller_tokenizer(tokenizer, self.spec, self.checkpoint.config, new_ids(kept))
            rows_VD = self.table_VD[torch.tensor(kept)]
        self._set(rows_VD)
        num_params = sum(parameter.numel() for parameter in self.model.parameters())
        texts = {name: self._on_text(tokenizer, text) for name, text in self.texts.items()}
        return {"parameters": num_params, "rows": len(rows_VD), "texts": texts}

    @cached_property
    def texts(self) -> dict[str, str]:
        """What is measured, by name."""
        named = dict(text.split("=", 1) for text in self.options.texts)
        code = "\n\n".join(path.read_text(errors="replace")[:MODULE] for path in modules()[1::2])
        whole = {**{name: read_text(path) for name, path in named.items()}, CODE: code}
        return {name: text[: self.options.characters] for name, text in whole.items()}

    def _on_text(self, tokenizer: Any, text: str) -> dict[str, float]:
        windows = cut(tokenizer, text, self.options.seqlen, to_the_end=True)
        tokens = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        return {"tokens": tokens, "bits_per_byte": measure(self.model, tokenizer, windows, 1).bits_per_byte}

    def _set(self, rows_VD: torch.Tensor) -> None:
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        assert head.weight is embedding.weight, "embedding and head are tied"
        embedding.weight.data, embedding.padding_idx = rows_VD, None


def main(options: Options) -> None:
    bench: Bench | None = None
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for cell in cells(options):
        if not any(cell.items() <= row.items() for row in rows):
            bench = bench or Bench(options)
            kept = bench.kept(cell["keep"], cell["chosen_by"]) if cell["keep"] else None
            rows.append({**cell, **bench.measured(kept)})
            with options.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    options.out.with_suffix(".md").write_text(table(options, rows))


def cells(options: Options) -> list[dict[str, Any]]:
    """What is measured: the dense model, and each size by one domain and by all."""
    names = [domain.split("=", 1)[0] for domain in options.domains]
    sizes = [(keep, by) for by in (names[:1], [*names, CODE]) for keep in options.keep]
    return [{"model": Path(options.model).stem, "keep": keep, "chosen_by": by} for keep, by in [(None, []), *sizes]]


def modules() -> list[Path]:
    """Top-level modules of the standard library, the largest first: the smallest hardly hold code."""
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda path: (-path.stat().st_size, path.name))


def table(options: Options, rows: Sequence[dict[str, Any]]) -> str:
    names = list(rows[0]["texts"])
    lines = [
        "# Fewer tokens",
        "",
        f"The rows of `slimgpt trim`, without any training; bits per byte on the first {options.characters:,} "
        f"characters of texts that no token was chosen by, read to the end in windows of {options.seqlen} tokens, and "
        "how much more they are than the dense model's; with how many tokens more. MB: two bytes a parameter. "
        f"{options.note}",
        "",
        f"| model | tokens | chosen by | parameters | gone | MB | {' | '.join(names)} |",
        f"|---|---:|---|---:|---:|---:|{'---:|' * len(names)}",
    ]
    for row in rows:
        dense = next(other for other in rows if other["model"] == row["model"] and other["keep"] is None)
        num_params = row["parameters"]
        size = [f"{num_params / 1e6:,.1f} M", f"{1 - num_params / dense['parameters']:.1%}", f"{num_params / 5e5:,.0f}"]
        chosen = [row["model"], f"{row['rows']:,}", ", ".join(row["chosen_by"])]
        costs = [cost(row["texts"][name], dense["texts"][name], row is dense) for name in names]
        lines.append(f"| {' | '.join([*chosen, *size, *costs])} |")
    return "\n".join(lines) + "\n"


def cost(found: dict[str, float], dense: dict[str, float], is_dense: bool) -> str:
    bits = found["bits_per_byte"]
    if is_dense:
        return f"{bits:.4f}; {found['tokens']:,} tokens"
    return f"{bits:.4f} ({bits / dense['bits_per_byte'] - 1:+.1%}; {found['tokens'] / dense['tokens'] - 1:+.1%})"


if __name__ == "__main__":
    main(tyro.cli(Options))
