"""Calibration text of several kinds by weight: how many windows each gives, and in what order."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama
import torch

from slimgpt import PruneConfig, SparsifyConfig, open_checkpoint, prune
from slimgpt.calibration import asked_windows, cached_windows, fingerprint
from slimgpt.calibration.mixture import mixed, names, shares
from slimgpt.calibration.self_text import self_windows
from slimgpt.efforts.table import Stages
from slimgpt.errors import CalibrationError, ConfigError


@pytest.mark.parametrize(
    ("text", "num_windows", "expected"),
    [
        ("c4", 8, [("c4", 8)]),
        ("owner/name:0", 8, [("owner/name:0", 8)]),
        ("a,b.txt", 8, [("a,b.txt", 8)]),
        ("c4:0.5,self:0.5", 8, [("c4", 4), ("self", 4)]),
        ("c4:3, chats.jsonl:1", 8, [("c4", 6), ("chats.jsonl", 2)]),
        ("owner/name:config:1,self:1,c4:1", 8, [("owner/name:config", 3), ("self", 3), ("c4", 2)]),
        ("c4:.9,self:.1", 4, None),
    ],
)
def test_weights_share_out_the_windows(text: str, num_windows: int, expected: list[tuple[str, int]] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="of 4 windows 'self' gets none: raise --samples"):
            shares(text, num_windows)
        return
    assert shares(text, num_windows) == expected
    assert names(text) == [name for name, _ in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c4:0.5,self", "'self' has no weight above 0: write c4:0.5,text.jsonl:0.5"),
        ("c4:0,self:1", "'c4:0' has no weight above 0"),
        ("c4:1,self:99999999999", "'self:99999999999' has no weight above 0"),
        ("c4:1,c4:2", "names a text twice: add up its weights"),
    ],
)
def test_what_is_not_well_said_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shares(text, 8)


def test_a_file_whose_name_looks_like_a_mixture_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:1,b:2").write_text("text")
    assert shares("a:1,b:2", 3) == [("a:1,b:2", 3)]


def test_windows_are_those_of_each_text_in_an_order_by_chance(tmp_path: Path) -> None:
    tokenizer, files = tiny_llama.make_tokenizer(), [tmp_path / "x.txt", tmp_path / "y.txt"]
    for file in files:
        file.write_text(file.stem * 4000)
    config = SparsifyConfig("model", "out", calibration=f"{files[0]}:3,{files[1]}:1", samples=16, seqlen=20)
    windows_BT = asked_windows(config, tokenizer, seed=0)
    parts = [cached_windows(str(file), tokenizer, count, 20, 0) for file, count in zip(files, (12, 4), strict=True)]
    assert sorted(windows_BT.tolist()) == sorted(torch.cat(parts).tolist())
    kinds = windows_BT[:, 5].tolist()
    assert len(set(kinds[:8])) == 2  # a search reads the first half
    assert torch.equal(asked_windows(config, tokenizer, seed=0), windows_BT)
    assert torch.equal(mixed(parts[:1], seed=0), parts[0])
    other = SparsifyConfig("model", "out", calibration=f"{files[0]}:1,self:1", samples=4, seqlen=20)
    with pytest.raises(CalibrationError, match="calibration file 'self' does not exist"):
        asked_windows(other, tokenizer, seed=0)


def test_a_model_s_own_text_may_be_a_part(tmp_path: Path) -> None:
    model = tiny_llama.save_model(tmp_path / "model")
    options = {"calibration": "builtin:0.5,self:0.5", "allocation": "log", "samples": 4}
    record = prune(tiny_llama.prune_config(model, tmp_path / "out", **options)).record
    assert "4 windows of 32 tokens of `builtin:0.5,self:0.5`" in (tmp_path / "out" / "README.md").read_text()
    own = self_windows(open_checkpoint(str(model)), tiny_llama.make_tokenizer(), torch.device("cpu"), 2, 32, 0, print)
    text = cached_windows("builtin", tiny_llama.make_tokenizer(), 2, 32, 0)
    assert record["fingerprint"]["calibration"] == fingerprint(mixed([text, own], seed=0))


def test_an_effort_knows_a_part_that_a_later_step_would_write_anew() -> None:
    config = PruneConfig("dense", "out", effort="high", ratio=0.5, calibration="c4:1,self:1")
    assert Stages(config, 0.5, Path("work"), Path("text"), {}).num_prunings == 1
