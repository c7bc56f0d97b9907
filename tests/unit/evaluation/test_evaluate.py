"""One evaluation from options to files: the harness's schema, what is kept beside a run, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import task_rows
import tiny_llama

from slimgpt import cli, prune
from slimgpt.config import EvalConfig
from slimgpt.errors import CalibrationError, ConfigError, ModelError
from slimgpt.evaluation import EvalObserver, evaluate, perplexity, results, suite
from slimgpt.model.loading import load_model
from slimgpt.output import measurements

TEXT = "Plain words, and then some more of them; numbers 123.\nA second line that goes on for a while.\n" * 12
NUM_ROWS = 6

needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("evaluate")
    (place / "wiki.txt").write_text(TEXT)
    (place / "rows").mkdir()
    assert dict(task_rows.all_tasks(place / "rows", suite.METRICS, NUM_ROWS))
    tiny_llama.save_model(place / "dense", max_position_embeddings=256)
    prune(tiny_llama.prune_config(place / "dense", place / "pruned"))
    return place


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """A run folder of the test's own."""
    return Path(shutil.copytree(place / "pruned", tmp_path / "run"))


def config(model: Path, **changes: Any) -> EvalConfig:
    return EvalConfig(str(model), **{"seqlen": (16, 64), "device": "cpu", **changes})


def on_text(place: Path, model: Path, **changes: Any) -> EvalConfig:
    return config(model, text=str(place / "wiki.txt"), **changes)


def on_suite(place: Path, model: Path, **changes: Any) -> EvalConfig:
    return config(model, suite="slimgpt", task_data=str(place / "rows"), **changes)


# --- results -----------------------------------------------------------------------------------------


def test_every_window_has_an_entry_with_its_conditions(place: Path) -> None:
    found = evaluate(on_text(place, place / "pruned", stride=8, bos="always")).found
    assert list(found["results"]) == ["wiki@16", "wiki@64"]
    model, tokenizer = load_model(str(place / "pruned"), "cpu")
    for seqlen in (16, 64):
        alone = perplexity(model, tokenizer, TEXT, seqlen, stride=8, bos="always")
        entry, how = found["results"][f"wiki@{seqlen}"], found["configs"][f"wiki@{seqlen}"]
        assert entry["perplexity,none"] == pytest.approx(alone.perplexity, rel=1e-9)
        assert entry["nll_per_token_stderr,none"] == pytest.approx(alone.standard_error, rel=1e-9)
        assert entry["bits_per_byte_stderr,none"] == pytest.approx(alone.bits_per_byte_error, rel=1e-9)
        assert (how["stride"], how["bos"], how["num_tokens"]) == (8, "always", alone.num_tokens)
    assert found["parameters"] == json.loads((place / "pruned" / "slimgpt.json").read_text())["parameters"]["after"]
    assert (found["kind"], found["schema"], found["config"]["dtype"]) == ("eval", 1, "float32")


@needs_harness
def test_the_harness_reads_the_results_as_its_own(place: Path) -> None:
    from lm_eval.utils import make_table

    found = evaluate(on_suite(place, place / "pruned", text=str(place / "wiki.txt"))).found
    assert set(found["results"]) == {"wiki@16", "wiki@64", *suite.METRICS, "slimgpt"}
    mean = suite.mean(found["results"])
    assert found["results"]["slimgpt"] == mean
    assert found["n-samples"]["slimgpt"] == {"original": 7 * NUM_ROWS, "effective": 7 * NUM_ROWS}
    table = make_table(found)
    assert f"{mean['acc,none']:.4f}" in table
    assert "bits_per_byte" in table


@needs_harness
def test_two_evaluations_are_equal(place: Path) -> None:
    options = on_suite(place, place / "pruned", text=str(place / "wiki.txt"))
    first, second = (evaluate(options).found for _ in range(2))
    first.pop("date"), second.pop("date")
    assert first == second


@needs_harness
def test_tasks_need_no_text(place: Path) -> None:
    found = evaluate(config(place / "pruned", tasks=("boolq",), task_data=str(place / "rows"), limit=3)).found
    assert set(found["results"]) == {"boolq"}
    assert (found["n-samples"]["boolq"]["effective"], found["config"]["limit"]) == (3, 3)


