"""slimgpt trim: what stays is what it was, any text is still written, and bad input."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
import worded
from gguf import GGUFReader
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from slimgpt import EvalConfig, ExportConfig, TrimConfig, cli, evaluate, export, prune, trim
from slimgpt.errors import CalibrationError, ConfigError, ModelError, OutputError
from slimgpt.vocabulary.counting import weighed

TEXT = "the river runs over stones, the river runs under bridges 12\n\nthe letters"
KEEP = {"byte level": 350, "whole words": 350, "characters": 400}


@dataclasses.dataclass(frozen=True)
class Trimmed:
    """A model, what became of it, and the record."""

    model: Path
    out: Path
    record: dict[str, Any]

    def opened(self) -> list[tuple[Any, Any]]:
        """Model and tokenizer of both."""
        return [
            (AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path))
            for path in (self.model, self.out)
        ]


@pytest.fixture(scope="module", params=worded.KINDS)
def trimmed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trimmed:
    """Tied where tokens are bytes, else untied."""
    folder = tmp_path_factory.mktemp("trim")
    tied = request.param == "byte level"
    model = worded.save_model(folder / "model", request.param, tie_word_embeddings=tied)
    return run(model, folder, keep=KEEP[request.param])


def run(model: Path, folder: Path, said: str = TEXT, **options: Any) -> Trimmed:
    (folder / "text.txt").write_text(said)
    asked = options or {"keep": 400}
    given = {"text": (str(folder / "text.txt"),), **asked}
    done = trim(TrimConfig(str(model), str(folder / "out"), **given))
    return Trimmed(model, done.path, json.loads((done.path / "slimgpt.json").read_text()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worded.save_model(tmp_path_factory.mktemp("trim") / "model", "byte level")


# --- the tokenizer ----------------------------------------------------------------------------------


def test_any_text_is_written_and_read_as_before(trimmed: Trimmed) -> None:
    before, after = (AutoTokenizer.from_pretrained(path) for path in (trimmed.model, trimmed.out))
    assert len(after) < len(before)
    some = worded.texts(400)
    old, new = (tokenizer(some)["input_ids"] for tokenizer in (before, after))
    assert all(max(ids) < len(after) and ids[0] == after.bos_token_id for ids in new)
    assert after.batch_decode(new) == before.batch_decode(old)
    assert sum(map(len, new)) > sum(map(len, old))


def test_text_whose_tokens_were_all_kept_is_the_same_tokens(trimmed: Trimmed) -> None:
    before, after = (AutoTokenizer.from_pretrained(path) for path in (trimmed.model, trimmed.out))
    old = trimmed.record["vocabulary"]["old_ids"]
    some = [TEXT, *worded.texts(400)]
    known = [text for text, ids in zip(some, before(some)["input_ids"], strict=True) if set(ids) <= set(old)]
    assert TEXT in known and len(known) > 20
    assert [[old[new] for new in ids] for ids in after(known)["input_ids"]] == before(known)["input_ids"]


def test_tokens_merges_and_special_ids_follow(trimmed: Trimmed) -> None:
    (old_model, before), (new_model, after) = trimmed.opened()
    old = trimmed.record["vocabulary"]["old_ids"]
    assert old == sorted(set(old)) and len(old) == new_model.config.vocab_size == trimmed.record["options"]["keep"]
    assert [after.convert_ids_to_tokens(new) for new in range(len(after))] == before.convert_ids_to_tokens(old)[
        : len(after)
    ]
    content = json.loads((trimmed.out / "tokenizer.json").read_text())["model"]
    assert all(piece in content["vocab"] for left, right in content["merges"] for piece in (left, right, left + right))
    for settings, name in (
        (old_model.config, new_model.config),
        (old_model.generation_config, new_model.generation_config),
    ):
        assert old[name.bos_token_id] == settings.bos_token_id
    ends = new_model.generation_config.eos_token_id
    assert [old[end] for end in ends] == old_model.generation_config.eos_token_id
    assert [old[index] for index in new_model.generation_config.suppress_tokens] == [ends and old[ends[1]]]


def test_chats_are_rendered_and_written_as_before(trimmed: Trimmed) -> None:
    before, after = (AutoTokenizer.from_pretrained(path) for path in (trimmed.model, trimmed.out))
    chat = [{"role": "user", "content": "größer?"}, {"role": "assistant", "content": "日本 123"}]
    assert after.apply_chat_template(chat, tokenize=False) == before.apply_chat_template(chat, tokenize=False)
    written: list[Any] = [tokenizer.apply_chat_template(chat, return_dict=True) for tokenizer in (before, after)]
    assert before.decode(written[0]["input_ids"]) == after.decode(written[1]["input_ids"])


def test_old_vocabularies_are_left_out_and_companions_travel(trimmed: Trimmed) -> None:
    assert trimmed.record["vocabulary"]["left_out"] == ["tokenizer.model"]
    assert not (trimmed.out / "tokenizer.model").exists() and (trimmed.out / "LICENSE").read_text() == "as you like"


# --- the weights ------------------------------------------------------------------------------------


@torch.inference_mode()
def test_logits_of_kept_tokens_are_the_dense_models(trimmed: Trimmed) -> None:
    (dense, before), (small, after) = trimmed.opened()
    old = torch.tensor(trimmed.record["vocabulary"]["old_ids"])
    ids = torch.tensor([after(TEXT)["input_ids"]])
    assert old[ids].tolist() == [before(TEXT)["input_ids"]]
    torch.testing.assert_close(small(ids).logits, dense(old[ids]).logits[..., old])
    lost = (
        (dense.config.vocab_size - len(old)) * dense.config.hidden_size * (1 if dense.config.tie_word_embeddings else 2)
    )
    assert sum(p.numel() for p in small.parameters()) == trimmed.record["parameters"]["after"]
    assert trimmed.record["parameters"]["before"] - trimmed.record["parameters"]["after"] == lost


@pytest.mark.parametrize("trimmed", ["characters"], indirect=True)
def test_a_pruned_model_can_be_trimmed_and_a_trimmed_one_pruned(trimmed: Trimmed, tmp_path: Path) -> None:
    pruned = prune(tiny_llama.prune_config(trimmed.out, tmp_path / "pruned")).path
    again = run(pruned, tmp_path, "the river", keep=380)
    assert again.record["layout"] == "per-layer" and "sites" in again.record["before"]
    assert again.record["before"]["before"]["vocabulary"] == trimmed.record["vocabulary"], "ids can still be traced"
    with torch.inference_mode():
        (dense, _), (small, after) = again.opened()
        old = torch.tensor(again.record["vocabulary"]["old_ids"])
        ids = torch.tensor([after("the river")["input_ids"]])
        torch.testing.assert_close(small(ids).logits, dense(old[ids]).logits[..., old])


# --- what is chosen ---------------------------------------------------------------------------------


def test_the_most_frequent_stay_with_all_that_they_are_merged_from(model: Path, tmp_path: Path) -> None:
    tokenizer = worded.make_tokenizer("byte level")
    kept = set(run(model, tmp_path, "river river", coverage=1.0).record["vocabulary"]["old_ids"])
    assert {*tokenizer("river river")["input_ids"]} <= kept
    (bridges,) = tokenizer(" bridges", add_special_tokens=False)["input_ids"]
    assert bridges not in kept


def test_rows_are_rounded_up_with_tokens_and_never_idle(model: Path, tmp_path: Path) -> None:
    found = run(model, tmp_path, coverage=0.9, multiple_of=64).record["vocabulary"]
    assert found["after"] % 64 == 0 and max(found["old_ids"]) < len(worded.make_tokenizer("byte level"))
    assert found["coverage"] >= 0.9 and found["text_tokens"]["after"] >= found["text_tokens"]["before"]


@pytest.mark.parametrize("kind", worded.KINDS)
def test_the_whole_model_has_as_many_parameters_as_were_asked_for(kind: str, tmp_path: Path) -> None:
    tied = kind == "byte level"
    model = worded.save_model(tmp_path / "model", kind, tie_word_embeddings=tied)
    whole = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(model).parameters())
    one = tiny_llama.make_model().config.hidden_size * (1 if tied else 2)
    for number, (target, multiple) in enumerate([(whole - 100 * one, 1), (whole - 99 * one - 1, 1), (whole - 1, 64)]):
        (tmp_path / str(number)).mkdir()
        found = run(model, tmp_path / str(number), target_params=target, multiple_of=multiple).record
        after, rows = found["parameters"]["after"], found["vocabulary"]["after"]
        assert after <= target < after + one * multiple and rows % multiple == 0


def test_a_long_text_weighs_no_more_than_a_short_one(model: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the letters")
    (tmp_path / "long.txt").write_text("river stones bridges people " * 500 + "lands " * 400)
    texts = tuple(str(tmp_path / name) for name in ("long.txt", "short.txt"))
    (tmp_path / "alone").mkdir()
    enough = run(model, tmp_path / "alone", text=texts[1:], coverage=1.0).record["vocabulary"]["after"] + 3
    found = run(model, tmp_path, text=texts, keep=enough).record["vocabulary"]
    tokenizer = worded.make_tokenizer("byte level")
    kept = set(found["old_ids"])
    assert set(tokenizer("the letters")["input_ids"]) <= kept
    assert not set(tokenizer("river stones bridges people lands")["input_ids"]) <= kept
    assert [text["name"] for text in found["texts"]] == list(texts)
    assert sum(text["after"] for text in found["texts"]) == found["text_tokens"]["after"]
    (tmp_path / "again").mkdir()
    again = run(model, tmp_path / "again", text=texts[::-1], keep=enough).record["vocabulary"]
    assert again["old_ids"] == found["old_ids"], "in whatever order they are named"


def test_weights_are_shares_in_whole_numbers() -> None:
    one, other = Counter({1: 3, 2: 1}), Counter({2: 1, 3: 5})
    assert weighed([one]) == one
    assert weighed([one, other]) == {1: 9, 2: 5, 3: 10}


def test_coverage_keeps_no_more_than_it_has_to(model: Path, tmp_path: Path) -> None:
    sizes = []
    for number, coverage in enumerate((0.5, 0.9, 1.0)):
        (tmp_path / str(number)).mkdir()
        sizes.append(run(model, tmp_path / str(number), coverage=coverage).record["vocabulary"]["after"])
    assert sizes == sorted(set(sizes))


def test_the_same_command_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        run(model, folder)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert len({(folder / "out" / name).read_bytes() for folder in folders}) == 1


# --- other commands ---------------------------------------------------------------------------------


def test_gguf_has_the_trimmed_lists(trimmed: Trimmed, tmp_path: Path) -> None:
    file = export(ExportConfig(str(trimmed.out), str(tmp_path / "out.gguf"), format="gguf")).path
    assert file is not None
    tokens = GGUFReader(file).fields["tokenizer.ggml.tokens"]
    assert len(tokens.data) == trimmed.record["vocabulary"]["after"]


@pytest.mark.parametrize("trimmed", ["characters"], indirect=True)
def test_it_is_compared_by_bytes(trimmed: Trimmed, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 3)
    options = {"text": str(tmp_path / "text.txt"), "seqlen": (32,), "against": str(trimmed.model), "against_by": "byte"}
    comparison = evaluate(EvalConfig(str(trimmed.out), **options)).comparison  # type: ignore[arg-type]
    assert comparison is not None and comparison["kl_nats_per_token"] is None


def test_the_command_says_what_went(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["trim", str(model), str(tmp_path / "out"), "--text", str(tmp_path / "text.txt"), "--keep", "400"]
    assert cli.main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "→ 400 tokens" in said and "Left out, for they hold the vocabulary of before: tokenizer.model." in said
    assert "Token ids are not those of the original" in (tmp_path / "out" / "README.md").read_text()


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ()}, "which tokens are used, a text says: give --text FILE"),
        ({}, "say how much stays by one of these: --keep N tokens, --coverage C of the text, or --target-params P"),
        ({"keep": 300, "coverage": 0.5}, "by one of these"),
        ({"coverage": 0.5, "target_params": "1M"}, "by one of these"),
        ({"target_params": "few"}, "--target-params 'few' is no number of parameters"),
        ({"target_params": "1k"}, "--target-params 1k keeps 0 rows, less than the 2.. tokens that stay in any case"),
        ({"target_params": "1B"}, "--target-params 1B keeps .* rows, and the embedding has ...: none would go"),
        ({"coverage": 1.5}, r"--coverage 1.5 is outside \(0, 1\]"),
        ({"keep": 10}, "--keep 10 keeps 10 rows, less than the 2.. tokens that stay in any case"),
        ({"keep": 5000}, "--keep 5000 keeps 5000 rows, and the embedding has ...: none would go"),
        ({"keep": 400, "multiple_of": 1024}, "--keep 400, rounded up to a multiple of 1024, keeps 1024 rows"),
        ({"keep": 400, "text": ("c4",)}, "--text c4 is on the hub, and text is read whole"),
    ],
)
def test_options_outside_their_rule(model: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trim(TrimConfig(str(model), str(tmp_path / "out"), **{"text": ("builtin",), **options}))
    assert not list(tmp_path.iterdir())


def test_an_empty_text_chooses_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no text"):
        run(model, tmp_path, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


def test_nothing_that_stands_there_is_replaced_unasked(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path)
    with pytest.raises(OutputError):
        run(model, tmp_path)
    assert run(model, tmp_path, keep=350, force=True).record["vocabulary"]["after"] == 350


OTHERS = {
    "of kind Unigram": models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False),
    "of kind WordPiece": models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
    "of kind WordLevel": models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
    "BPE over characters without bytes": models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"),
    "BPE with end_of_word_suffix '</w>'": models.BPE(
        {"<unk>": 0, "a": 1}, [], unk_token="<unk>", end_of_word_suffix="</w>"
    ),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_other_kinds_are_refused_by_name(model: Path, tmp_path: Path, reason: str) -> None:
    other = shutil.copytree(model, tmp_path / "model")
    tokenizer = Tokenizer(OTHERS[reason])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(other)
    with pytest.raises(ModelError, match=f"its tokenizer is {reason}.*and still write any text"):
        trim(TrimConfig(str(other), str(tmp_path / "out"), ("builtin",), keep=400))


def test_settings_that_cannot_follow_are_refused(model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model, tmp_path / "model")
    file = other / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sequence_bias": [[[5], -1.0]]}))
    with pytest.raises(ModelError, match="sequence_bias names tokens in a form that slimgpt trim does not follow"):
        trim(TrimConfig(str(other), str(tmp_path / "out"), ("builtin",), keep=400))
