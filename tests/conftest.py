"""What all tests share: no network, and no cache of the machine's user."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: it reads this once
_CACHES = tempfile.TemporaryDirectory()  # goes with the process; tests may run in several
os.environ["HF_DATASETS_CACHE"] = f"{_CACHES.name}/datasets"
os.environ["HF_MODULES_CACHE"] = f"{_CACHES.name}/modules"
os.environ["TQDM_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True, scope="session")
def own_cache() -> Iterator[None]:
    """Calibration windows of test models are nobody else's."""
    before = os.environ.get("SLIMGPT_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SLIMGPT_CACHE"] = folder
        yield
    if before is None:
        del os.environ["SLIMGPT_CACHE"]
    else:
        os.environ["SLIMGPT_CACHE"] = before


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Models and data for the tests of recovery, made once: they only read them."""
    from recovery_shop import Shop  # not before a test wants it, because it needs peft

    return Shop(tmp_path_factory.mktemp("shop"))
