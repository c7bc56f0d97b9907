"""slimgpt: make language models smaller in a way people really use.

Every command is a function of the same name (``eval`` is :func:`evaluate`): it takes its options as a frozen
dataclass, tells an observer how far it is, and gives back what it found or where it wrote. The names below are the
public API; they load what they need when first used. Importing slimgpt also teaches transformers' Auto classes to load
pruned checkpoints, when they are first asked.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wrapt import when_imported, wrap_function_wrapper

from slimgpt._version import __version__

if TYPE_CHECKING:
    from slimgpt.benchmarking import bench
    from slimgpt.config import (
        BenchConfig,
        DropConfig,
        EvalConfig,
        ExportConfig,
        PruneConfig,
        PushConfig,
        RecoverConfig,
        ReportConfig,
        SearchConfig,
        SparsifyConfig,
        StudyConfig,
        TrimConfig,
    )
    from slimgpt.depth import DropResult, drop
    from slimgpt.efforts import prune
    from slimgpt.errors import SlimGPTError
    from slimgpt.evaluation import EvalObserver, EvalResult, evaluate, perplexity
    from slimgpt.exports import ExportResult, export
    from slimgpt.model.checkpoint import open_checkpoint
    from slimgpt.model.generation import generate
    from slimgpt.model.inspection import inspect_model
    from slimgpt.model.loading import load_model
    from slimgpt.pruning.observer import Observer, PruneResult
    from slimgpt.recovery import RecoverObserver, RecoverResult, recover
    from slimgpt.reports.page import ReportResult, report
    from slimgpt.searching import SearchResult, search
    from slimgpt.sharing import PushResult, push
    from slimgpt.sparsity import SparsifyResult, sparsify
    from slimgpt.streaming.observer import StreamObserver
    from slimgpt.studies import StudyObserver, StudyResult, study
    from slimgpt.vocabulary import TrimResult, trim

_HOMES = {
    "slimgpt.benchmarking": ("bench",),
    "slimgpt.config": (
        "BenchConfig",
        "DropConfig",
        "EvalConfig",
        "ExportConfig",
        "PruneConfig",
        "PushConfig",
        "RecoverConfig",
        "ReportConfig",
        "SearchConfig",
        "SparsifyConfig",
        "StudyConfig",
        "TrimConfig",
    ),
    "slimgpt.depth": ("drop", "DropResult"),
    "slimgpt.efforts": ("prune",),
    "slimgpt.errors": ("SlimGPTError",),
    "slimgpt.evaluation": ("evaluate", "EvalResult", "EvalObserver", "perplexity"),
    "slimgpt.exports": ("export", "ExportResult"),
    "slimgpt.model.checkpoint": ("open_checkpoint",),
    "slimgpt.model.generation": ("generate",),
    "slimgpt.model.inspection": ("inspect_model",),
    "slimgpt.model.loading": ("load_model",),
    "slimgpt.pruning.observer": ("Observer", "PruneResult"),
    "slimgpt.recovery": ("recover", "RecoverResult", "RecoverObserver"),
    "slimgpt.reports.page": ("report", "ReportResult"),
    "slimgpt.searching": ("search", "SearchResult"),
    "slimgpt.sharing": ("push", "PushResult"),
    "slimgpt.sparsity": ("sparsify", "SparsifyResult"),
    "slimgpt.streaming.observer": ("StreamObserver",),
    "slimgpt.studies": ("study", "StudyResult", "StudyObserver"),
    "slimgpt.vocabulary": ("trim", "TrimResult"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BenchConfig",
    "DropConfig",
    "DropResult",
    "EvalConfig",
    "EvalObserver",
    "EvalResult",
    "ExportConfig",
    "ExportResult",
    "Observer",
    "PruneConfig",
    "PruneResult",
    "PushConfig",
    "PushResult",
    "RecoverConfig",
    "RecoverObserver",
    "RecoverResult",
    "ReportConfig",
    "ReportResult",
    "SearchConfig",
    "SearchResult",
    "SlimGPTError",
    "SparsifyConfig",
    "SparsifyResult",
    "StreamObserver",
    "StudyConfig",
    "StudyObserver",
    "StudyResult",
    "TrimConfig",
    "TrimResult",
    "__version__",
    "bench",
    "drop",
    "evaluate",
    "export",
    "generate",
    "inspect_model",
    "load_model",
    "open_checkpoint",
    "perplexity",
    "prune",
    "push",
    "recover",
    "report",
    "search",
    "sparsify",
    "study",
    "trim",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'slimgpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _having_taught(function: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    for name in ("slimgpt.modeling_slimgpt", "slimgpt.modeling_by_path"):
        importlib.import_module(name).register()
    return function(*args, **kwargs)


@when_imported("transformers.models.auto.configuration_auto")
def _teach_transformers(module: Any) -> None:
    """Not yet: what imports that is half there. But before anyone is told what a ``model_type`` is."""
    for name in ("from_pretrained", "for_model"):
        wrap_function_wrapper(module.AutoConfig, name, _having_taught)
