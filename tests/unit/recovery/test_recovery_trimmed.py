"""A model with fewer tokens that learns from its dense one: where they meet, and what the teacher's words become."""

from __future__ import annotations

import dataclasses
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
import worded
from recovery_shop import SETTINGS
from transformers import AutoModelForCausalLM, AutoTokenizer

from slimgpt import RecoverConfig, TrimConfig, prune, recover, trim
from slimgpt.errors import ConfigError, ModelError
from slimgpt.model.schema import RECORD
from slimgpt.recovery import folding
from slimgpt.recovery.data import Example, Piece
from slimgpt.recovery.packing import IGNORED, Row, pack, tokenise
from slimgpt.recovery.reading import NOWHERE, Reading
from slimgpt.vocabulary.lineage import old_ids

KEPT = "the river runs over stones, the river runs under bridges 12"
OTHER = [
    "people read letters written in other lands",
    "größer 日本語の本 und älter",
    "while, people  read\n\nletters 7",
]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A dense model and what trim made of it."""

    dense: Path
    out: Path

    @cached_property
    def tokenizers(self) -> tuple[Any, Any]:
        return AutoTokenizer.from_pretrained(self.out), AutoTokenizer.from_pretrained(self.dense)

    @cached_property
    def old(self) -> list[int]:
        found = old_ids(json.loads((self.out / RECORD).read_text()), *self.tokenizers)
        assert found is not None
        return found

    @cached_property
    def reading(self) -> Reading:
        return Reading(*self.tokenizers, self.old)

    def rows(self, *texts: str, seqlen: int = 24) -> list[Row]:
        tokenizer = self.tokenizers[0]
        examples = [Example((Piece(text, True),), dialogue=False) for text in texts]
        return pack(tokenise(examples, tokenizer, seqlen, True, [tokenizer.bos_token_id]), seqlen)


@pytest.fixture(scope="module", params=worded.KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("trimmed")
    dense = worded.save_model(folder / "dense", request.param)
    (folder / "text.txt").write_text(KEPT)
    keep = {"characters": 380}.get(request.param, 330)
    return Pair(dense, trim(TrimConfig(str(dense), str(folder / "out"), (str(folder / "text.txt"),), keep=keep)).path)


# --- where both have a border -----------------------------------------------------------------------


def test_text_of_kept_tokens_is_read_as_it_is(pair: Pair) -> None:
    for row in pair.rows(KEPT):
        read = pair.reading.of(row)
        assert read.row.ids == [pair.old[index] for index in row.ids]
        assert read.place_T == list(range(len(row.ids)))
        assert read.row.positions == row.positions


def test_they_meet_where_both_have_written_the_same_text(pair: Pair) -> None:
    student, teacher = pair.tokenizers
    met = missed = 0
    for row in pair.rows(*OTHER, KEPT, seqlen=400):
        read = pair.reading.of(row)
        assert len(read.row.ids) < len(row.ids), "the teacher has more words for it"
        for place, own in enumerate(read.place_T):
            missed += own == NOWHERE
            if own != NOWHERE:
                met += 1
                assert student.decode(row.ids[: place + 1]) == teacher.decode(read.row.ids[: own + 1])
        reached = {own for own in read.place_T if own != NOWHERE}
        assert reached == set(range(len(read.row.ids))), "every border of the teacher's is one of the student's"
    assert met > 20 and missed > 5


def test_examples_in_one_row_are_read_apart(pair: Pair) -> None:
    (row,) = pair.rows(*OTHER, KEPT, seqlen=400)
    read = pair.reading.of(row)
    teacher = pair.tokenizers[1]
    apart = [[teacher.bos_token_id, *ids] for ids in teacher([*OTHER, KEPT], add_special_tokens=False)["input_ids"]]
    assert read.row.ids == [index for ids in apart for index in ids]
    assert read.row.positions == [position for ids in apart for position in range(len(ids))]


def test_a_character_that_a_rows_edge_cuts_costs_no_more_than_itself(pair: Pair) -> None:
    rows = [pair.reading.of(row) for row in pair.rows("the river 日本語の本を読む the river 日本語", seqlen=9)]
    assert len(rows) > 2
    assert all(sum(place != NOWHERE for place in read.place_T) >= 2 for read in rows)


# --- what the teacher's words become ----------------------------------------------------------------


@torch.inference_mode()
def test_a_token_that_is_gone_counts_for_the_one_that_begins_it(pair: Pair) -> None:
    student, teacher = pair.tokenizers
    model = AutoModelForCausalLM.from_pretrained(pair.dense)
    (row,) = pair.rows(*OTHER, KEPT, seqlen=400)
    read, num_new = pair.reading.of(row), len(pair.old)
    (found,) = folding.predict(model, [row], pair.reading, num_new, 2.0, 4)
    batch = {"input_ids": torch.tensor([read.row.ids]), "position_ids": torch.tensor([read.row.positions])}
    prob_SD = (model(**batch, use_cache=False).logits[0, :, : len(pair.reading.first_D)].double() / 2).softmax(-1)
    names = teacher.convert_ids_to_tokens(range(len(teacher)))
    for count, place in enumerate(place for place, label in enumerate(row.labels[1:]) if label != IGNORED):
        expected = torch.zeros(num_new, dtype=torch.float64)
        if read.place_T[place] == NOWHERE:
            expected[row.labels[place + 1]] = 1
        else:
            for index, name in enumerate(names):
                pieces = [pair.old.index(index)] if index in pair.old else []
                pieces = pieces or [piece.id for piece in student.backend_tokenizer.model.tokenize(name)]
                expected[pieces[0]] += prob_SD[read.place_T[place], index]
        dense = torch.zeros(num_new).scatter_(0, found.token_PK[count].long(), found.log_prob_PK[count].float().exp())
        torch.testing.assert_close(dense, expected.float(), rtol=5e-3, atol=2e-4)


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*OTHER, KEPT] * 20))
    return file


def options(pair: Pair, data: Path, out: Path, **changes: Any) -> RecoverConfig:
    given = {"model": str(pair.out), "teacher": str(pair.dense), "full": True, "keep": "last", **SETTINGS, **changes}
    return RecoverConfig(out=str(out), data=str(data), **given)


@pytest.mark.parametrize("pair", ["byte level", "characters"], indirect=True)
def test_it_learns_from_the_model_that_it_was_trimmed_from(pair: Pair, data: Path, tmp_path: Path) -> None:
    record = recover(options(pair, data, tmp_path / "out")).record
    entry = record["recovery"][-1]
    assert entry["method"] == "distillation"
    assert entry["held_out"]["perplexity_after"] < entry["held_out"]["perplexity_before"]
    assert record["vocabulary"]["old_ids"] == pair.old


@pytest.mark.parametrize("pair", ["byte level"], indirect=True)
def test_it_does_so_when_it_was_pruned_and_trimmed_again(pair: Pair, data: Path, tmp_path: Path) -> None:
    pruned = prune(tiny_llama.prune_config(pair.out, tmp_path / "pruned")).path
    again = trim(TrimConfig(str(pruned), str(tmp_path / "again"), (str(data),), keep=320)).path
    record = json.loads((again / RECORD).read_text())
    found = old_ids(record, AutoTokenizer.from_pretrained(again), pair.tokenizers[1])
    assert found == [pair.old[index] for index in record["vocabulary"]["old_ids"]]
    assert recover(options(Pair(pair.dense, again), data, tmp_path / "out", max_steps=2)).path.is_dir()


@pytest.mark.parametrize("pair", ["byte level"], indirect=True)
def test_without_a_map_it_is_refused(pair: Pair, data: Path, tmp_path: Path) -> None:
    other = worded.save_model(tmp_path / "other", "characters")
    with pytest.raises(ModelError, match=r"predicts \d+ tokens, but .* or trimmed by slimgpt trim, or one with its"):
        recover(options(pair, data, tmp_path / "out", teacher=str(other)))
    assert old_ids(None, *pair.tokenizers) is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pair", ["byte level"], indirect=True)
def test_hidden_states_of_other_tokens_are_not_compared(pair: Pair, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--hidden-weight 0.5 compares hidden states token by token, and .* was"):
        recover(options(pair, data, tmp_path / "out", hidden_weight=0.5))
