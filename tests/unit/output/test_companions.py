"""What travels with a model's weights through every command that writes one, and what never does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_llama
from recovery_shop import SETTINGS, sentences

from slimgpt import prune
from slimgpt.config import DropConfig, ExportConfig, RecoverConfig, SparsifyConfig
from slimgpt.depth import drop
from slimgpt.exports import export
from slimgpt.output.companions import companions, copy_companions
from slimgpt.recovery import recover
from slimgpt.sparsity import sparsify

TRAVEL = {
    "LICENSE": "Be kind.",
    "LICENCE.txt": "Be kind, in English.",
    "NOTICE.md": "Of whom.",
    "Model_USE_POLICY.md": "Only for good.",
    "tokenizer.model": "\n\x0e\n\x05<unk>",
    "vocab.json": "{}",
    "merges.txt": "#version: 0.2",
    "modules.json": "[]",
    "sentence_bert_config.json": "{}",
    "config_sentence_transformers.json": "{}",
    "1_Pooling/config.json": "{}",
    "tool_use.jinja": "{{ tools }}",
    "additional_chat_templates/rag.jinja": "{{ documents }}",
}
STAY = {
    "pytorch_model.bin": "weights",
    "2_Dense/model.safetensors": "weights",
    "adapter_model.safetensors": "weights",
    "LICENSE.py": "print()",
    "notice.pkl": "pickle",
    "handler.py": "print()",
    "1_Pooling/pooling.py": "print()",
    "training_args.bin": "pickle",
    "optimizer.pt": "pickle",
    "notes.txt": "mine",
    "deep/er/LICENSE": "of something else",
}
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2}
TEXT = {"calibration": "builtin", "samples": 2, "seqlen": 16, "device": "cpu"}


def fill(folder: Path) -> None:
    for name, content in {**TRAVEL, **STAY}.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(content)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an older kind: sampling defaults are in config.json, and all sorts of files lie around."""
    folder = tiny_llama.save_model(tmp_path_factory.mktemp("companions") / "model")
    (folder / "generation_config.json").unlink()
    tiny_llama.edit_config(folder, **SAMPLING)
    fill(folder)
    outside = folder.parent / "outside.txt"
    outside.write_text("secret")
    (folder / "LICENSE-LINK").symlink_to(outside)
    (folder / "NOTICE-LINK").symlink_to(folder / "NOTICE.md")
    os.mkfifo(folder / "LICENSE-PIPE")
    return folder


def _prune(model: Path, out: Path) -> None:
    prune(tiny_llama.prune_config(model, out, samples=2, seqlen=16, allocation="log"))


def _sparsify(model: Path, out: Path) -> None:
    sparsify(SparsifyConfig(str(model), str(out), method="magnitude", **TEXT))


def _drop(model: Path, out: Path) -> None:
    drop(DropConfig(str(model), str(out), layers=1, **TEXT))


def _pad(model: Path, out: Path) -> None:
    export(ExportConfig(str(model), str(out), format="padded"))


def _recover(model: Path, out: Path) -> None:
    data = out.parent / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(0, 20)))
    recover(RecoverConfig(str(model), str(out), str(data), **{**SETTINGS, "max_steps": 2, "keep": "last"}))


@pytest.mark.parametrize("command", [_prune, _sparsify, _drop, _pad, _recover])
def test_every_command_takes_along_what_travels(
    model: Path, tmp_path: Path, command: Callable[[Path, Path], None]
) -> None:
    out = tmp_path / "out"
    command(model, out)
    assert {name: (out / name).read_text() for name in TRAVEL} == TRAVEL
    assert (out / "NOTICE-LINK").read_text() == TRAVEL["NOTICE.md"] and not (out / "NOTICE-LINK").is_symlink()
    assert not [name for name in [*STAY, "LICENSE-LINK", "LICENSE-PIPE"] if (out / name).exists()]
    generation = json.loads((out / "generation_config.json").read_text())
    assert {name: generation.get(name) for name in SAMPLING} == SAMPLING


def test_a_stored_generation_config_wins_over_config_json(model: Path, tmp_path: Path) -> None:
    """As in transformers."""
    folder = tiny_llama.save_model(tmp_path / "model")
    tiny_llama.edit_config(folder, **SAMPLING)
    _prune(folder, tmp_path / "out")
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["max_new_tokens"] == 7 and "temperature" not in generation


def test_what_is_there_already_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from" / "vocab.json").write_text("old")
    (tmp_path / "to" / "vocab.json").write_text("new")
    copy_companions(tmp_path / "from", tmp_path / "to")
    assert (tmp_path / "to" / "vocab.json").read_text() == "new"
    copy_companions(tmp_path / "from", tmp_path / "to", replace=True)
    assert (tmp_path / "to" / "vocab.json").read_text() == "old"
    copy_companions(tmp_path / "from" / "model.gguf", tmp_path / "to")  # a file has nothing beside it


def test_snapshots_of_the_hub_are_links_to_blobs_and_travel(tmp_path: Path) -> None:
    """And links of a folder that merely looks like one lead nowhere else."""
    repo = tmp_path / "models--me--it"
    snapshot = repo / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "abc").write_text("Be kind.")
    (repo / "refs").write_text("secret")
    (snapshot / "LICENSE").symlink_to("../../blobs/abc")
    (snapshot / "NOTICE").symlink_to("../../refs")
    assert companions(snapshot) == [Path("LICENSE")]
