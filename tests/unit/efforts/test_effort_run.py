"""Several stages as one run: killed between them or inside one, it goes on, and ends with the same bytes."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
from damage import left_in
from transformers import AutoModelForCausalLM

from slimgpt import Observer, PruneConfig, SlimGPTError, open_checkpoint, prune
from slimgpt.cli import main
from slimgpt.efforts import prepare
from slimgpt.errors import ConfigError, DamageWarning, OutputError
from slimgpt.pruning import driver

RESULTS = ("out",)
SIZES = {"ratio": 0.4, "effort": "high", "allocation": "log", "samples": 24}


class World:
    """A model, and what comes of it when nothing interrupts."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny_llama.save_model(folder / "model")
        self.straight = folder / "straight"
        with redirect_stdout(StringIO()) as said:
            assert main(self.arguments(self.straight / "out")) == 0
        self.said = said.getvalue()
        self.record = json.loads((self.straight / "out" / "slimgpt.json").read_text())

    def options(self, out: Path, **changes: Any) -> PruneConfig:
        return tiny_llama.prune_config(self.model, out, **{**SIZES, **changes})

    def arguments(self, out: Path) -> list[str]:
        """The same on the command line."""
        sizes = {**SIZES, "calibration": "builtin", "seqlen": 32, "round-to": 1, "device": "cpu"}
        flags = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
        return ["prune", str(self.model), str(out), *flags]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


class Strikes(Observer):
    """Ends a run at a moment; notes which stages began."""

    def __init__(self, stage: int | None = None, at: str = "began") -> None:
        self.began_with: list[int] = []
        self._moment = (stage, at)

    def chained(self, steps: Any) -> None:
        self.steps = steps

    def began(self, number: int) -> None:
        self.began_with.append(number)
        self._strike("began")

    def stage(self, layer: int, stage: str) -> None:
        if layer == 2:
            self._strike("inside")

    def recovering(self) -> None:
        self._strike("inside")

    def writing(self) -> None:
        self._strike("writing")

    def _strike(self, what: str) -> None:
        if (self.began_with[-1] if self.began_with else None, what) == self._moment:
            raise KeyboardInterrupt


def same(world: World, folder: Path) -> None:
    """The folder has the weights, configuration and so on of the run that nothing interrupted."""
    expected, found = (
        {
            name: json.dumps(content, default=str).replace(str(where), "")
            for name, content in left_in(where, RESULTS).items()
        }
        for where in (world.straight, folder)
    )
    assert found == expected and [path.name for path in folder.iterdir()] == ["out"]


def test_one_record_says_what_the_dense_model_lost(world: World) -> None:
    record, dense = world.record, open_checkpoint(str(world.model))
    out = world.straight / "out"
    assert record["source"] == str(world.model) and "before" not in record
    model = AutoModelForCausalLM.from_pretrained(out)
    counted = sum(parameter.numel() for parameter in model.parameters())
    sizes = record["parameters"]
    assert (sizes["before"], sizes["after"]) == (dense.num_params, counted)
    assert sizes["removed_ratio"] == pytest.approx(0.4, abs=0.01)
    assert [stage["name"] for stage in record["stages"]] == ["pruned", "trained"] * 2
    assert len(record["recovery"]) == 2 and {entry["teacher"] for entry in record["recovery"]} == {str(world.model)}
    first, last = (record["stages"][index]["record"] for index in (0, 2))
    for whole, early, late in zip(record["sites"], first["sites"], last["sites"], strict=True):
        pieces = [entry.get("kept_members", entry["kept"]) for entry in (whole, early, late)]
        assert pieces[0] == [pieces[1][index] for index in pieces[2]]
        assert whole["num_units"] == early["num_units"] > late["num_units"] or early["kept"] == [
            *range(len(early["kept"]))
        ]
        assert whole["error"] == late["error"]
    for name in ("search", "train"):
        assert (name in record["cost"]["seconds"]) is (name == "train")


def test_nothing_names_the_folder_that_went(world: World) -> None:
    for file in ("slimgpt.json", "README.md"):
        assert ".partial" not in (world.straight / "out" / file).read_text()


def test_the_card_tells_the_stages(world: World) -> None:
    card = (world.straight / "out" / "README.md").read_text()
    assert "These were 4 stages, by `--effort high`; `calibration.jsonl` holds the calibration\nwindows:" in card
    assert "slimgpt prune 1-trained 2-pruned --ratio 0.25 --attention-units queries" in card
    assert card.count("| all weights | distillation from") == 2
    assert (
        f"{world.record['parameters']['removed_ratio']:.1%} smaller" in card
        and "Of several prunings it is the last one's." in card
    )


