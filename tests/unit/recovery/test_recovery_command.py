"""``slimgpt recover`` from the command line: what is refused before work, what is shown, and the recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from recovery_shop import SETTINGS, Shop, options

from slimgpt import cli
from slimgpt.config import RecoverConfig, read_recipe
from slimgpt.errors import ConfigError, NumericalError
from slimgpt.evaluation.predictions import divergence_loss
from slimgpt.recovery import recover

# --- bad input ---------------------------------------------------------------------------------------


@pytest.fixture
def places(shop: Shop, tmp_path: Path) -> Iterator[dict[str, Path]]:
    found = {"MODEL": shop.pruned, "DATA": shop.text, "OUT": tmp_path / "out"}
    found["BIGGER"] = tiny_llama.save_model(tmp_path / "bigger", vocab_size=270)
    found["OTHER"] = tiny_llama.save_model(tmp_path / "other")
    settings = json.loads((found["OTHER"] / "tokenizer.json").read_text())
    vocabulary = settings["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (found["OTHER"] / "tokenizer.json").write_text(json.dumps(settings))
    found["BAD"] = tmp_path / "bad.jsonl"
    found["BAD"].write_text('{"text": "fine"}\n{"prompt": "no"}\n')
    found["TAKEN"] = tmp_path / "taken"
    found["TAKEN"].mkdir()
    yield found


STORED_AND_BESIDE = ["--teacher", "MODEL", "--hidden-weight", "1", "--teacher-cache", "C"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./none", "OUT", "--data", "DATA"], "model './none' does not exist"),
        (["MODEL", "TAKEN", "--data", "DATA"], "exists: choose another folder, or replace it with --force"),
        (["MODEL", "TAKEN", "--data", "DATA", "--resume"], "exists: choose another folder"),
        (["MODEL", "MODEL", "--data", "DATA"], "is the model's own folder or inside it"),
        (["MODEL", "OUT", "--data", "none.jsonl"], "data 'none.jsonl' does not exist"),
        (["MODEL", "OUT", "--data", "BAD"], "bad.jsonl, line 2, has prompt: it needs instruction and output"),
        (["MODEL", "OUT", "--data", "DATA", "--mix", "BAD"], "bad.jsonl, line 2, has prompt"),
        (["MODEL", "OUT", "--data", "DATA", "--teacher", "BIGGER"], "predicts 270 tokens, but"),
        (["MODEL", "OUT", "--data", "DATA", "--teacher", "OTHER"], "has another tokenizer than"),
        (["MODEL", "OUT", "--data", "DATA", "--teacher", "./none"], "model './none' does not exist"),
        (["MODEL", "OUT", "--data", "DATA", "--seqlen", "65"], "--seqlen 65 is beyond the model's context of 64"),
        (["MODEL", "OUT", "--data", "DATA", "--warmup", "99"], "--warmup 99 is all of the 8 optimiser steps"),
        (["MODEL", "OUT", "--data", "DATA", "--micro-batch-size", "3"], "does not divide the 8 rows of a process"),
        (["MODEL", "OUT", "--data", "DATA", "--rank", "0"], "--rank 0 must be 1 or more"),
        (["MODEL", "OUT", "--data", "DATA", "--learning-rate", "0"], "--learning-rate 0.0 must be above 0"),
        (["MODEL", "OUT", "--data", "DATA", "--dropout", "1"], "--dropout 1.0 is outside [0, 1)"),
        (["MODEL", "OUT", "--data", "DATA", "--held-out", "0"], "leaves nothing to choose the best checkpoint by"),
        (["MODEL", "OUT", "--data", "DATA", "--hidden-weight", "1"], "need --teacher DENSE"),
        (["MODEL", "OUT", "--data", "DATA", "--label-share", "0.3"], "need --teacher DENSE"),
        (["MODEL", "OUT", "--data", "DATA", "--teacher", "MODEL", "--label-share", "1"], "outside [0, 1)"),
        (["MODEL", "OUT", "--data", "DATA", *STORED_AND_BESIDE], "with --hidden-weight the teacher runs at each step"),
        (["MODEL", "OUT", "--data", "DATA", "--train-embeddings"], "--train-embeddings is for --full"),
        (["MODEL", "OUT", "--data", "DATA", "--full", "--keep-adapter"], "so there is no adapter"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = {"--seqlen": "32", "--batch-size": "8", "--max-steps": "8", "--warmup": "1", "--device": "cpu"}
    flags = [part for flag, value in defaults.items() if flag not in arguments for part in (flag, value)]
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["recover", *(str(places.get(word, word)) for word in arguments), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("slimgpt: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_loss_that_is_no_number_stops_the_run(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slimgpt.recovery import trainer

    def no_number(targets: Any) -> Any:
        loss_of = divergence_loss(targets)
        return lambda log_prob, block: loss_of(lambda token_bK: log_prob(token_bK) * float("nan"), block)

    monkeypatch.setattr(trainer, "divergence_loss", no_number)
    with pytest.raises(NumericalError, match=r"training loss is nan at step 1: lower --learning-rate"):
        recover(options(shop, tmp_path / "out", teacher=str(shop.dense)))
    assert not (tmp_path / "out").exists()


def test_the_command_shows_what_came_of_it(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    command = ["recover", str(shop.pruned), str(tmp_path / "out"), "--data", str(shop.text), *flags]
    assert cli.main([*command, "--teacher", str(shop.dense)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "8 optimiser steps of 8 rows" in shown
    assert "(kept)" in shown
    assert "Held-out perplexity" in shown
    assert cli.main([*command, "--resume"]) == 2


@pytest.mark.parametrize("recipe", ["recover-lora.yaml", "recover-distill.yaml"])
def test_recipes_hold_options(recipe: str) -> None:
    path = Path(__file__).parents[3] / "recipes" / recipe
    given = read_recipe(str(path), RecoverConfig)
    RecoverConfig("m", "o", **{"data": "d", "teacher": "t", **given}).check()
    if recipe == "recover-lora.yaml":
        paper = {"rank": 8, "alpha": 16.0, "dropout": 0.05, "learning_rate": 1e-4, "warmup": 10, "batch_size": 64}
        assert paper.items() <= given.items()
        assert (given["seqlen"], given["epochs"]) == (256, 1.0)


def test_numbers_of_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="--epochs nan must be above 0"):
        RecoverConfig("m", "o", "d", epochs=float("nan")).check()
    with pytest.raises(ConfigError, match="--weight-decay -1 must be 0 or more"):
        RecoverConfig("m", "o", "d", weight_decay=-1).check()
    assert RecoverConfig("m", "o", "d").peak_rate == 1e-4
    assert RecoverConfig("m", "o", "d", full=True).peak_rate > 1e-4
