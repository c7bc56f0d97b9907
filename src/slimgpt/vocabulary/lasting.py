"""Tokens that a model names itself: in its tokenizer, its chat template, its settings of generation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slimgpt.machine.json_files import read_object
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.generation_settings import FILE
from slimgpt.vocabulary.renumber import check_followed, named_ids
from slimgpt.vocabulary.spec import Spec

LITERAL = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"|[%}]}([^{]+)")
"""What a template may write as it is: its strings, and what stands between its statements."""


def lasting_ids(checkpoint: Checkpoint, tokenizer: Any, spec: Spec) -> set[int]:
    """Ids of before, all of them rows of the embedding.

    Raises:
        ModelError: settings name tokens in a form that we do not follow.
    """
    named: set[int] = set()
    for settings in (checkpoint.config.to_dict(), generation_settings(checkpoint.path)):
        check_followed(settings, checkpoint.source)
        named |= {index for index in named_ids(settings) if 0 <= index < checkpoint.vocabulary}
    texts = list(_written(tokenizer.chat_template))
    of_template = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return spec.lasting() | named | {index for ids in of_template for index in ids}


def generation_settings(path: Path) -> Mapping[str, Any]:
    """What the model's own generation_config.json says; nothing where there is none."""
    file = path / FILE
    return read_object(file) if file.is_file() else {}


def _written(template: Any) -> Iterator[str]:
    """Texts that templates (one, several by name, or none) write themselves."""
    for one in template.values() if isinstance(template, dict) else [template or ""]:
        for found in LITERAL.finditer(one):
            if text := next(filter(None, found.groups()), "").replace("\\n", "\n"):
                yield text
