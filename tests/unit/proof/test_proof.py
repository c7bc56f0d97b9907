"""A finished folder that is not the model that was made gets no name, and the work in it is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
import torch
from safetensors.torch import load_file
from transformers import GenerationMixin

from slimgpt import PruneConfig, cli, prune
from slimgpt.config import DropConfig, ExportConfig, SparsifyConfig
from slimgpt.depth import drop
from slimgpt.errors import ProofError
from slimgpt.exports import export
from slimgpt.machine import host
from slimgpt.output import assembly
from slimgpt.proof import proving
from slimgpt.proof.agreement import agreement, coarsest
from slimgpt.proof.witness import Witness
from slimgpt.recovery import recover, save
from slimgpt.sparsity import sparsify

Tamper = Callable[[Path], object]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("proof") / "model")


@pytest.fixture(scope="module")
def pruned(model: Path) -> Path:
    return prune(options(model, model.parent / "pruned")).path


def options(model: Path, out: Path, **changes: Any) -> PruneConfig:
    return tiny_llama.prune_config(model, out, allocation="log", **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "slimgpt.json"}


# --- what is wrong, and how it is said -----------------------------------------------------------------


def weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Tamper:
    return lambda folder: tiny_llama.edit_weights(folder, edit)


def config(**changes: Any) -> Tamper:
    return lambda folder: tiny_llama.edit_config(folder, **changes)


def gone(name: str) -> Tamper:
    return lambda folder: (folder / name).unlink()


def another_tokenizer(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"a":', '"swapped":').replace('"b":', '"a":'))


def swapped(tensors: dict[str, torch.Tensor]) -> None:
    first, second = (f"model.layers.{index}.input_layernorm.weight" for index in (0, 1))
    tensors[first] += torch.rand(48)
    tensors[first], tensors[second] = tensors[second], tensors[first]


WRONG: dict[str, tuple[Tamper, str]] = {
    "a tensor renamed": (weights(lambda t: t.update({UP + "s": t.pop(UP)})), rf"1 tensors are missing, first {UP}"),
    "a tensor reshaped": (
        weights(lambda t: t.update({UP: t[UP][1:].contiguous()})),
        r"1 tensors do not have the shapes that config\.json says, first .*up_proj",
    ),
    "a tensor too many": (
        weights(lambda t: t.update(lost=torch.ones(1))),
        "1 tensors are none of the model's, first lost",
    ),
    "a tensor perturbed": (weights(lambda t: t[UP].mul_(1.1)), "logits of a window differ .*: largest difference of a"),
    "tensors swapped": (weights(swapped), "the logits of a window differ"),
    "a tensor not a number": (weights(lambda t: t[UP][:1].fill_(float("nan"))), "the logits of a window differ"),
    "another norm": (config(rms_norm_eps=1.0), "the logits of a window differ"),
    "another rope": (
        config(rope_parameters={"rope_type": "default", "rope_theta": 10.0}),
        "the logits of a window differ",
    ),
    "another activation": (config(hidden_act="relu"), "the logits of a window differ"),
    "an unknown activation": (config(hidden_act="unheard-of"), "it cannot be opened"),
    "another class": (
        config(architectures=["LlamaForCausalLM"]),
        "opens as SlimLlamaForCausalLM, but is LlamaForCausalLM",
    ),
    "a head of its own": (config(tie_word_embeddings=False), r"1 tensors are missing, first lm_head\.weight"),
    "no configuration": (gone("config.json"), "it cannot be opened"),
    "no weights": (gone("model.safetensors"), "it cannot be opened"),
    "no tokenizer": (gone("tokenizer.json"), "tokenizer"),
    "another tokenizer": (another_tokenizer, "its tokenizer is another one than the model's: it differs by its tokens"),
    "no chat template": (gone("chat_template.jinja"), "it differs by its chat template"),
    "no modelling file": (
        gone("modeling_slimgpt.py"),
        r"names modeling_slimgpt\.Slim.*, but modeling_slimgpt\.py is not",
    ),
    "another modelling file": (lambda folder: (folder / "modeling_slimgpt.py").write_text("pass"), "or not slimgpt's"),
    "broken settings": (lambda folder: (folder / "generation_config.json").write_text("{"), "it cannot be opened"),
}


@pytest.fixture
def tampered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tamper], None]:
    """What has been put together is changed before anybody looks at it."""

    def do(tamper: Tamper) -> None:
        for module, name in ((assembly, "add_the_rest"), (save, "_copy_the_rest")):
            done = getattr(module, name)

            def and_then(*given: Any, done: Any = done) -> None:
                done(*given)
                tamper(next(path for path in given if isinstance(path, Path) and path.name == "finished"))

            monkeypatch.setattr(module, name, and_then)

    return do


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found_and_said(
    model: Path, tmp_path: Path, tampered: Callable[[Tamper], None], what: str
) -> None:
    tamper, words = WRONG[what]
    tampered(tamper)
    with pytest.raises(ProofError, match=words) as refused:
        prune(options(model, tmp_path / "out"))
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'out.partial' / 'finished'} was to become the output, but is not the model")
    assert "the same command with --resume goes on from them. Please report this, with these versions: slimgpt " in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial" / "journal.json").is_file()


@pytest.mark.parametrize("what", ["a tensor perturbed", "another norm", "tensors swapped", "a tensor reshaped"])
def test_layer_by_layer_finds_it_too(
    model: Path, tmp_path: Path, tampered: Callable[[Tamper], None], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(proving, "_fits", lambda *given: False)
    tampered(WRONG[what][0])
    with pytest.raises(ProofError, match=WRONG[what][1]):
        prune(options(model, tmp_path / "out"))


def test_a_resumed_run_ends_as_an_undisturbed_one(
    model: Path, pruned: Path, tmp_path: Path, tampered: Callable[[Tamper], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context():
        tampered(WRONG["a tensor perturbed"][0])
        with pytest.raises(ProofError):
            prune(options(model, tmp_path / "out"))
        monkeypatch.undo()
    assert contents(prune(options(model, tmp_path / "out", resume=True)).path) == contents(pruned)
    assert not (tmp_path / "out.partial").exists()


def test_on_the_command_line_it_is_one_line_and_status_2(
    model: Path, tmp_path: Path, tampered: Callable[[Tamper], None], capsys: pytest.CaptureFixture[str]
) -> None:
    tampered(WRONG["a tensor perturbed"][0])
    assert cli.main(["sparsify", str(model), str(tmp_path / "out"), "--method=magnitude"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(said) == 1 and said[0].startswith("slimgpt: error: ")


def test_a_cache_that_says_something_else_is_found(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GenerationMixin, "generate", forgetful("Slim"))
    with pytest.raises(ProofError, match="the logits of generated tokens differ with a cache and without"):
        prune(options(model, tmp_path / "out"))


def test_a_cache_need_not_do_what_it_does_not_in_the_model_itself(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GenerationMixin, "generate", forgetful(""))
    made = prune(options(model, tmp_path / "out"))
    found = made.record["proof"]["differences"]
    assert found.keys() == {"logits", "source_cache"} and found["source_cache"] > 1e-3
    card = " ".join((made.path / "README.md").read_text().split())
    assert "generates from other logits than without, as the model that it was made from does" in card


def forgetful(classes: str) -> Callable[..., Any]:
    """``generate`` of classes whose names begin so, with a cache that mixes tokens up."""
    generate = GenerationMixin.generate

    def generated(self: Any, *given: Any, **more: Any) -> Any:
        made = generate(self, *given, **more)
        if type(self).__name__.startswith(classes):
            made.logits = tuple(logits.roll(1) for logits in made.logits)
        return made

    return generated


# --- every command -------------------------------------------------------------------------------------


def sparse(model: Path, pruned: Path, out: Path) -> Any:
    return sparsify(SparsifyConfig(str(model), str(out), method="magnitude"))


def sparse_by_text(model: Path, pruned: Path, out: Path) -> Any:
    calibration = {"calibration": "builtin", "samples": 4, "seqlen": 32}
    return sparsify(SparsifyConfig(str(pruned), str(out), method="wanda", rounds=2, schedule="linear", **calibration))


def shallower(model: Path, pruned: Path, out: Path) -> Any:
    return drop(DropConfig(str(pruned), str(out), layers=1, calibration="builtin", samples=4, seqlen=32))


def padded(model: Path, pruned: Path, out: Path) -> Any:
    return export(ExportConfig(str(pruned), str(out), format="padded"))


def smaller(model: Path, pruned: Path, out: Path) -> Any:
    return prune(options(model, out))


COMMANDS = {one.__name__: one for one in (smaller, sparse, sparse_by_text, shallower, padded)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_proves_and_says_so(model: Path, pruned: Path, tmp_path: Path, command: str) -> None:
    out = COMMANDS[command](model, pruned, tmp_path / "out").path
    proof = json.loads((out / "slimgpt.json").read_text())["proof"]
    assert proof["class"] == json.loads((out / "config.json").read_text())["architectures"][0]
    assert proof["tensors"] == len(load_file(out / "model.safetensors"))
    assert (proof["forward"], proof["dtype"], proof["tolerance"]) == ("whole", "float32", 1e-3)
    assert proof["tokens"] >= 32
    assert proof["differences"].keys() == {"logits", "cache"}
    assert max(proof["differences"].values()) < 1e-5
    card = out / "README.md"
    assert (
        not card.exists()
        or f"it was opened by transformers {_transformers()} as `{proof['class']}`" in card.read_text()
    )
    assert card.exists() or command == "padded"


@pytest.mark.parametrize(
    ("command", "named"),
    [("recovered", None), ("recovered", ["LlamaModel"]), ("sparse", None), ("shallower", ["LlamaModel"])],
)
def test_a_configuration_without_its_class_is_given_it(
    shop: Any, model: Path, tmp_path: Path, command: str, named: list[str] | None
) -> None:
    from recovery_shop import options as recovery_options

    nameless = Path(shutil.copytree(shop.dense if command == "recovered" else model, tmp_path / "nameless"))
    tiny_llama.edit_config(nameless, architectures=named)
    if command == "recovered":
        given = recovery_options(shop, tmp_path / "out", max_steps=1, warmup=0, eval_every=1)
        out = recover(replace(given, model=str(nameless))).path
    else:
        out = COMMANDS[command](nameless, nameless, tmp_path / "out").path
    record, settings = (json.loads((out / name).read_text()) for name in ("slimgpt.json", "config.json"))
    assert settings["architectures"] == [record["proof"]["class"]]


def _transformers() -> str:
    import transformers

    return transformers.__version__


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"smaller"}))
def test_what_cannot_be_resumed_is_left_for_a_look(
    model: Path, pruned: Path, tmp_path: Path, tampered: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    tampered(weights(lambda tensors: tensors["model.norm.weight"].mul_(1.5)))
    with pytest.raises(ProofError, match="It is left there for a look, until the next run"):
        COMMANDS[command](model, pruned, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial" / "finished" / "model.safetensors").is_file()
    monkeypatch.undo()
    COMMANDS[command](model, pruned, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_training_is_proved_and_kept(shop: Any, tmp_path: Path, tampered: Any, monkeypatch: Any, full: bool) -> None:
    from recovery_shop import options as recovery_options

    given = {"full": full, "max_steps": 2, "eval_every": 1}
    tampered(weights(lambda tensors: tensors["model.norm.weight"].mul_(1.5)))
    with pytest.raises(ProofError, match=r"What was trained is kept: the same command with --resume goes on from it"):
        recover(recovery_options(shop, tmp_path / "out", **given))
    monkeypatch.undo()
    resumed = recover(recovery_options(shop, tmp_path / "out", **given, resume=True))
    assert resumed.record["proof"]["differences"]["logits"] < 1e-5
    assert not (tmp_path / "out.partial").exists()
    assert "it was opened by transformers" in (resumed.path / "README.md").read_text()


# --- dtypes, sizes, memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("written", ["auto", "float16", "bfloat16"])
def test_rounding_is_allowed_for_and_no_more(tmp_path: Path, stored: str, written: str) -> None:
    model = tiny_llama.save_model(tmp_path / "model", dtype=getattr(torch, stored))
    proof = prune(options(model, tmp_path / "out", dtype=written)).record["proof"]
    rounded = coarsest(getattr(torch, stored), getattr(torch, stored if written == "auto" else written))
    assert proof["tolerance"] == {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}[str(rounded)[6:]]
    assert proof["differences"]["logits"] < proof["tolerance"] / 2


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "phi3", "qwen3_moe"])
def test_layer_by_layer_says_what_the_whole_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(proving, "_fits", lambda *given: False)
    model = tiny.save_model(tmp_path / "model", name)
    result = prune(options(model, tmp_path / "out", round_to=8))
    proof = result.record["proof"]
    assert proof["forward"] == "layer by layer"
    assert proof["differences"].keys() == {"logits"}
    assert proof["differences"]["logits"] < 1e-5
    card = (result.path / "README.md").read_text()
    assert "tokens (layer by layer, float32) are within 0.1%" in card
    assert "with a cache" not in card


def test_shards_are_proved_as_they_are(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimgpt.output.place.ONE_FILE_BYTES", 0)
    assert prune(options(model, tmp_path / "out")).record["proof"]["tensors"] == 29


MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "stored", "announced", "free", "whole"),
    [
        (100, torch.float16, 10, 4096, True),  # small models always
        (3000, torch.float16, 9000, 12000, True),  # the files, and their weights in float32
        (3000, torch.float16, 8999, 12000, False),  # more than was announced
        (3000, torch.float16, 9000, 8999, False),  # more than is free
        (3000, torch.float16, None, 18000, True),
        (3000, torch.float16, None, 17999, False),
        (3000, torch.float32, 3000, 9000, True),  # the files are the weights
        (3000, torch.float32, 2999, 9000, False),
    ],
)
def test_the_whole_model_is_opened_where_it_takes_no_more_than_was_announced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    stored: torch.dtype,
    announced: int | None,
    free: int,
    whole: bool,
) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(size * MIB)  # a hole: it takes no room
    monkeypatch.setattr(host, "free_bytes", lambda: free * MIB)
    cpu, nothing = torch.device("cpu"), torch.empty(0)
    witness = Witness(nothing, nothing, cpu, torch.float32, stored, torch.float32, tmp_path / "source")
    assert proving._fits(tmp_path, witness, None if announced is None else announced * MIB) == whole


def test_agreement_is_relative_to_the_range_of_logits() -> None:
    source = torch.tensor([[0.0, 10.0], [4.0, 2.0]])
    found = agreement(source, source + torch.tensor([[0.0, 1.0], [-3.0, 0.0]]))
    assert (found.difference, found.agreeing, found.positions) == (pytest.approx(0.3), 1, 2)
    assert str(found) == (
        "largest difference of a logit 30.00% of their range; the likeliest next token is the same at 1 of 2 positions"
    )
