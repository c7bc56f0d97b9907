"""What calibration files may be: each kind is read as what it is, and what is none is refused with those that are."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
import tiny_llama
from pyarrow import parquet

from slimgpt import prune
from slimgpt.calibration import asked_windows, cached_windows, sources, windows
from slimgpt.calibration.row_text import RowText
from slimgpt.calibration.tables import TABLES
from slimgpt.config import DropConfig, PruneConfig, SparsifyConfig
from slimgpt.depth import drop
from slimgpt.errors import CalibrationError
from slimgpt.sparsity import sparsify

TEXTS = ['The cat said: "again",\nand went.', "A dog\tbarks.", "ἓν οἶδα", " ", "x" * 200_000]
MESSAGES = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The cat."}]
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pyarrow.compress(raw, codec="zstd", asbytes=True),
}


def separated(texts: list[str], delimiter: str) -> bytes:
    quoted = [text.replace('"', '""') for text in texts]
    lines = [f"id{delimiter}text", *(f'{index}{delimiter}"{text}"' for index, text in enumerate(quoted))]
    return "\r\n".join(lines).encode()


def lines_of(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": index, "text": text}) + "\n" for index, text in enumerate(texts)).encode()


def parquet_of(texts: list[str]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"id": list(range(len(texts))), "text": texts}), sink)
    return sink.getvalue().to_pybytes()


WRITTEN: dict[str, Callable[[list[str]], bytes]] = {
    ".jsonl": lines_of,
    ".ndjson": lines_of,
    ".jsonlines": lines_of,
    ".json": lambda texts: json.dumps([{"text": text} for text in texts], indent=1).encode(),
    ".csv": lambda texts: separated(texts, ","),
    ".tsv": lambda texts: separated(texts, "\t"),
    ".parquet": parquet_of,
}


def documents(path: Path, text_of: RowText = RowText()) -> list[str]:  # noqa: B008
    return list(sources.resolve(str(path), text_of).documents(0))


def refusal(path: Path, text_of: RowText = RowText()) -> str:  # noqa: B008
    with pytest.raises(CalibrationError) as caught:
        documents(path, text_of)
    return str(caught.value)


def chatty() -> tiny_llama.PreTrainedTokenizerFast:
    tokenizer = tiny_llama.make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_every_kind_of_table_is_tried_here() -> None:
    assert set(WRITTEN) == set(TABLES)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", WRITTEN)
def test_a_table_gives_its_texts_and_nothing_else(tmp_path: Path, ending: str, compression: str) -> None:
    path = tmp_path / f"C{ending.upper()}{compression}"
    path.write_bytes(COMPRESSIONS[compression](WRITTEN[ending](TEXTS)))
    assert documents(path) == TEXTS


@pytest.mark.parametrize("ending", WRITTEN)
def test_another_column_is_named_by_its_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"c{ending}"
    path.write_bytes(WRITTEN[ending](["one"]).replace(b"text", b"body") if ending != ".parquet" else body_parquet())
    assert "has no field 'text', only " in (said := refusal(path))
    assert said.endswith("body; name the one that holds the text by --text-field")
    assert documents(path, RowText("body")) == ["one"]
    assert "has no field 'txet'" in refusal(path, RowText("txet"))


def body_parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"body": ["one"]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", ["c.docx", "c.csv.bak", "c.pkl", "c.html.gz"])
def test_unknown_endings_are_refused_with_those_that_are_known(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    ending = Path(name.removesuffix(".gz")).suffix
    assert refusal(tmp_path / name) == (
        f"{tmp_path / name} ends in {ending!r}, which is neither text (.txt, .text, .md, .raw, .tokens, or source "
        "code such as .py) nor a table (.jsonl, .ndjson, .jsonlines, .json, .csv, .tsv, .parquet), compressed or not "
        "(.gz, .bz2, .xz, .zst); if it is plain text, give it a name in .txt"
    )


def test_source_code_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def one():\n    return 1\n")
    (tmp_path / "b.rs").write_text("fn two() -> u8 { 2 }\n")
    (tmp_path / "page.html").write_text("<p>no</p>")
    found = sources.resolve(str(tmp_path))
    assert [text.strip() for text in found.documents(0)] == ["def one():\n    return 1", "fn two() -> u8 { 2 }"]
    assert found.note is not None and "page.html" in found.note


def test_a_folder_is_read_without_what_is_no_text_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_of(["one"]))
    (tmp_path / "b.csv").write_bytes(separated(["two"], ","))
    for name in ("notes.docx", "plot.png", "x.pkl", "y.bin"):
        (tmp_path / name).write_bytes(b"\0\0")
    found = sources.resolve(str(tmp_path))
    assert list(found.documents(0)) == ["one", "two"]
    assert found.note == (
        "note: notes.docx, plot.png, x.pkl and 1 more in the calibration folder: neither text nor tables, so not read."
    )
    notes: list[str] = []
    config = PruneConfig("model", "out", calibration=str(tmp_path), samples=1, seqlen=4)
    asked_windows(config, tiny_llama.make_tokenizer(), 0, notes.append)
    assert notes == [found.note]


def test_a_foreign_table_in_a_folder_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_of(["one"]))
    (tmp_path / "dataset_infos.json").write_text('{"license": "MIT"}')
    assert refusal(tmp_path).startswith(
        f"{tmp_path / 'dataset_infos.json'}, line 1, has no field 'text', only license;"
    )


def test_a_folder_of_nothing_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"\0")
    assert "holds no files that are text or tables" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b'id,text\n1,"one\n', "line 2, is not valid CSV (unexpected end of data); mend the line"),
        (b"id,text\n1,a,b\n", "line 2, has 3 fields, and the first line names 2; put text that holds"),
        (b"id,text\n1\n", "line 2, has 1 fields, and the first line names 2"),
        (b"", "has no field 'text', only nothing"),
    ],
)
def test_bad_separated_lines_are_named(tmp_path: Path, content: bytes, rule: str) -> None:
    (tmp_path / "c.csv").write_bytes(content)
    said = refusal(tmp_path / "c.csv")
    assert said.startswith(str(tmp_path / "c.csv")) and rule in said


def test_a_json_list_that_is_broken_or_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('[{"text": "one"}, {"text": "tw')
    assert "is not valid JSON (Unterminated string starting at at column " in refusal(path)
    path.write_text("[" * 100_000)
    assert "is not JSON that can be read (nested too deeply); check that the file is whole" in refusal(path)
    path.write_text('["one"]')
    assert "entry 1, is a JSON str, not an object" in refusal(path)


# --- chat messages ---


@pytest.mark.parametrize("field", ["messages", "talk"])
def test_messages_are_rendered_by_the_models_own_template(tmp_path: Path, field: str) -> None:
    """Without the BOS token that the template writes: where that stands is decided for windows."""
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({field: MESSAGES}) + "\n")
    text_of = RowText(tokenizer=chatty()) if field == "messages" else RowText(field, chatty())
    assert documents(path, text_of) == ["[user] Who?\n[assistant] The cat.\n"]
    packed = tmp_path / "c.parquet"
    parquet.write_table(pyarrow.table({field: [MESSAGES]}), packed)
    assert documents(packed, text_of) == documents(path, text_of)


def test_text_comes_before_messages_where_a_row_has_it(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    rows = [{"text": "one", "messages": MESSAGES}, {"text": None, "messages": MESSAGES}, {"text": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert documents(path, RowText(tokenizer=chatty())) == ["one", "[user] Who?\n[assistant] The cat.\n", ""]


def test_messages_need_a_template_and_its_consent(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"messages": MESSAGES}) + "\n")
    silent = tiny_llama.make_tokenizer()
    silent.chat_template = None
    assert "line 1, has messages, but the model's tokenizer has no chat template" in refusal(
        path, RowText(tokenizer=silent)
    )
    strict = chatty()
    strict.chat_template = "{{ raise_exception('no users here') }}"
    assert "line 1, has messages that the chat template refuses (no users here)" in refusal(
        path, RowText(tokenizer=strict)
    )
    path.write_text('{"messages": ["Who?"]}\n')
    assert "line 1, has messages that are no list of objects with role and content" in refusal(
        path, RowText(tokenizer=chatty())
    )


def test_windows_and_cache_tell_columns_and_templates_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMGPT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"text": "a" * 40, "body": "b" * 40, "talk": MESSAGES}) + "\n")
    plain, other = chatty(), chatty()
    other.chat_template = TEMPLATE.replace("}\n", "}\n\n")
    asked = [(plain, "text"), (plain, "body"), (plain, "talk"), (other, "talk")]
    found = [cached_windows(str(path), tokenizer, 1, 16, 0, (), field) for tokenizer, field in asked]
    assert len({tuple(window_BT.flatten().tolist()) for window_BT in found}) == 4
    body = plain("b")["input_ids"][0]
    assert (windows(str(path), plain, 1, 16, 0, text_field="body") == body).all()


# --- the commands ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("kinds") / "model")


def _prune(model: Path, out: Path, **options: object) -> None:
    prune(tiny_llama.prune_config(model, out, allocation="log", **options))


def _sparsify(model: Path, out: Path, **options: object) -> None:
    sparsify(SparsifyConfig(str(model), str(out), device="cpu", **options))  # type: ignore[arg-type]


def _drop(model: Path, out: Path, **options: object) -> None:
    drop(DropConfig(str(model), str(out), layers=1, device="cpu", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [_prune, _sparsify, _drop])
def test_every_command_reads_another_column_and_messages(
    model: Path, tmp_path: Path, command: Callable[..., None]
) -> None:
    chats, table = tmp_path / "chats.jsonl", tmp_path / "table.csv"
    chats.write_text((json.dumps({"messages": MESSAGES}) + "\n") * 20)
    table.write_bytes(b"body\n" + b'"some text"\n' * 20)
    sizes = {"samples": 2, "seqlen": 16}
    command(model, tmp_path / "a", calibration=str(chats), **sizes)
    command(model, tmp_path / "b", calibration=str(table), text_field="body", **sizes)
    with pytest.raises(CalibrationError, match="has no field 'text', only body; name the one that holds the text by"):
        command(model, tmp_path / "c", calibration=str(table), **sizes)
    assert not (tmp_path / "c").exists()
