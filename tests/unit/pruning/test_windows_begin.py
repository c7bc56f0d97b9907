"""A model that needs the beginning-of-sequence token is calibrated with it: measured, said, recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import needy
import pytest
import tiny_llama

from slimgpt import cli, load_model
from slimgpt.calibration import fingerprint, windows
from slimgpt.config import DropConfig, EvalConfig, SparsifyConfig
from slimgpt.depth import drop
from slimgpt.evaluation import evaluate, perplexity
from slimgpt.pruning.driver import prune
from slimgpt.pruning.observer import Observer
from slimgpt.pruning.prepare import prepare
from slimgpt.sparsity import sparsify
from slimgpt.streaming.observer import StreamObserver

TEXT = needy.prose(9, 800)
SIZES = {"samples": 32, "seqlen": needy.SEQLEN, "device": "cpu"}


class Needy:
    """The model, its calibration text, and what commands make of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = needy.save_model(folder / "model")
        self.text = needy.write_text(folder / "calibration.jsonl", 5)
        self.notes: dict[str, list[str]] = {}

    def made(self, command: str, bos: str, **options: Any) -> Path:
        """What a command makes with ``--bos``; once."""
        out = self.folder / f"{command}-{bos}-{'-'.join(map(str, options.values()))}"
        if not out.exists():
            self.notes[out.name] = []
            MAKE[command](self, out, self.notes[out.name], bos=bos, **options)
        return out


def _prune(own: Needy, out: Path, notes: list[str], **options: Any) -> None:
    watching = Observer()
    watching.said = notes.append  # type: ignore[method-assign]
    given = {"ratio": 0.3, "calibration": str(own.text), **SIZES, **options}
    prune(tiny_llama.prune_config(own.model, out, **given), watching)


def _sparsify(own: Needy, out: Path, notes: list[str], **options: Any) -> None:
    watching = StreamObserver()
    watching.said = notes.append  # type: ignore[method-assign]
    config = SparsifyConfig(str(own.model), str(out), sparsity=0.6, calibration=str(own.text), **SIZES, **options)
    sparsify(config, watching)


def _drop(own: Needy, out: Path, notes: list[str], **options: Any) -> None:
    watching = StreamObserver()
    watching.said = notes.append  # type: ignore[method-assign]
    drop(DropConfig(str(own.model), str(out), layers=1, calibration=str(own.text), **SIZES, **options), watching)


MAKE = {"prune": _prune, "sparsify": _sparsify, "drop": _drop}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Needy:
    return Needy(tmp_path_factory.mktemp("needy"))


def loss(folder: Path, bos: str = "auto") -> float:
    model, tokenizer = load_model(str(folder), "cpu")
    return perplexity(model, tokenizer, TEXT, needy.SEQLEN, bos=bos).nll_per_token


def test_the_model_needs_the_token(own: Needy) -> None:
    assert loss(own.model) < 0.5 * loss(own.model, "never")


@pytest.mark.parametrize("command", ["prune", "sparsify"])
def test_a_model_that_needs_the_token_is_better_calibrated_with_it(own: Needy, command: str) -> None:
    assert loss(own.made(command, "auto")) < loss(own.made(command, "never")) - 0.2


@pytest.mark.parametrize("allocation", ["log", "flap"])
def test_so_it_is_with_other_solvers_and_allocations(own: Needy, allocation: str) -> None:
    with_it, without = (own.made("prune", bos, solver="slimgpt", allocation=allocation) for bos in ("auto", "never"))
    assert loss(with_it) < loss(without) - 0.2


@pytest.mark.parametrize("command", MAKE)
def test_the_record_and_the_card_say_which_it_was(own: Needy, command: str) -> None:
    for bos, token in (("auto", "<s>"), ("always", "<s>"), ("never", None)):
        out = own.made(command, bos)
        record = json.loads((out / "slimgpt.json").read_text())
        assert (record["bos"], record["options"]["bos"]) == (token, bos)
        assert ("each beginning with `<s>`" in (out / "README.md").read_text()) == (token is not None)


@pytest.mark.parametrize("command", MAKE)
def test_a_note_says_where_the_other_way_is_much_better(own: Needy, command: str) -> None:
    assert not own.notes[own.made(command, "auto").name]
    [note] = own.notes[own.made(command, "never").name]
    assert note.startswith("note: behind <s> this model's loss on the text is ")
    assert note.endswith(" as it is read now: consider --bos always.")


def test_the_command_line_says_it_in_plan_and_note(
    own: Needy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--calibration", own.text, "--samples", 4, "--seqlen", needy.SEQLEN, "--device", "cpu"]
    for bos, said in (("auto", "each beginning with <s>"), ("never", "with no beginning-of-sequence token")):
        command = ["prune", own.model, tmp_path / bos, *given, "--allocation", "log", "--bos", bos]
        assert cli.main(list(map(str, command))) == 0
        shown = capsys.readouterr()
        assert said in " ".join(shown.out.split())
        assert ("consider --bos always" in " ".join(shown.err.split())) == (bos == "never")


def test_the_same_windows_make_the_same_run_whatever_was_said(own: Needy, tmp_path: Path) -> None:
    """``auto`` and ``always`` are one run to a resume, and ``never`` is another."""
    found = {}
    for bos in ("auto", "always", "never"):
        config = tiny_llama.prune_config(
            own.model, tmp_path / bos, bos=bos, calibration=str(own.text), allocation="log"
        )
        job = prepare(config)
        job.place.close()
        found[bos] = job.fingerprint
        first = [256] if bos != "never" else []
        expected = windows(str(own.text), job.tokenizer, config.samples, config.seqlen, 0, first)
        assert job.fingerprint["calibration"] == fingerprint(expected) == fingerprint(job.windows_BT)
    assert found["auto"] == found["always"] != found["never"]


def test_evaluation_reads_as_the_tokenizer_has_it_and_says_so(
    own: Needy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "held-out.txt").write_text(TEXT)
    given = ["--text", tmp_path / "held-out.txt", "--seqlen", needy.SEQLEN, "--device", "cpu"]
    shown = {}
    for bos in ("auto", "never"):
        out = tmp_path / f"{bos}.json"
        assert cli.main(list(map(str, ["eval", own.model, *given, "--bos", bos, "--json", out]))) == 0
        shown[bos] = capsys.readouterr()
        found = json.loads(out.read_text())
        entry, how = (found[part][f"held-out@{needy.SEQLEN}"] for part in ("results", "configs"))
        assert entry["nll_per_token,none"] == pytest.approx(loss(own.model, bos))
        assert how["bos"] == found["config"]["bos"] == {"auto": "always", "never": "never"}[bos]
    assert "each starts with a beginning-of-sequence token" in " ".join(shown["auto"].out.split())
    assert "consider --bos always" in " ".join(shown["never"].err.split()) and "note" not in shown["auto"].err


def test_a_comparison_reads_both_models_so(own: Needy, tmp_path: Path) -> None:
    """Of the uncorrupted text, bits per byte are those of the perplexity."""
    (tmp_path / "held-out.txt").write_text(TEXT)
    smaller = own.made("prune", "auto")
    config = EvalConfig(
        str(smaller), text=str(tmp_path / "held-out.txt"), seqlen=(needy.SEQLEN,), against=str(own.model), device="cpu"
    )
    comparison = evaluate(config).comparison
    assert comparison is not None
    plain = comparison["robustness"][0]
    for key, folder in (("model", smaller), ("against", own.model)):
        assert plain[f"{key}_bits_per_byte"] == pytest.approx(loss(folder) / math.log(2), rel=0.02)
