"""Examples read, masked, cut and packed; and packed examples that do not see each other, in every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import tiny
import tiny_llama
import torch
from pyarrow import csv, parquet
from transformers import AutoModelForCausalLM

from slimgpt import prune
from slimgpt.arch import family_of
from slimgpt.config import RecoverConfig
from slimgpt.errors import CalibrationError
from slimgpt.model.beginning import first_tokens
from slimgpt.recovery import rows
from slimgpt.recovery.data import Example, Piece, joined, read_examples
from slimgpt.recovery.packing import IGNORED, Row, collate, learned, num_learned, pack, tokenise

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    return tiny_llama.make_tokenizer()


def write(folder: Path, *lines: Any, name: str = "data.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def decoded(tokenizer: Any, row: Row) -> tuple[str, str]:
    """All text of a row, and the text that is learned of it."""
    learned_ids = [label for label in row.labels if label != IGNORED]
    return tokenizer.decode(row.ids), tokenizer.decode(learned_ids)


def one(tokenizer: Any, path: str, seqlen: int = 1000, all_tokens: bool = False) -> tuple[str, str]:
    first = first_tokens(tokenizer, "auto")
    (row,) = tokenise(read_examples(path, tokenizer), tokenizer, seqlen, all_tokens, first)
    return decoded(tokenizer, row)


# --- formats ---------------------------------------------------------------------------------------


def test_instructions_become_alpaca_prompts_whose_response_is_learned(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {"instruction": "Add.", "input": "1 1", "output": "2"})
    text, answer = one(tokenizer, path)
    assert text == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 1\n\n"
        "### Response:\n2</s>"
    )
    assert answer == "2</s>"


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": None}])
def test_an_instruction_without_input_has_the_shorter_prompt(tokenizer: Any, tmp_path: Path, given: Any) -> None:
    text, _ = one(tokenizer, write(tmp_path, {"instruction": "Go.", "output": "ok", **given}))
    assert text == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nGo.\n\n### Response:\nok</s>"
    )


def test_all_tokens_may_be_learned(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {"instruction": "Go.", "output": "ok"})
    text, answer = one(tokenizer, path, all_tokens=True)
    assert answer == text[1:]  # nothing predicts the first token


def test_of_messages_every_answer_is_learned(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = CHAT
    turns = [("user", "a?"), ("assistant", "b."), ("user", "c?"), ("assistant", "d.")]
    path = write(tmp_path, {"messages": [{"role": role, "content": content} for role, content in turns]})
    text, answer = one(tokenizer, path)
    assert text == "<user>a?</><assistant>b.</><user>c?</><assistant>d.</></s>"
    assert answer == "b.</>d.</></s>"


def test_an_end_that_the_template_writes_is_not_written_twice(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = CHAT.replace("</>", "</s>")
    path = write(tmp_path, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    assert one(tokenizer, path) == ("<user>a</s><assistant>b</s>", "b</s>")


def test_a_tokenizer_that_begins_texts_begins_every_row(tmp_path: Path) -> None:
    """And none begins twice where a chat template writes the token itself."""
    tokenizer = tiny_llama.make_tokenizer(begins=True)
    tokenizer.chat_template = "<s>" + CHAT
    text, answer = one(tokenizer, write(tmp_path, {"instruction": "Go.", "output": "ok"}))
    assert text.startswith("<s>Below")
    assert answer == "ok</s>"
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert one(tokenizer, write(tmp_path, chat))[0].count("<s>") == 1
    plain = read_examples(write(tmp_path, {"text": "0123456"}), tokenizer)
    found = tokenise(plain, tokenizer, 4, False, first_tokens(tokenizer, "auto"))
    assert [decoded(tokenizer, row) for row in found] == [("<s>012", "012"), ("<s>345", "345"), ("<s>6", "6")]
    assert [row.positions for row in found] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]
    bare = tokenise(plain, tokenizer, 4, False, first_tokens(tokenizer, "never"))
    assert [decoded(tokenizer, row) for row in bare] == [("0123", "123"), ("456", "56")]


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_tables_of_every_kind_hold_instructions(tokenizer: Any, tmp_path: Path, ending: str) -> None:
    rows = {"instruction": ["Go.", "Stay."], "input": ["", "there"], "output": ["ok", "no"]}
    file = tmp_path / f"data{ending}"
    write_table = {".parquet": parquet.write_table, ".csv": csv.write_csv}[ending]
    write_table(pyarrow.table(rows), file)
    listed = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    assert read_examples(str(file), tokenizer) == read_examples(write(tmp_path, *listed), tokenizer)


def test_another_column_of_text_comes_first(tokenizer: Any, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"body": "01", "instruction": "i", "output": "o"}, {"body": chat}, {"instruction": "i", "output": "o"}]
    first, second, third = read_examples(write(tmp_path, *rows), tokenizer, text_field="body")
    assert first == Example((Piece("01", True),), dialogue=False)
    assert second == read_examples(write(tmp_path, {"messages": chat}), tokenizer)[0]
    assert third.dialogue
    with pytest.raises(
        CalibrationError, match="line 1, has text: it needs body, or instruction and output, or messages"
    ):
        read_examples(write(tmp_path, {"text": "01"}), tokenizer, text_field="body")


def test_plain_text_is_cut_into_rows_and_learned_whole(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "0123456789"}, "", {"text": " \n"}, {"text": None})
    found = tokenise(read_examples(path, tokenizer), tokenizer, 4, all_tokens=False)
    assert [decoded(tokenizer, row) for row in found] == [("0123", "123"), ("4567", "567"), ("89", "9")]


def test_texts_that_are_joined_run_on_and_dialogues_do_not(tokenizer: Any, tmp_path: Path) -> None:
    dialogue = {"instruction": "i", "output": "o"}
    path = write(tmp_path, {"text": "01234"}, dialogue, {"text": "\n56\n"})
    texts, alone = joined(read_examples(path, tokenizer))
    found = tokenise([texts], tokenizer, 4, all_tokens=False)
    assert [tokenizer.decode(row.ids) for row in found] == ["0123", "4\n\n5", "6\n\n"]
    assert [row.positions for row in found] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2]]
    assert [alone] == joined([alone]) == read_examples(write(tmp_path, dialogue), tokenizer)


def test_text_files_and_compressed_files_are_read(tokenizer: Any, tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.txt").write_text("some words")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write('{"text": "some words"}\n')
    for name in ("a.txt", "b.jsonl.gz"):
        assert one(tokenizer, str(tmp_path / name))[0] == "some words"


def test_an_instruction_too_long_is_cut_and_without_response_left_out(tokenizer: Any) -> None:
    example = Example((Piece("p" * 6, False), Piece("r" * 6, True)), dialogue=True)
    (cut,) = tokenise([example], tokenizer, 8, all_tokens=False)
    assert decoded(tokenizer, cut) == ("p" * 6 + "rr", "rr")
    assert tokenise([example], tokenizer, 6, all_tokens=False) == []


# --- bad data --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": "a"}', '{"prompt": "b"}'], "line 2, has prompt: it needs instruction and output"),
        (['{"instruction": "b"}'], "line 1, has instruction: it needs instruction and output"),
        (["", "[1]"], "line 2, has no fields: it needs"),
        (['{"text": "a"'], "line 1, is not valid JSON"),
        (['{"instruction": 1, "output": "b"}'], "line 1, has the field 'instruction' as int; it must be a string"),
        (['{"messages": "hi"}'], "line 1, has messages that are no list of objects with role and content"),
        (
            ['{"messages": [{"role": "user"}]}'],
            "line 1, has messages that are no list of objects with role and content",
        ),
        (['{"text": ""}'], "is empty: name a file with something in it"),
    ],
)
def test_a_line_without_the_needed_fields_is_named(
    tokenizer: Any, tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(CalibrationError) as refused:
        read_examples(write(tmp_path, *lines), tokenizer)
    assert message in str(refused.value)


def test_messages_need_a_template_that_stands_by_what_it_wrote(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    tokenizer.chat_template = None
    with pytest.raises(CalibrationError, match="has no chat template: give plain text instead"):
        read_examples(path, tokenizer)
    tokenizer.chat_template = "{{ messages | length }}{{ messages[0].content }}"
    with pytest.raises(CalibrationError, match="the chat template writes otherwise once message 2 comes"):
        read_examples(path, tokenizer)
    tokenizer.chat_template = "{{ raise_exception('only users') }}"
    with pytest.raises(CalibrationError, match="line 1, has messages that the chat template refuses"):
        read_examples(path, tokenizer)


def test_a_file_that_is_not_there_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"does not exist: name a table \(JSONL, CSV, TSV, Parquet\) with"):
        read_examples(str(tmp_path / "none.jsonl"), tokenizer)


# --- training and held-out rows ----------------------------------------------------------------------


def options(path: str, **changes: Any) -> RecoverConfig:
    return RecoverConfig("m", "o", data=path, seqlen=16, **changes)


def test_no_example_is_both_learned_and_measured_with(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, *({"text": f"{number:05d}"} for number in range(100)))
    train, held_out = rows.build(options(path, held_out=0.1), tokenizer, packing=False)
    texts = [{tokenizer.decode(row.ids) for row in part} for part in (train, held_out)]
    assert (len(texts[0]), len(texts[1])) == (90, 10)
    assert not texts[0] & texts[1]
    assert (train, held_out) == rows.build(options(path, held_out=0.1), tokenizer, packing=False)
    assert train != rows.build(options(path, held_out=0.1, seed=1), tokenizer, packing=False)[0]


@pytest.mark.parametrize("packing", [True, False])
def test_joined_texts_fill_their_rows(tokenizer: Any, tmp_path: Path, packing: bool) -> None:
    path = write(tmp_path, *({"text": f"{number:05d}"} for number in range(100)))
    train, held_out = rows.build(options(path, held_out=0.1, join_texts=True), tokenizer, packing)
    for part, num_texts in ((train, 90), (held_out, 10)):
        assert sorted(len(row.ids) for row in part)[1:] == [16] * (num_texts * 7 // 16)
        assert all(row.positions == list(range(len(row.ids))) for row in part)
        assert sum(map(num_learned, part)) == num_texts * 7 - len(part)


def test_a_second_file_has_its_share(tokenizer: Any, tmp_path: Path) -> None:
    first = write(tmp_path, *({"text": f"a{number:05d}"} for number in range(100)))
    second = write(tmp_path, *({"text": f"b{number:05d}"} for number in range(100)), name="second.jsonl")
    mixed = options(first, mix=second, mix_share=0.25, held_out=0.2)
    for part, num_first in zip(rows.build(mixed, tokenizer, packing=False), (80, 20), strict=True):
        from_second = sum(tokenizer.decode(row.ids).startswith("b") for row in part)
        assert from_second == min(round(num_first / 3), 80)
        assert len(part) == num_first + from_second


def test_a_limit_of_steps_takes_no_more_rows_than_it_needs(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, *({"text": f"{number:05d}"} for number in range(100)))
    for epochs, expected in ((1.0, 12), (2.0, 6), (0.5, 12), (5.0, 3)):
        given = {"max_steps": 3, "batch_size": 4, "epochs": epochs}
        train, _ = rows.build(options(path, **given), tokenizer, packing=False)
        assert len(train) == expected


def test_too_few_examples_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="has one example, and one has to be set aside"):
        rows.build(options(write(tmp_path, {"text": "one"})), tokenizer, packing=True)
    path = write(tmp_path, *[{"instruction": "i", "output": "o"}] * 4)
    with pytest.raises(CalibrationError, match="no response that begins within --seqlen 16 tokens"):
        rows.build(options(path), tokenizer, packing=True)


# --- packing ---------------------------------------------------------------------------------------


def row(*ids: int) -> Row:
    return Row(list(ids), [IGNORED, *ids[1:]], list(range(len(ids))))


def test_packing_loses_nothing_and_fills_rows() -> None:
    lengths = [5, 3, 7, 2, 8, 1, 6]
    alone = [row(*range(10 * i, 10 * i + length)) for i, length in enumerate(lengths)]
    packed = pack(alone, 8)
    assert max(len(one.ids) for one in packed) == 8
    assert sorted(token for one in packed for token in one.ids) == sorted(token for one in alone for token in one.ids)
    assert sum(map(num_learned, packed)) == sum(map(num_learned, alone))
    assert len(packed) == 4
    assert packed[0] == Row(
        [0, 1, 2, 3, 4, 10, 11, 12], [IGNORED, 1, 2, 3, 4, IGNORED, 11, 12], [0, 1, 2, 3, 4, 0, 1, 2]
    )
    assert alone[0] == row(*range(5))


def test_padding_is_an_example_that_nobody_learns() -> None:
    batch = collate([row(5, 6, 7, 8), row(9, 9)])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, 8], [IGNORED, 9, IGNORED, IGNORED]]
    assert learned(batch["labels"]).tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize(
    ("name", "attention"),
    [(name, kind) for name, one in tiny.MODELS.items() for kind in ("eager", "sdpa") if one.sdpa or kind == "eager"],
)
@torch.inference_mode()
def test_packed_examples_do_not_see_each_other(name: str, attention: str) -> None:
    model = tiny.make_model(name)
    model.set_attn_implementation(attention)
    if family_of(model.config).packs:
        assert_independent(model)
    else:  # and where they would, rows hold one example each
        with pytest.raises(AssertionError, match="Tensor-likes are not close"):
            assert_independent(model)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.inference_mode()
def test_nor_do_they_in_a_model_of_per_layer_sizes(tmp_path: Path, attention: str) -> None:
    prune(tiny_llama.prune_config(tiny_llama.save_model(tmp_path / "m"), tmp_path / "p"))
    assert_independent(AutoModelForCausalLM.from_pretrained(tmp_path / "p", attn_implementation=attention).eval())


def assert_independent(model: Any) -> None:
    """The logits of examples in one row are those of each alone; the negative control: they are not without positions
    that start anew.
    """
    alone = [row(*tiny_llama.tokens(1, length, seed=length)[0].tolist()) for length in (17, 9, 1, 20)]
    packed = pack(alone, 64)
    batch = collate([*packed, row(*range(60))])  # padded, too
    batch.pop("labels")
    together = model(**batch, use_cache=False).logits[0]
    start = 0
    for one in alone:
        expected = model(input_ids=torch.tensor([one.ids]), use_cache=False).logits[0]
        torch.testing.assert_close(together[start : start + len(one.ids)], expected, rtol=1e-4, atol=1e-5)
        start += len(one.ids)
    mixed_up = model(input_ids=batch["input_ids"], use_cache=False).logits[0]
    assert not torch.allclose(mixed_up[17:26], together[17:26], rtol=1e-2, atol=1e-2)
