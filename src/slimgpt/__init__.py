"""slimgpt: make language models smaller in a way people really use.

The names below are the public API; they load what they need when first used. Importing slimgpt also teaches
transformers' Auto classes to load pruned checkpoints, as soon as transformers itself is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

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


@when_imported("transformers.models.auto.configuration_auto")
def _bring_ours(module: Any) -> None:
    importlib.import_module("slimgpt.modeling_slimgpt")  # which may be what imports that


@when_imported("slimgpt.modeling_slimgpt")
def _teach_configurations(module: Any) -> None:
    module.register_configurations()


@when_imported("transformers.models.auto.modeling_auto")
def _teach_models(module: Any) -> None:
    importlib.import_module("slimgpt.modeling_slimgpt").register()
