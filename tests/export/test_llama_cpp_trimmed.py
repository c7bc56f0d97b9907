"""A trimmed vocabulary in a GGUF file: llama.cpp makes the tokens that transformers makes. ``make test-export``."""

from __future__ import annotations

from pathlib import Path

import pytest
import worded
from transformers import AutoTokenizer

from slimgpt import ExportConfig, TrimConfig, export, trim

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is missing: pip install 'slimgpt[llama-cpp]'")

pytestmark = pytest.mark.export

NOT_A_TEXT = ("<unk>", "\x00")  # a special token for llama.cpp alone, and the end of a string in C


@pytest.mark.parametrize("kind", worded.KINDS)
def test_a_trimmed_vocabulary_is_read_as_transformers_reads_it(kind: str, tmp_path: Path) -> None:
    model = worded.save_model(tmp_path / "model", kind)
    (tmp_path / "text.txt").write_text("the river runs over stones, the river runs under bridges 12")
    out = trim(TrimConfig(str(model), str(tmp_path / "out"), (str(tmp_path / "text.txt"),), keep=400)).path
    file = export(ExportConfig(str(out), str(tmp_path / "out.gguf"), format="gguf")).path
    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    ours = AutoTokenizer.from_pretrained(out)
    some = [text for text in worded.texts(400) if text.strip() and not any(odd in text for odd in NOT_A_TEXT)]
    assert len(some) > 250
    for text in some:
        found = theirs.tokenize(text.encode(), add_bos=False, special=True)
        assert found == ours(text, add_special_tokens=False)["input_ids"], repr(text)
