"""What lies beside a model's weights and travels with it: licences, vocabularies, templates, what embedders need.

Told by name: a folder may hold anything, and what is not on the list (weights of before, Python, pickles) stays behind.
"""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

LICENCES = ("licen[cs]e*", "copying*", "notice*", "use_policy*", "*use_policy*", "acceptable_use*")
PROCESSORS = ("*preprocessor_config.json", "processor_config.json")
"""How pictures and sounds become what models read."""

TEMPLATES = ("*.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
)
EMBEDDERS = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "[0-9]*_*/config.json")
"""sentence-transformers' files, one folder a module."""

PATTERNS = (*LICENCES, *TEMPLATES, *PROCESSORS, *VOCABULARIES, *EMBEDDERS)
"""Of paths below the model's folder, in small letters."""

NEVER = (
    *(".py", ".pyc", ".so", ".sh"),
    *(".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz"),
    *(".safetensors", ".gguf", ".onnx", ".h5", ".msgpack"),
)
"""Endings of code, pickles and weights, whatever the rest of the name says."""


def copy_companions(source: Path, folder: Path, replace: bool = False) -> None:
    """Copy to ``folder`` what travels with the model in ``source``; what is there already stays unless ``replace``.

    A GGUF file has nothing beside it that is its own.
    """
    if not source.is_dir():
        return
    for path in companions(source):
        target = folder / path
        if replace or not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source / path, target)


def companions(source: Path) -> list[Path]:
    """Paths below ``source`` of the files that travel, sorted; links are followed inside the model alone."""
    below = [path.relative_to(source) for path in (*source.glob("*"), *source.glob("*/*"))]
    return sorted(path for path in below if _travels(path) and _is_inside(source, source / path))


def _travels(path: Path) -> bool:
    name = path.as_posix().lower()
    matches = any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in PATTERNS)
    return matches and not name.endswith(NEVER)


def _is_inside(source: Path, file: Path) -> bool:
    """A file of the model's own: in its folder, or, in the hub's cache, among the files that its snapshots share."""
    if not file.is_file():
        return False
    real, home = file.resolve(), source.resolve()
    shared = home.parent.parent / "blobs"
    homes = (home, shared) if home.parent.name == "snapshots" else (home,)
    return any(own in real.parents for own in homes)
