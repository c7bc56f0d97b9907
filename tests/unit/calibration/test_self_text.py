"""Calibration on text that the model writes itself: repeatable, kept, from its own distribution, without data."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama
import torch

from slimgpt.calibration import generated_windows, self_text
from slimgpt.calibration.self_text import self_windows
from slimgpt.config import PruneConfig
from slimgpt.errors import CalibrationError, ConfigError
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.pruning.driver import prune
from slimgpt.pruning.observer import Observer

CPU = torch.device("cpu")
FIRST = list(range(256))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(tiny_llama.save_model(tmp_path_factory.mktemp("self") / "model")))


def windows(checkpoint: Checkpoint, seed: int = 0, notes: list[str] | None = None) -> torch.Tensor:
    note = notes.append if notes is not None else lambda text: None
    return self_windows(checkpoint, checkpoint.tokenizer(), CPU, 5, 12, seed, note)


def test_the_same_seed_gives_the_same_windows(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for run, seed in enumerate((0, 0, 1)):
        monkeypatch.setenv("SLIMGPT_CACHE", str(tmp_path / str(run)))  # none has the others' windows
        found.append(windows(checkpoint, seed))
    assert found[0].shape == (5, 12)
    assert found[0].dtype == torch.int64
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert len(set(found[0][:, 0].tolist())) > 1  # windows are about different things


def test_windows_are_kept(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMGPT_CACHE", str(tmp_path))
    notes: list[str] = []
    first = windows(checkpoint, notes=notes)
    assert notes == ["The model writes 5 windows of 12 tokens of calibration text; this is kept."]
    monkeypatch.setattr(self_text, "load_as", None)
    assert torch.equal(windows(checkpoint, notes=notes), first)
    assert len(notes) == 1


def test_tokens_come_as_often_as_the_model_says() -> None:
    """Second tokens of many windows that start alike, against the probabilities of one forward pass."""
    model = tiny_llama.make_model()
    drawn_BT = generated_windows(model, [65], num_windows=4000, seqlen=2, batch_size=4000, seed=0)
    expected_V = model(input_ids=torch.tensor([[65]])).logits[0, -1].softmax(-1)
    counts_V = torch.bincount(drawn_BT[:, 1], minlength=len(expected_V))
    spread_V = (4000 * expected_V * (1 - expected_V)).sqrt()
    assert bool(((counts_V - 4000 * expected_V).abs() <= 5 * spread_V + 1).all())


def test_later_tokens_see_the_earlier_ones() -> None:
    """A model that is all but certain of what comes next writes what a loop without a cache would."""
    model = tiny_llama.make_model()
    model.lm_head.weight.data *= 1000
    found_BT = generated_windows(model, [65, 66, 67], num_windows=3, seqlen=8, batch_size=3, seed=0)
    for window_T in found_BT:
        for end in range(1, 8):
            logits_V = model(input_ids=window_T[None, :end]).logits[0, -1]
            assert int(logits_V.argmax()) == int(window_T[end])


def test_windows_begin_with_what_stands_before_every_text() -> None:
    """The model reads it: what comes next is as likely as behind it."""
    model = tiny_llama.make_model()
    drawn_BT = generated_windows(model, [65], 4000, seqlen=3, batch_size=4000, seed=0, before=[256])
    assert (drawn_BT[:, :2] == torch.tensor([256, 65])).all()
    expected_V = model(input_ids=torch.tensor([[256, 65]])).logits[0, -1].softmax(-1)
    counts_V = torch.bincount(drawn_BT[:, 2], minlength=len(expected_V))
    spread_V = (4000 * expected_V * (1 - expected_V)).sqrt()
    assert bool(((counts_V - 4000 * expected_V).abs() <= 5 * spread_V + 1).all())


def test_batches_are_joined(checkpoint: Checkpoint) -> None:
    model = tiny_llama.make_model()
    found_BT = generated_windows(model, FIRST, num_windows=7, seqlen=4, batch_size=3, seed=0)
    whole_BT = generated_windows(model, FIRST, num_windows=7, seqlen=4, batch_size=7, seed=0)
    assert found_BT.shape == (7, 4)
    assert torch.equal(found_BT[:, 0], whole_BT[:, 0])


def test_a_window_starts_with_text(checkpoint: Checkpoint) -> None:
    tokens = self_text._first_tokens(checkpoint, checkpoint.tokenizer())
    special = checkpoint.tokenizer().all_special_ids
    assert special
    assert not set(tokens) & set(special)
    assert len(tokens) == 256


def test_keys_and_values_stay_within_their_room(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    window_bytes = 3 * 2 * 3 * 8 * 32 * 4  # layers, keys and values, KV heads, head_dim, tokens, float32
    monkeypatch.setattr(self_text, "CACHE_BYTES", 5 * window_bytes + 1)
    assert self_text._batch_size(checkpoint, torch.float32, seqlen=32) == 5
    monkeypatch.setattr(self_text, "CACHE_BYTES", 1)
    assert self_text._batch_size(checkpoint, torch.float32, seqlen=32) == 1


def test_a_damaged_model_writes_nothing() -> None:
    model = tiny_llama.make_model()
    model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(CalibrationError, match=r"calibration 'self': the model's logits are not finite"):
        generated_windows(model, FIRST, num_windows=2, seqlen=4, batch_size=2, seed=0)


def test_a_model_that_does_not_fit_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMGPT_CACHE", str(tmp_path))
    monkeypatch.setattr(self_text, "CACHE_BYTES", 1 << 50)
    with pytest.raises(ConfigError, match=r"--calibration self loads the model as a whole, about .* GiB are free"):
        windows(checkpoint)


def test_a_run_needs_no_text(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimgpt.calibration.cache.windows", None)  # nobody reads a source

    class Watcher(Observer):
        notes: tuple[str, ...] = ()

        def preparing(self, what: str) -> None:
            self.notes += (what,)

    def config(out: str) -> PruneConfig:
        options = {"calibration": "self", "samples": 4, "allocation": "searched"}
        return tiny_llama.prune_config(Path(checkpoint.source), tmp_path / out, **options)

    watcher = Watcher()
    first, again = prune(config("a"), watcher), prune(config("b"))
    assert watcher.notes == ("The model writes 4 windows of 32 tokens of calibration text; this is kept.",)
    assert first.record["fingerprint"]["calibration"] == again.record["fingerprint"]["calibration"]
    assert (first.path / tiny_llama.WEIGHTS).read_bytes() == (again.path / tiny_llama.WEIGHTS).read_bytes()
