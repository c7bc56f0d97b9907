"""Calibration: the same text and seed give the same windows, and bad text is told apart from too little."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import re
import subprocess
import sys
import types
import warnings
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, count
from pathlib import Path

import pyarrow
import pytest
import torch
from damage import KINDS
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from slimgpt.calibration import cached_windows, fingerprint, sampling, sources, windows
from slimgpt.errors import CalibrationError

C4_SAMPLE = Path(__file__).parents[4] / "shared/data/calibration/c4-sample.jsonl"
WORDS = ["the", "a", "cat", "dog", "sees", "likes", "red", "small", "house", "under", "near", "and", "again"]
BOS = "<s>"


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=12)).capitalize() + "."


def prose(num_documents: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(sentence(rng) for _ in range(rng.randint(1, 6))) for _ in range(num_documents)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that, like Llama's, opens each text with a special token unless told not to."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[BOS], initial_alphabet=alphabet)
    bpe.train_from_iterator(prose(50, seed=1), trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BOS)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", prose(400))


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIMGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "windows"


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def write_parquet(path: Path, **columns: list[object]) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


def whole_stream(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return [token for text in texts for token in tokenizer.encode(text + "\n\n", add_special_tokens=False)]


def is_run_of(window_T: Tensor, stream: list[int]) -> bool:
    """Whether the window occurs in the stream; tokens as a delimited string, so that `in` does the search."""
    return f",{','.join(map(str, window_T.tolist()))}," in f",{','.join(map(str, stream))},"


def error_of(source: Path | str, tokenizer: PreTrainedTokenizerFast, num_windows: int = 2, seqlen: int = 8) -> str:
    with pytest.raises(CalibrationError) as caught:
        windows(str(source), tokenizer, num_windows, seqlen, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what windows are ---


def test_windows_have_the_asked_shape_and_type(corpus, tokenizer):
    windows_BT = windows(str(corpus), tokenizer, 6, 32, seed=0)
    assert windows_BT.shape == (6, 32)
    assert windows_BT.dtype == torch.int64
    assert windows_BT.device.type == "cpu"


def test_windows_are_runs_of_the_joined_documents_and_do_not_overlap(corpus, tokenizer):
    stream = whole_stream(prose(400), tokenizer)
    num_windows = len(stream) // 32 - 1
    windows_BT = windows(str(corpus), tokenizer, num_windows, 32, seed=0)
    assert all(is_run_of(window_T, stream) for window_T in windows_BT)
    assert len(windows_BT.unique(dim=0)) == num_windows


def test_windows_hold_no_special_tokens(corpus, tokenizer):
    assert tokenizer.encode("cat")[0] == tokenizer.bos_token_id
    windows_BT = windows(str(corpus), tokenizer, 40, 32, seed=0)
    assert not (windows_BT == tokenizer.bos_token_id).any()


@pytest.mark.parametrize("num_documents", [40, 4000], ids=["all of it", "a sample of it"])
def test_the_seed_decides_everything(tmp_path, tokenizer, num_documents):
    source = str(write_jsonl(tmp_path / "c.jsonl", prose(num_documents)))
    first, again, other = (windows(source, tokenizer, 8, 32, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_text_that_just_suffices_is_used_to_the_last_token(tmp_path, tokenizer):
    stream = whole_stream(["cat " * 95 + "dog"], tokenizer)
    source = write_jsonl(tmp_path / "c.jsonl", ["cat " * 95 + "dog"])
    windows_BT = windows(str(source), tokenizer, 1, len(stream), seed=3)
    assert windows_BT.tolist() == [stream]


def test_windows_begin_with_what_was_asked_in_the_place_of_text(corpus, tokenizer):
    stream = whole_stream(prose(400), tokenizer)
    num_windows = len(stream) // 32 - 1
    windows_BT = windows(str(corpus), tokenizer, num_windows, 32, seed=0, first=[tokenizer.bos_token_id])
    assert windows_BT.shape == (num_windows, 32)
    assert (windows_BT[:, 0] == tokenizer.bos_token_id).all()
    assert all(is_run_of(window_T, stream) for window_T in windows_BT[:, 1:])


def test_fingerprint_tells_tokens_and_shapes_apart():
    windows_BT = torch.arange(12).view(3, 4)
    assert re.fullmatch("[0-9a-f]{64}", fingerprint(windows_BT))
    assert fingerprint(windows_BT) == fingerprint(windows_BT.clone())
    assert fingerprint(windows_BT) == fingerprint(windows_BT.T.contiguous().T)
    assert fingerprint(windows_BT) != fingerprint(windows_BT.view(4, 3))
    assert fingerprint(windows_BT) != fingerprint(windows_BT + 1)


# --- sampling with bounded memory ---


def test_reservoir_is_uniform_over_the_whole_and_keeps_the_order():
    texts = [f"{index:04d}" for index in range(1000)]
    drawn = [sampling._reservoir(texts, 400, random.Random(seed)) for seed in range(200)]
    assert all(len(sample) == 100 and sample == sorted(sample) for sample in drawn)
    mean = sum(int(text) for sample in drawn for text in sample) / 20_000
    assert abs(mean - 499.5) < 10  # its standard deviation is about 2


def test_reservoir_keeps_all_of_a_small_corpus():
    assert sampling._reservoir(["b", "a", "c"], 100, random.Random(0)) == ["b", "a", "c"]


def test_reservoir_holds_little_more_than_the_pool():
    """Live documents are counted while a million characters pass through a pool of a thousand."""

    class Text(str):
        alive = 0

        def __new__(cls, value: str) -> Text:
            cls.alive += 1
            return super().__new__(cls, value)

        def __del__(self) -> None:
            Text.alive -= 1

    most = 0

    def texts() -> Iterator[str]:
        nonlocal most
        for _ in range(10_000):
            most = max(most, Text.alive)
            yield Text("x" * 100)

    sampling._reservoir(texts(), 1000, random.Random(0))
    assert most <= 12


def test_beginning_reads_no_document_beyond_what_it_needs():
    numbers = count()
    texts = (f"{next(numbers):010d}" for _ in count())
    assert len(list(sampling._beginning(texts, 95))) == 10
    assert next(numbers) == 10


def test_plain_text_is_read_in_passages_of_whole_paragraphs(tmp_path, tokenizer):
    paragraphs = prose(2000)
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(paragraphs))
    passages = list(sources.resolve(str(path)).documents(0))
    assert len(passages) > 5
    assert all(len(passage) < 40_000 for passage in passages)
    assert "".join(passages) == path.read_text()
    assert all(passage.endswith(".\n\n") for passage in passages[:-1])


def test_text_without_any_line_break_is_cut_at_characters(tmp_path):
    text = "é€😀x" * 50_000
    (tmp_path / "line.txt").write_text(text, encoding="utf-8")
    passages = list(sources.resolve(str(tmp_path / "line.txt")).documents(0))
    assert len(passages) > 1
    assert "".join(passages) == text


# --- kinds of files ---


@pytest.mark.parametrize("name", ["c.txt", "c.md", "c", "wiki.test.raw", "c.jsonl", "c.json", "c.parquet", "C.JSONL"])
def test_every_format_gives_its_documents(tmp_path, name):
    path, texts = tmp_path / name, prose(5)
    if name.lower().endswith((".json", ".jsonl")):
        write_jsonl(path, texts)
    elif name.endswith(".parquet"):
        write_parquet(path, text=texts, url=list(range(5)))
    else:
        path.write_text("\n\n".join(texts))
    assert "\n\n".join(sources.resolve(str(path)).documents(0)) == "\n\n".join(texts)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["c.txt", "c.jsonl"])
def test_compressed_files_equal_plain_ones(tmp_path, tokenizer, corpus, name, ending):
    compress = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": lambda raw: pyarrow.compress(raw, codec="zstd", asbytes=True),
    }[ending]
    plain = write_jsonl(tmp_path / name, prose(100))
    packed = tmp_path / (name + ending)
    packed.write_bytes(compress(plain.read_bytes()))
    expected = windows(str(plain), tokenizer, 4, 16, seed=0)
    assert torch.equal(windows(str(packed), tokenizer, 4, 16, seed=0), expected)


def test_compressed_parquet_is_read(tmp_path):
    plain = write_parquet(tmp_path / "c.parquet", text=["one", "two"])
    packed = tmp_path / "d.parquet.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(sources.resolve(str(packed)).documents(0)) == ["one", "two"]


def test_folder_of_mixed_kinds_is_read_in_sorted_order_without_hidden_files(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "b" / ".git").mkdir(parents=True)
    (folder / "c.txt").write_text("three")
    write_jsonl(folder / "a.jsonl", ["one"])
    write_parquet(folder / "b" / "x.parquet", text=["two"])
    (folder / "d.txt.gz").write_bytes(gzip.compress(b"four"))
    (folder / ".DS_Store").write_bytes(b"\0\0")
    (folder / "b" / ".git" / "config").write_text("hidden")
    assert list(sources.resolve(str(folder)).documents(0)) == ["one", "two", "three", "four"]


def test_null_and_blank_texts_are_passed_over(tmp_path, tokenizer):
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": null}\n\n{"text": "  "}\n{"text": "' + "cat " * 20 + '"}\n')
    windows_BT = windows(str(path), tokenizer, 1, 4, seed=0)
    assert is_run_of(windows_BT[0], whole_stream(["cat " * 20], tokenizer))


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"text": "cat \\ud83d"}\n')
    assert list(sources.resolve(str(tmp_path / "c.jsonl")).documents(0)) == ["cat ?"]


def test_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "c.txt").write_text("cat", encoding="utf-8-sig")
    assert list(sources.resolve(str(tmp_path / "c.txt")).documents(0)) == ["cat"]


# --- builtin and real text ---


def test_builtin_gives_windows_enough_for_the_defaults():
    """Counted in characters, at GPT-2's four a token: the toy tokenizer's own tokens are shorter."""
    needed_chars = 4 * 128 * 2048
    texts = sampling._beginning(sources.resolve("builtin").documents(0), needed_chars)
    assert sum(map(len, texts)) >= needed_chars


def test_builtin_is_english_read_no_further_than_needed(tokenizer):
    windows_BT = windows("builtin", tokenizer, 8, 256, seed=0)
    assert torch.equal(windows_BT, windows("builtin", tokenizer, 8, 256, seed=0))
    assert " the " in tokenizer.decode(windows_BT.flatten())
    assert not sources.resolve("builtin").whole


@pytest.mark.skipif(not C4_SAMPLE.exists(), reason="the shared C4 sample is not on this machine")
def test_real_c4_sample(tokenizer):
    windows_BT = windows(str(C4_SAMPLE), tokenizer, 32, 512, seed=0)
    assert windows_BT.shape == (32, 512)
    assert len(windows_BT.unique(dim=0)) == 32


# --- the hub ---


class Rows:
    """Stands in for a streamed data set: remembers how it was asked for and how far it was read."""

    def __init__(self, field: str = "text") -> None:
        self.field = field
        self.num_read = 0

    def load_dataset(self, *args: object, **options: object) -> Rows:
        self.asked = args, options
        return self

    def shuffle(self, seed: int, buffer_size: int) -> Iterator[dict[str, str]]:
        self.seed = seed
        for text in prose(1000):
            self.num_read += 1
            yield {self.field: text}


def use_hub(monkeypatch: pytest.MonkeyPatch, load_dataset: object) -> None:
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


@pytest.mark.parametrize(
    ("name", "asked"),
    [("c4", ("allenai/c4", "en")), ("me/it", ("me/it", None)), ("me/it-2.0:v1", ("me/it-2.0", "v1"))],
)
def test_hub_ids_are_streamed_from_the_train_split(monkeypatch, tokenizer, name, asked):
    rows = Rows()
    use_hub(monkeypatch, rows.load_dataset)
    windows(name, tokenizer, 2, 16, seed=7)
    assert rows.asked == (asked, {"split": "train", "streaming": True})
    assert rows.seed == 7


def test_hub_is_read_no_further_than_needed(monkeypatch, tokenizer):
    rows = Rows()
    use_hub(monkeypatch, rows.load_dataset)
    windows("me/it", tokenizer, 4, 32, seed=0)
    running_chars = list(accumulate(map(len, prose(1000))))
    assert rows.num_read == 1 + bisect_left(running_chars, 4 * 32 * sampling.POOL_CHARS_PER_TOKEN)


def test_local_path_wins_over_a_hub_id(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "it").write_text(" ".join(prose(50)))
    use_hub(monkeypatch, None)
    assert windows("me/it", tokenizer, 2, 8, seed=0).shape == (2, 8)


def test_unreachable_hub_names_the_other_choices(monkeypatch, tokenizer):
    def refuse(*args: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\nwith a long story")

    use_hub(monkeypatch, refuse)
    assert error_of("c4", tokenizer) == (
        "hub dataset 'allenai/c4:en' cannot be read: Couldn't reach the Hub; check the network and the "
        "id, or give a local text, JSONL, CSV, TSV or Parquet file or a folder of them, or 'builtin'"
    )


def test_hub_that_breaks_off_is_an_error(monkeypatch, tokenizer):
    def rows(seed: int, buffer_size: int) -> Iterator[dict[str, str]]:
        yield {"text": "cat"}
        raise OSError("connection reset")

    use_hub(monkeypatch, lambda *args, **options: types.SimpleNamespace(shuffle=rows))
    assert "connection reset" in error_of("me/it", tokenizer)


def test_hub_rows_without_text(monkeypatch, tokenizer):
    use_hub(monkeypatch, Rows(field="content").load_dataset)
    assert error_of("me/it", tokenizer) == (
        "hub dataset 'me/it' has no field 'text', only content; name the one that holds the text by --text-field"
    )


def test_the_real_datasets_library_offline():
    code = "from slimgpt.calibration import windows; windows('c4', None, 2, 8, seed=0)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert "CalibrationError: hub dataset 'allenai/c4:en' cannot be read" in result.stderr
    assert "'builtin'" in result.stderr


# --- bad input ---


def test_missing_file_offers_the_nearest_name(tmp_path, tokenizer, corpus):
    assert error_of(tmp_path / "corpsu.jsonl", tokenizer) == (
        f"calibration file '{tmp_path}/corpsu.jsonl' does not exist; did you mean '{corpus}'? Otherwise "
        "give a local text, JSONL, CSV, TSV or Parquet file or a folder of them, or 'builtin', or a hub id 'owner/name'"
    )


@pytest.mark.parametrize("name", ["nowhere/corpus.txt", "nowhere/corpus.JSONL", "~nobody/c", "a/b/c", "x\0y", ""])
def test_missing_files_are_not_sought_on_the_hub(monkeypatch, tokenizer, name):
    use_hub(monkeypatch, None)
    assert " does not exist; " in error_of(name, tokenizer)


def test_misspelt_words_are_put_right(tokenizer):
    assert "did you mean 'builtin'? Otherwise give" in error_of("buildin", tokenizer)


@pytest.mark.parametrize("content", [b"", b"\n\n \n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["c.txt", "c.jsonl"])
def test_empty_files(tmp_path, tokenizer, name, content):
    (tmp_path / name).write_bytes(content)
    assert error_of(tmp_path / name, tokenizer) == (
        f"calibration source '{tmp_path / name}' is empty; give one with text, or 'builtin'"
    )


def test_folder_without_files(tmp_path, tokenizer):
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    assert "holds no files that are text or tables; give a local text" in error_of(tmp_path / "empty", tokenizer)


LINE_ERRORS = {
    "binary": ("c.txt", b"cat\nd\0g\n", "is binary: line 2 holds a NUL byte; give UTF-8 text"),
    "latin-1": (
        "c.txt",
        b"cat\n\ncaf\xe9 au lait\n",
        "is not UTF-8: line 3 holds the byte 0xe9 (invalid continuation byte); convert the file to UTF-8",
    ),
    "cut-off character": (
        "c.md",
        "cat\n€".encode()[:-1],
        "is not UTF-8: line 2 holds the byte 0xe2 (unexpected end of data); convert the file to UTF-8",
    ),
    "broken JSON": (
        "c.jsonl",
        b'{"text": "cat"}\n{"text": "dog\n',
        "line 2, is not valid JSON (Invalid control character at at column 14); a JSONL file has one "
        "object per line: mend or delete the line",
    ),
    "other fields": (
        "c.jsonl",
        b'{"text": "cat"}\n\n{"content": "dog", "url": 1}\n',
        "line 3, has no field 'text', only content, url; name the one that holds the text by --text-field",
    ),
    "no fields": ("c.json", b"{}\n", "line 1, has no field 'text', only nothing; name the one that"),
    "no object": (
        "c.json",
        b'"cat"\n',
        'line 1, is a JSON str, not an object; write {"text": "..."} a line',
    ),
    "a number": (
        "c.jsonl",
        b'{"text": 5}\n',
        "line 1, has the field 'text' as int; it must be a string",
    ),
}


@pytest.mark.parametrize(("name", "content", "rule"), LINE_ERRORS.values(), ids=LINE_ERRORS)
def test_bad_lines_are_named(tmp_path, tokenizer, name, content, rule):
    (tmp_path / name).write_bytes(content)
    message = error_of(tmp_path / name, tokenizer)
    assert message.startswith(str(tmp_path / name))
    assert rule in message


def test_parquet_without_the_column(tmp_path, tokenizer):
    path = write_parquet(tmp_path / "c.parquet", content=["cat"], url=["x"])
    assert error_of(path, tokenizer) == (
        f"{path} has no field 'text', only content, url; name the one that holds the text by --text-field"
    )


def test_parquet_column_of_numbers(tmp_path, tokenizer):
    path = write_parquet(tmp_path / "c.parquet", text=[1, 2])
    assert "has the field 'text' as int; it must" in error_of(path, tokenizer)


@pytest.mark.parametrize("name", ["c.parquet", "c.txt.gz", "c.txt.bz2", "c.txt.xz", "c.txt.zst"])
def test_files_that_are_not_what_they_are_called(tmp_path, tokenizer, name):
    (tmp_path / name).write_text("The cat sees the dog, again and again.")
    message = error_of(tmp_path / name, tokenizer)
    assert message.startswith(f"{tmp_path / name} cannot be read: ")
    assert message.endswith("; check that the file is whole and readable")


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_truncated_archives(tmp_path, tokenizer, ending, compress):
    path = tmp_path / f"c.txt.{ending}"
    path.write_bytes(compress("\n".join(prose(500)).encode())[:-40])
    assert "cannot be read" in error_of(path, tokenizer)


def test_too_short_says_what_there_is(tmp_path, tokenizer):
    path = write_jsonl(tmp_path / "c.jsonl", prose(3))
    num_tokens = len(whole_stream(prose(3), tokenizer))
    assert error_of(path, tokenizer, num_windows=1000, seqlen=16) == (
        f"calibration source '{path}' has {num_tokens} tokens, enough for {num_tokens // 16} windows of "
        "16 and not for 1000; give more text, or ask for fewer or shorter windows"
    )


def test_sizes_are_checked_before_any_reading(tokenizer):
    assert error_of("nowhere.txt", tokenizer, num_windows=0) == (
        "0 calibration windows asked; ask for at least 1, usually 128"
    )
    assert error_of("nowhere.txt", tokenizer, seqlen=1) == (
        "calibration windows of 1 tokens asked; ask for at least 2, usually 2048"
    )


# --- the cache ---


@pytest.fixture
def num_computed(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one each time windows are truly drawn."""
    calls: list[None] = []
    draw = sampling._draw
    monkeypatch.setattr(sampling, "_draw", lambda *args: calls.append(None) or draw(*args))
    return calls


