"""Recipes, studies and files of ratios, mutated: options within their rules, or one line that says what is wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import SEEDS, damaged, mutated, outcome
from study_shop import RECIPE

from slimgpt.allocation.ratios import curves
from slimgpt.config import PruneConfig, RecoverConfig, read_recipe
from slimgpt.studies import cells, chain, recipe

ROOT = Path(__file__).parents[2]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "recipes").glob("*.yaml")}
REQUIRED = {PruneConfig: {"model": "m", "out": "o"}, RecoverConfig: {"model": "m", "out": "o", "data": "d"}}
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
SPLICES = (
    *(
        "- ",
        "? ",
        "&a ",
        "*a ",
        "<<: ",
        "!!python/object/apply:os.system ['true'] ",
        "!!binary ",
        "!!set ",
        "| ",
        "--- ",
    ),
    *(
        "1:2:3:4",
        "0x" + "f" * 5000,
        "9" * 5000,
        "1e999",
        ".inf",
        ".nan",
        "2026-13-45",
        "~",
        "{",
        "[" * 3000,
        "\t",
        "\0",
    ),
)


def spliced(text: str, choice: random.Random) -> bytes:
    """YAML with its own specialities where they do not belong."""
    lines = text.splitlines()
    for _ in range(choice.choice((1, 1, 2))):
        place = choice.randrange(len(lines))
        name, colon, value = lines[place].partition(": ")
        splice = choice.choice(SPLICES)
        lines[place] = choice.choice((f"{name}{colon}{splice}{value}", f"{name}{colon}{splice}", splice + lines[place]))
        if choice.random() < 0.3:
            lines.insert(choice.randrange(len(lines)), choice.choice(lines))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def hostile_yaml(text: str, choice: random.Random) -> bytes:
    """Mutated as data, as text or as bytes; now and then with a bomb in front."""
    kind = choice.random()
    if kind < 0.5:
        content = mutated(yaml.safe_load(text), choice, {"recipe": (), "a": (5, [5], {"b": 5})})
        data = json.dumps(content).encode()  # JSON is YAML
    else:
        data = spliced(text, choice) if kind < 0.8 else damaged(text.encode(), choice)
    return BOMB.encode() + data if choice.random() < 0.05 else data


@SEEDS
@pytest.mark.parametrize("config", [PruneConfig, RecoverConfig])
def test_recipe(config: Any, seed: int, tmp_path: Path) -> None:
    choice = random.Random(seed)
    name = choice.choice([name for name in TEXTS if name.startswith("slimgpt" if config is PruneConfig else "recover")])
    (tmp_path / "recipe.yaml").write_bytes(hostile_yaml(TEXTS[name], choice))

    def read() -> None:
        config(**{**REQUIRED[config], **read_recipe(str(tmp_path / "recipe.yaml"), config)}).check()

    outcome(read)


@SEEDS
def test_study(seed: int, tmp_path: Path) -> None:
    choice = random.Random(seed)
    text = choice.choice((yaml.safe_dump(RECIPE), TEXTS["study-small.yaml"], TEXTS["study-large.yaml"]))
    (tmp_path / "study.yaml").write_bytes(hostile_yaml(text, choice))

    def read() -> None:
        asked = recipe.read(str(tmp_path / "study.yaml"))
        expanded = cells.expand(asked)
        cells.check_size(len(expanded), yes=choice.random() < 0.5)
        for cell in list(expanded.values())[:50]:
            chain.check(cell, asked)
            chain.steps(cell, asked, tmp_path)

    outcome(read)


@SEEDS
def test_file_of_ratios(seed: int, tmp_path: Path) -> None:
    choice = random.Random(seed)
    text = choice.choice(("[0.1, 0.2, 0.3]\n", "attention: [0.1, 0.2, 0.3]\nffn: [0, 0.5, 1]\n"))
    file = tmp_path / choice.choice(("ratios.yaml", "ratios.json"))
    file.write_bytes(hostile_yaml(text, choice))
    outcome(lambda: curves(str(file), ("attention", "ffn"), 3))