def test_progress_names_stages_and_counts_tokens(place: Path) -> None:
    stages, counts = [], []

    class Heard(EvalObserver):
        def stage(self, name: str, num_tokens: int | None = None) -> None:
            stages.append((name, num_tokens))

        def tokens(self, count: int) -> None:
            counts.append(count)

    evaluate(on_text(place, place / "pruned"), Heard())
    totals = {name: tokens for name, tokens in stages if tokens}
    assert list(totals) == ["perplexity, wiki@16", "perplexity, wiki@64"]
    assert sum(counts) == sum(totals.values())


def test_tokenizers_are_told_apart() -> None:
    plain, other = tiny_llama.make_tokenizer(), tiny_llama.make_tokenizer()
    assert results.tokenizer_hash(plain) == results.tokenizer_hash(other)
    other.add_tokens(["numbers"])
    assert results.tokenizer_hash(plain) != results.tokenizer_hash(other)


# --- what is kept beside a run -----------------------------------------------------------------------


def test_a_record_keeps_what_was_measured_before(place: Path, run: Path) -> None:
    evaluate(on_text(place, run, seqlen=(16,), record=True))
    first = measurements.read(run)["eval"]
    evaluate(on_text(place, run, seqlen=(64,), record=True))
    both = measurements.read(run)["eval"]
    assert list(both["results"]) == ["wiki@16", "wiki@64"]
    assert both["results"]["wiki@16"] == first["results"]["wiki@16"]
    assert set(both["configs"]) == {"wiki@16", "wiki@64"}


def test_the_card_carries_the_figures_now_and_later(place: Path, run: Path) -> None:
    evaluate(on_text(place, run, record=True, against=str(place / "dense")))
    found = measurements.read(run)
    card = (run / "README.md").read_text()
    entry = found["eval"]["results"]["wiki@16"]
    assert f"| wiki@16 | {entry['perplexity,none']:,.2f} ± {entry['perplexity_stderr,none']:.2f} |" in card
    assert f"{found['compare']['kl_nats_per_token']:.4f} nats a token" in card
    assert "| shuffled-words |" in card
    (run / "README.md").unlink()
    measurements.renew_card(run)
    assert (run / "README.md").read_text() == card


@needs_harness
def test_the_card_has_tasks(place: Path, run: Path) -> None:
    evaluate(on_suite(place, run, record=True))
    mean = measurements.read(run)["eval"]["results"]["slimgpt"]
    row = f"| slimgpt | {mean['acc,none']:.3f} ± {mean['acc_stderr,none']:.3f} | – | {7 * NUM_ROWS} |"
    assert row in (run / "README.md").read_text()


def test_a_card_without_measurements_has_no_such_sections(place: Path) -> None:
    card = (place / "pruned" / "README.md").read_text()
    assert "## How to load it" in card
    assert not {"## Perplexity", "## Tasks", "## Speed"} & set(card.splitlines())


def evaluation_of(**entries: float) -> dict[str, Any]:
    parts: dict[str, Any] = {part: dict.fromkeys(entries, 1) for part in results.BY_NAME}
    return {**parts, "results": entries, "parameters": 5, "tokenizer": "t"}


def test_merging_replaces_what_was_measured_again() -> None:
    found = results.merge(evaluation_of(a=1, b=2), evaluation_of(b=3, c=4))
    assert found["results"] == {"a": 1, "b": 3, "c": 4}


def test_merging_drops_a_mean_of_other_figures() -> None:
    before = evaluation_of(boolq=1, slimgpt=2, wiki=3)
    assert results.merge(before, evaluation_of(boolq=9))["results"] == {"boolq": 9, "wiki": 3}
    assert results.merge(before, evaluation_of(other=9))["results"]["slimgpt"] == 2


@pytest.mark.parametrize("change", [{"parameters": 6}, {"tokenizer": "other"}])
def test_figures_of_another_model_are_not_merged(change: dict[str, Any]) -> None:
    assert results.merge({**evaluation_of(a=1), **change}, evaluation_of(b=2))["results"] == {"b": 2}
    assert results.merge(None, evaluation_of(b=2))["results"] == {"b": 2}


# --- bad input ---------------------------------------------------------------------------------------


