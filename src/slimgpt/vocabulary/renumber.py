"""A tokenizer with fewer tokens, and whatever else names tokens by their ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from slimgpt.errors import ModelError
from slimgpt.machine.atomic import write_json
from slimgpt.machine.json_files import read_object
from slimgpt.model.tokenizer import load_tokenizer
from slimgpt.vocabulary.spec import Spec

TOKENIZER, SETTINGS, ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens_decoder"
NAMES_IDS = re.compile(r"\w*_token_ids?|\w*_token_index|(begin_)?suppress_tokens|(bad|force)_words_ids")
"""Keys of config.json and generation_config.json whose values are ids, or lists of them."""

NOT_FOLLOWED = ("sequence_bias", "forced_decoder_ids")
"""Keys that name tokens in other forms."""

New = Mapping[int, int]
"""Ids of before -> ids now."""


def new_ids(kept: Sequence[int]) -> New:
    """The order of before, without gaps."""
    return {old: new for new, old in enumerate(kept)}


def smaller_tokenizer(tokenizer: Any, spec: Spec, config: Any, new: New) -> Any:
    """A tokenizer of the same kind with the tokens of ``new``; ``config`` is the model's, which says the kind."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / TOKENIZER, _content(spec, new))
        settings = read_object(folder / SETTINGS)
        if ADDED in settings:
            settings[ADDED] = {str(new[int(old)]): token for old, token in settings[ADDED].items()}
            write_json(folder / SETTINGS, settings)
        return load_tokenizer(folder)


def _content(spec: Spec, new: New) -> dict[str, Any]:
    """The content of tokenizer.json."""
    vocab = {token: new[old] for token, old in spec.model["vocab"].items() if old in new}
    merges = [pair for pair in spec.merges if all(piece in vocab for piece in (*pair, "".join(pair)))]
    added = [{**token, "id": new[token["id"]]} for token in spec.content["added_tokens"]]
    padding = spec.content["padding"]
    return {
        **spec.content,
        "model": {**spec.model, "vocab": vocab, "merges": merges},
        "added_tokens": added,
        "post_processor": _processor(spec.content["post_processor"], new),
        "padding": padding and {**padding, "pad_id": new[padding["pad_id"]]},
    }


def _processor(step: Any, new: New) -> Any:
    """A post-processor, whose tokens have ids in ``ids`` (templates), or behind their texts (BERT's and RoBERTa's)."""
    if isinstance(step, list):
        return [_processor(part, new) for part in step]
    if not isinstance(step, dict):
        return step
    ids = {"ids": [new[old] for old in step["ids"]]} if "ids" in step else {}
    pairs = {key: [step[key][0], new[step[key][1]]] for key in ("sep", "cls") if isinstance(step.get(key), list)}
    return {key: _processor(value, new) for key, value in step.items()} | ids | pairs


def named_ids(settings: Mapping[str, Any]) -> set[int]:
    """Ids that a configuration names."""
    found: set[int] = set()
    for key, value in settings.items():
        if NAMES_IDS.fullmatch(key):
            found |= set(_numbers(value))
    return found


def check_followed(settings: Mapping[str, Any], source: str) -> None:
    """Raise ModelError where a configuration names tokens in a form that we do not follow."""
    if (key := next((key for key in NOT_FOLLOWED if settings.get(key)), None)) is not None:
        raise ModelError(f"{source}: {key} names tokens in a form that slimgpt trim does not follow: remove it first.")


def renumbered(settings: Mapping[str, Any], new: New) -> dict[str, Any]:
    """A configuration with the ids of now; what named no row of the embedding names none still."""
    return {key: _mapped(value, new) if NAMES_IDS.fullmatch(key) else value for key, value in settings.items()}


def _numbers(value: Any) -> list[int]:
    if isinstance(value, list):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int) else []


def _mapped(value: Any, new: New) -> Any:
    if isinstance(value, list):
        return [_mapped(part, new) for part in value]
    return new.get(value) if isinstance(value, int) and value >= 0 else value
