"""The command line: help that needs no manual, recipes under flags, and one line on stderr for bad input."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_llama

from slimgpt import cli
from slimgpt.config import EvalConfig, GenerateConfig, InspectConfig, PruneConfig
from slimgpt.errors import DamageWarning

FIELDS = {"prune": PruneConfig, "eval": EvalConfig, "inspect": InspectConfig, "generate": GenerateConfig}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Commands do nothing but note their options."""
    seen: list[Any] = []
    run_instead(monkeypatch, seen.append)
    return seen


def run_instead(monkeypatch: pytest.MonkeyPatch, function: Callable[[Any], None]) -> None:
    """Every command calls this in place of its own function."""
    commands = {name: command._replace(run=function) for name, command in cli.COMMANDS.items()}
    monkeypatch.setattr(cli, "COMMANDS", commands)


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


# --- parsing ---------------------------------------------------------------------------------------


def test_flags_reach_the_options(parsed: list[Any]) -> None:
    flags = ["--ratio", "0.5", "--solver", "wanda", "--repair", "True", "--round-to", "64", "--no-grouped-cholesky"]
    assert run("prune", "m", "o", *flags) == 0
    assert parsed == [
        PruneConfig("m", "o", ratio=0.5, solver="wanda", repair=True, round_to=64, grouped_cholesky=False)
    ]


@pytest.mark.parametrize("form", [["--recipe", "FILE"], ["--recipe=FILE"]])
def test_flags_win_over_the_recipe(tmp_path: Path, parsed: list[Any], form: list[str]) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("ratio: 0.4\nsolver: slimgpt\nround-to: 16\n")
    flags = [part.replace("FILE", str(file)) for part in form]
    for arguments in ([*flags, "--ratio", "0.1"], ["--ratio", "0.1", *flags]):
        parsed.clear()
        assert run("prune", "m", "o", *arguments) == 0
        assert parsed == [PruneConfig("m", "o", ratio=0.1, solver="slimgpt", round_to=16, recipe=str(file))]