def test_a_folder_without_a_record_keeps_nothing(place: Path) -> None:
    with pytest.raises(
        ModelError, match=r"holds no slimgpt.json, so it is not the folder of a run .* with --json FILE"
    ):
        evaluate(on_text(place, place / "dense", record=True))
    assert not (place / "dense" / "measured").exists()


def test_a_damaged_measurement_is_named(place: Path, run: Path) -> None:
    (run / "measured").mkdir()
    (run / "measured" / "eval.json").write_text("{")
    with pytest.raises(ModelError, match=r"eval.json is damaged .*: remove it, and measure again"):
        evaluate(on_text(place, run, record=True))


def test_a_text_shorter_than_the_longest_window_is_refused_before_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimgpt.evaluation.run.load_model", None)
    (tmp_path / "short.txt").write_text("twenty-six tokens of text.")
    with pytest.raises(CalibrationError, match="has 26 tokens, less than one window of 64"):
        evaluate(config(place / "pruned", text=str(tmp_path / "short.txt")))


@needs_harness
def test_unknown_tasks_are_refused_before_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimgpt.evaluation.run.load_model", None)
    with pytest.raises(ConfigError, match="nobody knows a task 'bolq'; did you mean 'boolq'"):
        evaluate(config(place / "pruned", tasks=("bolq",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to measure: give --text FILE, --suite slimgpt or --tasks NAMES"),
        ({"text": "t", "seqlen": ()}, "--seqlen needs one number or more"),
        ({"text": "t", "seqlen": (64, 1)}, "--seqlen 1 must be 2 or more"),
        ({"text": "t", "stride": 17}, "--stride 17 is more than the shortest --seqlen 16, which would skip text"),
        ({"text": "t", "max_tokens": 63}, "--max-tokens 63 must be 64 or more"),
        ({"text": "t", "limit": 3}, "--limit 3 is for tasks: add --suite slimgpt or --tasks NAMES"),
        ({"text": "t", "task_data": "d"}, "--task-data d is for tasks"),
        ({"suite": "slimgpt", "against": "m"}, "--against m compares on a text: add --text FILE"),
        ({"text": "t", "compare_json": "c"}, "--compare-json c is for a comparison: add --against MODEL"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(Path("model"), **options).check()
    assert message in str(refused.value)


# --- the command -------------------------------------------------------------------------------------


def show(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["eval", *map(str, arguments), "--device", "cpu"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_command_says_how_it_measured(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [place / "pruned", "--text", place / "wiki.txt", "--seqlen", 16, 64]
    plain = show(capsys, *options)
    assert "Windows do not overlap; no beginning-of-sequence token was added" in plain
    assert "± is one standard error over the predicted tokens" in plain
    overlapping = show(capsys, *options, "--stride", 8, "--bos", "always")
    assert "Windows start every 8 tokens, and only new tokens count" in overlapping
    assert "each starts with a beginning-of-sequence token" in overlapping


def test_the_command_compares_and_writes(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--text", place / "wiki.txt", "--seqlen", 64, "--against", place / "dense"]
    files = ["--json", tmp_path / "eval.json", "--compare-json", tmp_path / "compare.json"]
    shown = show(capsys, place / "pruned", *options, *files)
    found, comparison = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("eval", "compare"))
    assert f"{found['results']['wiki@64']['perplexity,none']:,.3f}" in shown
    assert f"{comparison['kl_nats_per_token']:.4f} nats a token" in shown
    assert "Similarity of the layers' outputs (linear CKA, 1 is equal)" in shown
    assert cli.main(["eval", str(place / "pruned"), *map(str, options + files[2:])]) == 2
    assert "--compare-json" in capsys.readouterr().err


@needs_harness
def test_the_command_shows_tasks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = show(capsys, place / "pruned", "--suite", "slimgpt", "--task-data", place / "rows", "--limit", 2)
    assert "boolq" in shown
    assert "Only the first 2 rows of each task, so this is no figure to publish" in shown


@needs_harness
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "bolq"], "nobody knows a task 'bolq'"),
        (["--suite", "slimgpt", "--task-data", "none"], "--task-data 'none' is not a folder"),
        (["--text", "WIKI", "--record"], "holds no slimgpt.json"),
    ],
)
def test_what_is_refused_is_one_line(
    place: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(place / "wiki.txt") if option == "WIKI" else option for option in options]
    assert cli.main(["eval", str(place / "dense"), *arguments, "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