@pytest.mark.parametrize(
    ("stage", "at", "left"),
    [
        (2, "inside", [2, 3]),
        pytest.param(3, "writing", [], marks=pytest.mark.nightly),
        pytest.param(1, "began", [1, 2, 3], marks=pytest.mark.nightly),
        pytest.param(3, "inside", [3], marks=pytest.mark.nightly),
    ],
)
def test_a_run_that_died_goes_on(world: World, tmp_path: Path, stage: int, at: str, left: list[int]) -> None:
    options = world.options(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        prune(options, Strikes(stage, at))
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError, match=r"an unfinished run is in .*: continue it with --resume, or drop it"):
        prune(options)
    again = Strikes()
    prune(replace(options, resume=True), again)
    assert again.began_with == left
    same(world, tmp_path)
    assert prune(replace(options, resume=True)).record == json.loads((tmp_path / "out" / "slimgpt.json").read_text())


@pytest.mark.nightly
def test_damage_between_stages_is_noticed(world: World, tmp_path: Path) -> None:
    options = world.options(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        prune(options, Strikes(2))
    weights = tmp_path / "out.partial" / "stages" / "1-trained" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again = Strikes()
    with pytest.warns(
        DamageWarning, match="model.safetensors is damaged.*: stage 2 and what follows it are done again"
    ):
        prune(replace(options, resume=True), again)
    assert again.began_with == [1, 2, 3]
    same(world, tmp_path)


def test_another_run_is_neither_continued_nor_mixed(world: World, tmp_path: Path) -> None:
    options = world.options(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        prune(options, Strikes(1))
    with pytest.raises(OutputError, match=r"holds another run: damping was 0.01 and is now 0.02"):
        prune(replace(options, resume=True, damping=0.02))
    with pytest.raises(OutputError, match="holds another run: "):
        prune(replace(options, resume=True, effort="medium"))
    medium = replace(options, force=True, effort="medium", allocation="log")
    record = prune(medium).record
    assert "stages" not in record and not (tmp_path / "out.partial").exists()
    with pytest.raises(OutputError, match=r"OUT .* exists: choose another folder, or replace it with --force"):
        prune(options)


def test_a_foreign_or_busy_folder_is_refused_before_work(world: World, tmp_path: Path) -> None:
    options, inside = world.options(tmp_path / "out"), tmp_path / "out.partial"
    inside.mkdir()
    (inside / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="that slimgpt did not make"):
        prune(options)
    (inside / "mine.txt").unlink()

    class Second(Observer):
        def chained(self, steps: Any) -> None:
            with pytest.raises(OutputError, match="another slimgpt run is at work in"):
                prune(options)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(options, Second())


def test_too_little_text_to_train_on_is_refused_before_work(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"7 rows of 32 tokens: 4 optimiser steps, where the first 10 only warm up"):
        prune(world.options(tmp_path / "out", samples=8))
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_where_memory_is_short_adapters_are_trained_and_a_resumed_run_keeps_to_that(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, room = world.options(tmp_path / "out", ratio=0.2), prepare.memory.check

    def no_room(kind: Any, *others: Any) -> None:
        if kind in ("full", "any"):
            raise ConfigError("no room")

    cpu = torch.device("cpu")
    monkeypatch.setattr(prepare, "foresee", lambda config, *others: ("full" if config.full else "adapters", cpu))
    monkeypatch.setattr(prepare.memory, "check", no_room)
    watching = Strikes(1)
    with pytest.raises(KeyboardInterrupt):
        prune(options, watching)
    assert watching.steps[1].options["rank"] == 16 and "full" not in watching.steps[1].options
    monkeypatch.undo()
    assert prepare.memory.check is room
    assert prune(replace(options, resume=True)).record["recovery"][0]["weights"] == "lora"
    monkeypatch.setattr(prepare, "foresee", lambda config, *others: ("any", cpu))
    monkeypatch.setattr(prepare.memory, "check", no_room)
    with pytest.raises(ConfigError, match="--effort high trains, for which there is no room: no room"):
        prune(world.options(tmp_path / "other"))


@pytest.mark.parametrize(
    ("changes", "environment", "message"),
    [
        ({"device": "cuda:1"}, {}, "trains too, and that takes --device auto, cpu, cuda, mps, not cuda:1"),
        ({}, {"WORLD_SIZE": "2"}, "--effort high runs in one process: start it without torchrun"),
    ],
)
def test_what_a_training_does_not_take_is_refused(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    environment: dict[str, str],
    message: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SlimGPTError, match=message):
        prune(world.options(tmp_path / "out", **changes))


def test_low_and_medium_are_the_command_as_it_was(world: World, tmp_path: Path) -> None:
    for effort, same_as in (("low", {"allocation": "log"}), ("medium", {})):
        own = world.options(tmp_path / effort, effort=effort, ratio=0.2, allocation=None)
        prune(own)
        driver.prune(tiny_llama.prune_config(world.model, tmp_path / "plain", samples=24, force=True, **same_as))
        weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in (effort, "plain")]
        assert weights[0] == weights[1]


def test_the_command_says_its_stages_before_it_starts(world: World) -> None:
    commands = [line.split()[:3] for line in world.said.splitlines() if ". slimgpt " in line]
    kinds = ["prune", "recover"] * 2
    assert commands == [[f"{number}.", "slimgpt", kind] for number, kind in enumerate(kinds, start=1)]
    assert world.said.index("4 stages, each a command of its own") < world.said.index("Plan:")
    assert "Training 2: held-out perplexity" in world.said