def test_cache_returns_the_same_windows_without_drawing_them(corpus, tokenizer, num_computed, cache_folder):
    expected = windows(str(corpus), tokenizer, 4, 16, seed=0)
    num_computed.clear()
    for _ in range(3):
        assert torch.equal(cached_windows(str(corpus), tokenizer, 4, 16, seed=0), expected)
    assert len(num_computed) == 1
    assert sorted(path.suffix for path in cache_folder.iterdir()) == [".json", ".safetensors"]


def test_cache_tells_requests_texts_and_tokenizers_apart(corpus, tokenizer, num_computed):
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    other.add_tokens(["kitten"])
    cached_windows(str(corpus), tokenizer, 4, 16, seed=0)
    cached_windows(str(corpus), tokenizer, 5, 16, seed=0)
    cached_windows(str(corpus), tokenizer, 4, 17, seed=0)
    cached_windows(str(corpus), tokenizer, 4, 16, seed=1)
    cached_windows(str(corpus), other, 4, 16, seed=0)
    cached_windows(str(corpus), tokenizer, 4, 16, seed=0, first=[tokenizer.bos_token_id])
    write_jsonl(corpus, prose(401))
    cached_windows(str(corpus), tokenizer, 4, 16, seed=0)
    assert len(num_computed) == 7


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_entry_is_drawn_anew_and_mended(corpus, tokenizer, num_computed, cache_folder, suffix, kind):
    cached_windows(str(corpus), tokenizer, 4, 16, seed=1)
    [other] = cache_folder.glob(f"*{suffix}")
    expected = cached_windows(str(corpus), tokenizer, 4, 16, seed=0)
    [entry] = set(cache_folder.glob(f"*{suffix}")) - {other}
    whole = entry.read_bytes()
    damaged = KINDS[kind](whole, other.read_bytes())
    entry.unlink() if damaged is None else entry.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as caught:
        assert torch.equal(cached_windows(str(corpus), tokenizer, 4, 16, seed=0), expected)
    assert len(num_computed) == 3
    assert entry.read_bytes() == whole
    reason = "gone" if kind == "gone" else "damaged, or from another run"
    said = f"{entry} is {reason}: the calibration windows are drawn again."
    assert [str(one.message) for one in caught] == ([] if (suffix, kind) == (".json", "gone") else [said])


def test_cache_that_cannot_be_written_costs_nothing_else(corpus, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SLIMGPT_CACHE", str(tmp_path / "file"))
    assert cached_windows(str(corpus), tokenizer, 4, 16, seed=0).shape == (4, 16)


def test_python_tokenizers_go_without_cache(corpus, tokenizer, cache_folder):
    def in_python(*args: object, **options: object) -> object:
        return tokenizer(*args, **options)

    windows_BT = cached_windows(str(corpus), in_python, 4, 16, seed=0)
    assert torch.equal(windows_BT, windows(str(corpus), tokenizer, 4, 16, seed=0))
    assert not cache_folder.exists()


def test_import_leaves_the_heavy_libraries_alone():
    code = "import slimgpt.calibration, sys; print({'transformers', 'datasets', 'pyarrow'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout == "set()\n"
