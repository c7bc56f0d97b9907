"""slimgpt: make language models smaller in a way people really use.

The names below are the public API; they load what they need when first used. Importing slimgpt also teaches
transformers' Auto classes to load pruned checkpoints, when they are first asked.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wrapt import when_imported, wrap_function_wrapper

from slimgpt._version import __version__

if TYPE_CHECKING:
    from slimgpt.config import PruneConfig
    from slimgpt.errors import SlimGPTError
    from slimgpt.evaluation import perplexity
    from slimgpt.model.checkpoint import open_checkpoint
    from slimgpt.model.generation import generate
    from slimgpt.model.inspection import inspect_model
    from slimgpt.model.loading import load_model
    from slimgpt.pruning.driver import prune
    from slimgpt.pruning.observer import Observer, PruneResult

_HOMES = {
    "prune": "slimgpt.pruning.driver",
    "PruneConfig": "slimgpt.config",
    "PruneResult": "slimgpt.pruning.observer",
    "Observer": "slimgpt.pruning.observer",
    "open_checkpoint": "slimgpt.model.checkpoint",
    "load_model": "slimgpt.model.loading",
    "perplexity": "slimgpt.evaluation",
    "generate": "slimgpt.model.generation",
    "inspect_model": "slimgpt.model.inspection",
    "SlimGPTError": "slimgpt.errors",
}

__all__ = [
    "Observer",
    "PruneConfig",
    "PruneResult",
    "SlimGPTError",
    "__version__",
    "generate",
    "inspect_model",
    "load_model",
    "open_checkpoint",
    "perplexity",
    "prune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'slimgpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def _having_taught(function: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    importlib.import_module("slimgpt.modeling_slimgpt").register()
    return function(*args, **kwargs)


@when_imported("transformers.models.auto.configuration_auto")
def _teach_transformers(module: Any) -> None:
    """Not yet: what imports that is half there. But before anyone is told what a ``model_type`` is."""
    for name in ("from_pretrained", "for_model"):
        wrap_function_wrapper(module.AutoConfig, name, _having_taught)
