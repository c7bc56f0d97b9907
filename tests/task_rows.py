"""Rows of the suite's seven tasks in the form of their files, and a plain loop that answers them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

FILES = {"openbookqa": "openbook_qa"}
Row = dict[str, Any]

WORDS = ["amber", "birds", "carry", "dusty", "elms", "from", "green", "hills", "into", "jade", "kettles"]


def made_up(task: str, num_rows: int = 5) -> list[Row]:
    """Rows of which neighbours differ in lengths, right answers and words."""
    return [_row(task, index) for index in range(num_rows)]


def _row(task: str, index: int) -> Row:
    words = [WORDS[(index * 3 + step) % len(WORDS)] for step in range(4)]
    choices = [words[0], f"{words[1]} {words[2]}", words[3], f"{words[0]} {words[3]} é"]
    question = f"who {words[2]} {words[1]}"
    if task == "boolq":
        return {"query": f"Passage: {words[0]}.\nQuestion: {question}?", "choices": ["no", "yes"], "gold": index % 2}
    if task == "piqa":
        return {"query": f"Question: {question}\n", "choices": choices[1:3], "gold": index % 2}
    if task == "hellaswag":
        return {"ctx": f"{words[0]}: {question}", "endings": choices, "label": index % 4}
    if task == "winogrande":
        options = [f"{words[0]} saw {word}" for word in words[1:3]]
        return {"context_options": options, "continuation": f"{words[3]} it.", "gold": index % 2}
    query = question if task == "openbookqa" else f"Question: {question}?"
    return {"query": query, "choices": choices, "gold": (index + 1) % 4}


def write(folder: Path, task: str, rows: list[Row]) -> None:
    """The task's file."""
    lines = (json.dumps(row) + "\n" for row in rows)
    (folder / f"{FILES.get(task, task)}.jsonl").write_text("".join(lines), encoding="utf-8")


def read(folder: Path, task: str, num_rows: int) -> list[Row]:
    """The first rows of a task's file."""
    with (folder / f"{FILES.get(task, task)}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(num_rows), strict=False)]


def questions(task: str, row: Row) -> tuple[list[tuple[str, str]], int]:
    """Context and continuation of each choice, and the right one: the prompts of the harness, written out."""
    if task == "winogrande":
        return [(context, " " + row["continuation"]) for context in row["context_options"]], row["gold"]
    if task == "hellaswag":
        return [(row["ctx"], " " + ending) for ending in row["endings"]], row["label"]
    context = row["query"]
    if task == "boolq":
        context = context.removeprefix("Passage: ")
    if task != "openbookqa":
        context = context.rstrip("\n") + "\nAnswer:"
    return [(context, " " + choice) for choice in row["choices"]], row["gold"]


def accuracies(model: Any, tokenizer: Any, task: str, rows: list[Row]) -> dict[str, float]:
    """Share of rows whose right choice is likeliest, in all and by character; one forward pass a choice."""
    right = {"acc": 0, "acc_norm": 0}
    for row in rows:
        asked, gold = questions(task, row)
        scores = [_log_likelihood(model, tokenizer, *pair) for pair in asked]
        texts = row.get("context_options") or [continuation[1:] for _, continuation in asked]
        by_length = [score / len(text) for score, text in zip(scores, texts, strict=True)]
        right["acc"] += scores.index(max(scores)) == gold
        right["acc_norm"] += by_length.index(max(by_length)) == gold
    return {metric: count / len(rows) for metric, count in right.items()}


@torch.inference_mode()
def _log_likelihood(model: Any, tokenizer: Any, context: str, continuation: str) -> float:
    num_context = len(tokenizer(context)["input_ids"])
    whole = tokenizer(context + continuation, return_tensors="pt")["input_ids"]
    log_probabilities = model(input_ids=whole, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return log_probabilities.gather(1, whole[0, 1:, None])[num_context - 1 :].sum().item()


def all_tasks(folder: Path, tasks: Mapping[str, Any], num_rows: int = 5) -> Iterator[tuple[str, list[Row]]]:
    """Made-up rows of every task, written to ``folder``."""
    for task in tasks:
        rows = made_up(task, num_rows)
        write(folder, task, rows)
        yield task, rows
