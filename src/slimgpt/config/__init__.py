"""Every option of every command, as frozen dataclasses: the command line, YAML recipes and the Python API share them.

``check()`` is called before any work and raises :class:`~slimgpt.errors.ConfigError`. Standard library only, but for
tyro's markers that say which fields are positional on the command line, and YAML.

Comes in: flags, recipes, Python arguments. Goes out: frozen options, each within its rule.
"""

from slimgpt.config.bench import BenchConfig
from slimgpt.config.doctor import DoctorConfig
from slimgpt.config.drop import DropConfig
from slimgpt.config.evaluate import EvalConfig
from slimgpt.config.export import ExportConfig
from slimgpt.config.generate import ChatConfig, CompareConfig, GenerateConfig
from slimgpt.config.inspect import FamiliesConfig, InspectConfig
from slimgpt.config.prune import PruneConfig
from slimgpt.config.push import PushConfig
from slimgpt.config.recipe import options_from, read_recipe
from slimgpt.config.recover import RecoverConfig
from slimgpt.config.report import ReportConfig
from slimgpt.config.search import SearchConfig
from slimgpt.config.sparsify import SparsifyConfig
from slimgpt.config.study import StudyConfig
from slimgpt.config.trim import TrimConfig

__all__ = [
    "BenchConfig",
    "ChatConfig",
    "CompareConfig",
    "DoctorConfig",
    "DropConfig",
    "EvalConfig",
    "ExportConfig",
    "FamiliesConfig",
    "GenerateConfig",
    "InspectConfig",
    "PruneConfig",
    "PushConfig",
    "RecoverConfig",
    "ReportConfig",
    "SearchConfig",
    "SparsifyConfig",
    "StudyConfig",
    "TrimConfig",
    "options_from",
    "read_recipe",
]
