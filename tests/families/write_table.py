"""Writes docs/families.md from runs: ``python tests/families/write_table.py docs/families.md [ROWS.jsonl]``.

Every type runs in a process of its own, with a limit: code of any model may do anything. With a second file, rows that
are in it already are not made again.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny_types
import torch
import transformers
from rows import CHECKS, TESTED, Row, row_of

SECONDS = 240  # of work, however busy the machine is

HEAD = """# Model types

Made by `make test-families`, on random models of {versions}: every type of that version that writes
text, {total} of them, each with its own default settings, shrunk. **{tested}** are tested families; of the other types
**{detected}** have units that are found by running the class without weights, and that are proved on the weights of
the model at hand before anything goes ([how](add_a_family.md)): FFN channels in {ffn} of those, attention units
in {attention}. Of {run} of them a model has been pruned, loaded and compared for this table. The rest is refused before
any work, with the reason given here, or has not been tried.

*sliced = masked*: the smaller model's logits are those of the whole one that does not read what went. *cache*: written
one token at a time as in one pass. *padding*: behind padding on the left as alone. *bfloat16*: within {rough:.0%} of
the range of logits. *as stock*: the stock model does not do it either. "–": not tried. A type is *found* rather than
*detected* where its class has been looked at without weights, and no model of it was pruned yet.

| type | known by | FFN | attention | {checks} | what stays, or why refused |
|---|---|---|---|{rules}---|
"""


def main(page: Path, rows_file: Path | None) -> None:
    """Run what is not known yet, and write the page."""
    known = _stored(rows_file)
    rows = []
    for model_type in tiny_types.TYPES:
        if model_type not in known:
            known[model_type] = row_alone(model_type)
            if rows_file is not None:
                with rows_file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(known[model_type])) + "\n")
        rows.append(known[model_type])
    page.write_text("\n".join(_lines(rows)) + "\n", encoding="utf-8")


def _stored(rows_file: Path | None) -> dict[str, Row]:
    if rows_file is None or not rows_file.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in rows_file.read_text(encoding="utf-8").splitlines()]
    return {row.model_type: row for row in rows}


def row_alone(model_type: str) -> Row:
    """The row of a type, made in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_row, args=(model_type, there))
    process.start()
    there.close()
    try:
        row: Row = here.recv()
    except EOFError:
        row = Row(model_type, why=f"the process died, or was not done after {SECONDS} seconds")
    process.join()
    return row


def _send_row(model_type: str, there: Any) -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, int(used) + SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (48 << 30, 48 << 30))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            row = row_of(model_type, Path(folder))
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            row = Row(model_type, why=f"no random model could be made or run ({type(error).__name__}: {text})")
        there.send(row)


def _lines(rows: list[Row]) -> Iterator[str]:
    detected = [row for row in rows if row.known in ("detected", "found")]
    yield HEAD.format(
        versions=f"transformers {transformers.__version__}",
        total=len(rows),
        tested=sum(row.known == TESTED for row in rows),
        detected=len(detected),
        run=sum(row.known == "detected" for row in rows),
        ffn=sum("ffn" in row.parts for row in detected),
        attention=sum("attention" in row.parts for row in detected),
        rough=0.1,
        checks=" | ".join(CHECKS),
        rules="---|" * len(CHECKS),
    ).rstrip()
    for row in rows:
        parts = [row.parts.get(part, "–") for part in ("ffn", "attention")]
        checks = [row.checks.get(name, "–") for name in CHECKS]
        why = row.why.replace("|", "/")
        yield f"| `{row.model_type}` | {row.known or 'refused'} | {' | '.join(parts + checks)} | {why} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