def test_a_recipe_may_name_model_and_out(tmp_path: Path, parsed: list[Any]) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model: m\nout: o\n")
    assert run("prune", "--recipe", file) == 0
    assert parsed == [PruneConfig("m", "o", recipe=str(file))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "m", "o", "--rati", "0.2"], "--ratio"),
        (["prune", "m", "o", "--ratio", "much"], "could not convert string to float: 'much'"),
        (["prune", "m", "o", "--samples", "1.5"], "--samples"),
        (["prune", "m", "o", "--solver", "best"], "--solver"),
        (["prune", "m"], "OUT"),
        (["shrink", "m"], "prune"),
    ],
)
def test_a_mistyped_command_line_ends_with_status_2(
    arguments: list[str], message: str, parsed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not parsed


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "MODEL", "OUT", "--ratio", "0.95"], "--ratio 0.95 is outside [0, 0.9]"),
        (["prune", "MODEL", "OUT", "--ratio", "nan"], "--ratio nan is outside [0, 0.9]"),
        (["prune", "MODEL", "OUT", "--ratio", "-1"], "--ratio -1.0 is outside [0, 0.9]"),
        (["prune", "MODEL", "OUT", "--recipe", "none.yaml"], "--recipe 'none.yaml' does not exist"),
        (["prune", "MODEL", "OUT", "--device", "tpu"], "--device 'tpu' is not one of auto, cpu, cuda, cuda:N, mps"),
        (["prune", "./none", "OUT"], "model './none' does not exist"),
        (["prune", "MODEL", "MODEL/out", "--seqlen", "64"], "is the model's own folder or inside it"),
        (["prune", "MODEL", "OUT", "--seqlen", "65"], "--seqlen 65 is beyond the model's context of 64 tokens"),
        (["prune", "MODEL", "OUT", "--seqlen", "64", "--calibration", "none.txt"], "none.txt"),
        (["prune", "MODEL", "OUT", "--seqlen", "64", "--calibration", "BINARY"], "binary"),
        (["prune", "MODEL", "OUT", "--seqlen", "64", "--calibration", "SHORT"], "1 windows of 64"),
        (["prune", "MODEL", "OUT", "--seqlen", "64", "--allocation", "none.yaml"], "--allocation 'none.yaml'"),
        (["eval", "MODEL", "--text", "none.txt"], "text 'none.txt' does not exist"),
        (["eval", "MODEL", "--text", "BINARY"], "is not UTF-8 (byte 0)"),
        (["eval", "MODEL", "--text", "EMPTY"], "is empty"),
        (["eval", "MODEL"], "nothing to measure: give --text FILE, --suite slimgpt or --tasks NAMES"),
        (["eval", "MODEL", "--text", "SHORT"], "--seqlen 128 is beyond the model's context of 64"),
        (["eval", "MODEL", "--text", "TINY", "--seqlen", "64"], "has 6 tokens, less than one window of 64"),
        (["eval", "MODEL", "--text", "SHORT", "--seqlen", "64", "--json", "SHORT"], "exists: choose another name"),
        (
            ["eval", "MODEL", "--text", "SHORT", "--seqlen", "64", "--json", "no/x.json"],
            "there is no folder no. Make it first",
        ),
        (["inspect", "MODEL", "--json", "no/x.json"], "there is no folder no. Make it first"),
        (["inspect", "./none"], "model './none' does not exist"),
        (["inspect", "SHORT"], "is a file, but not a .gguf file"),
        (["generate", "MODEL", ""], "the prompt is empty"),
        (["generate", "MODEL", "hi", "--temperature", "-1"], "--temperature -1.0 must be 0 or more"),
        (["generate", "./none", "hi"], "model './none' does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_leaves_nothing(
    arguments: list[str],
    message: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BINARY").write_bytes(b"\xff\x00\x01" * 100)
    (tmp_path / "EMPTY").write_bytes(b" \n")
    (tmp_path / "TINY").write_text("tokens")
    (tmp_path / "SHORT").write_text("too short. " * 10)
    before = listing(tmp_path), listing(model)
    status = run(*(argument.replace("MODEL", str(model)) for argument in arguments))
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.startswith("slimgpt: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
    assert (listing(tmp_path), listing(model)) == before


def listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_an_error_with_line_breaks_stays_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(config: object) -> None:
        from slimgpt.errors import ModelError

        raise ModelError("first\nsecond\n\nthird")

    run_instead(monkeypatch, refuse)
    assert run("inspect", "m") == 2
    assert capsys.readouterr().err == "slimgpt: error: first second  third\n"


def test_ctrl_c_says_how_to_resume(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    run_instead(monkeypatch, interrupted)
    assert run("prune", "m", "o") == 130
    assert "--resume" in capsys.readouterr().err
    assert run("inspect", "m") == 130
    assert "--resume" not in capsys.readouterr().err


def test_what_is_done_again_is_a_line_on_stderr_each_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def redo(config: Any) -> None:
        for _ in range(2):
            warnings.warn("a/layer.json is gone: layer 0 is pruned again.", DamageWarning, stacklevel=1)
        with pytest.warns(UserWarning, match="another"):
            warnings.warn("another", UserWarning, stacklevel=1)

    run_instead(monkeypatch, redo)
    assert run("inspect", "model") == 0
    assert capsys.readouterr().err == "slimgpt: a/layer.json is gone: layer 0 is pruned again.\n" * 2


# --- the commands at work --------------------------------------------------------------------------


def test_prune_prints_plan_and_result(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--ratio", 0.2, "--calibration", "builtin", "--samples", 4, "--seqlen", 32, "--round-to", 1]
    assert run("prune", model, out, *options) == 0
    shown = " ".join(capsys.readouterr().out.split())
    record = json.loads((out / "slimgpt.json").read_text())
    before, after = record["parameters"]["before"], record["parameters"]["after"]
    assert shown.index("Plan:") < shown.index(f"{before:,} → {after:,} parameters") < shown.index("Result")
    assert "(asked: --ratio 0.2)" in shown
    assert "Written to" in shown


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--samples", 4], True),
        (["--samples", 64], False),
        (["--samples", 4, "--solver", "wanda"], False),
        (["--samples", 4, "--solver", "wanda", "--repair", "True"], True),
        (["--samples", 4, "--ratio", 0], False),
    ],
)
def test_too_few_tokens_for_the_widths_are_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[Any], told: bool
) -> None:
    assert run("prune", model, tmp_path / "out", "--calibration", "builtin", "--seqlen", 32, *flags) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ("note: 128 calibration tokens are 1 for each of the 96 inputs of the widest projection" in shown) == told


def test_names_with_brackets_are_shown_as_they_are(model: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[red]model").symlink_to(model)
    assert run("inspect", "[red]model") == 0
    assert "[red]model: llama" in capsys.readouterr().out


def test_inspect_shows_and_writes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "i.json"
    assert run("inspect", model, "--json", target) == 0
    assert "llama" in capsys.readouterr().out
    found = json.loads(target.read_text())
    assert found["family"] == "llama"
    assert [layer["num_key_value_heads"] for layer in found["layers"]] == [3, 3, 3]
    parts = dict(found["parameters"])
    assert parts.pop("total") == sum(parts.values()) == sum(p.numel() for p in tiny_llama.make_model().parameters())


def test_eval_shows_and_writes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, target = tmp_path / "t.txt", tmp_path / "e.json"
    text.write_text("some text to read " * 40)
    assert run("eval", model, "--text", text, "--seqlen", 32, "--max-tokens", 128, "--json", target) == 0
    found = json.loads(target.read_text())
    how = found["configs"]["t@32"]
    assert (how["num_windows"], how["num_tokens"], how["seqlen"]) == (4, 4 * 31, 32)
    assert f"{found['results']['t@32']['perplexity,none']:.3f}" in capsys.readouterr().out


def test_generate_prints_the_answer_alone(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", model, "hello", "--max-new-tokens", 5) == 0
    captured = capsys.readouterr()
    assert not captured.out.startswith("hello")
    assert captured.err == ""


NO_PATHS = ("x" * 5000, "~nobody-of-that-name/x")
PLACES = (
    "prune PATH o",
    "prune MODEL PATH",
    "prune MODEL o --recipe PATH",
    "prune MODEL o --allocation PATH --solver magnitude",
    "prune MODEL o --calibration PATH --solver magnitude --seqlen 32",
    "prune MODEL o --search-cache PATH --calibration builtin --samples 2 --seqlen 32",
    "prune MODEL o --target-latency 0.7x --latency-table PATH --latency-prompt 8",
    "sparsify MODEL PATH --method magnitude",
    "drop MODEL PATH --layers 1",
    "search PATH",
    "recover MODEL o --data PATH",
    "recover MODEL PATH --data TEXT",
    "eval MODEL --text PATH",
    "eval MODEL --text TEXT --json PATH",
    "eval MODEL --tasks boolq --task-dir PATH",
    "bench MODEL --json PATH",
    "bench PATH",
    "inspect PATH",
    "inspect MODEL --json PATH",
    "generate PATH hello",
    "export MODEL PATH --format padded",
    "report PATH",
    "study PATH.yaml o",
)


@pytest.mark.parametrize("path", NO_PATHS, ids=["long", "nobody"])
@pytest.mark.parametrize("line", PLACES)
def test_paths_that_no_system_has(
    line: str,
    path: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever one can be named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("A word, and another. " * 200)
    arguments = line.replace("MODEL", str(model)).replace("TEXT", "text.txt").replace("PATH", path).split()
    assert run(*arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("slimgpt: ")]
    assert len(said) == 1 and said[0].startswith("slimgpt: error: ") and len(said[0]) < 700, said
