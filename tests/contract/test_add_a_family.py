"""docs/add_a_family.md works as printed: its code, and nothing else, adds a family that slimgpt does not ship."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import test_families as contract
import tiny

from slimgpt import modeling_slimgpt
from slimgpt.arch import FAMILIES
from slimgpt.errors import ModelError

NAME = "starcoder2"
PAGE = Path(__file__).parents[2] / "docs" / "add_a_family.md"
FILE, FAMILY_ROW, BASE_ROW, TEST_ROW = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> contract.Workshop:
    return contract.Workshop(tmp_path_factory.mktemp("family"))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("slimgpt.arch.starcoder2")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(FILE, module.__dict__)
    for table, row, names in (
        (FAMILIES, FAMILY_ROW, module.__dict__),
        (modeling_slimgpt.BASES, BASE_ROW, vars(modeling_slimgpt)),
        (tiny.MODELS, TEST_ROW, vars(tiny)),
    ):
        monkeypatch.setitem(table, NAME, eval("{" + row + "}", names)[NAME])


def test_it_is_not_shipped(shop: contract.Workshop, monkeypatch: pytest.MonkeyPatch, added: None) -> None:
    source = shop.dense(NAME)
    monkeypatch.undo()
    with pytest.raises(ModelError, match="'starcoder2' is none of the tested families"):
        shop.pruned(source, families="known")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "check",
    [
        contract.test_sliced_equals_masked,
        contract.test_repaired_weights_are_least_squares,
        contract.test_cache_and_padding_change_nothing,
    ],
)
def test_keeps_the_contract(shop: contract.Workshop, added: None, check: object, attention: str) -> None:
    check(shop, NAME, attention)


@pytest.mark.parametrize(
    "check",
    [
        contract.test_ratio_0_is_the_dense_model,
        contract.test_parameters_by_formula,
        contract.test_prunes_again,
        contract.test_keeps_bfloat16,
        contract.test_uniform_loads_as_a_stock_class_or_says_why_not,
    ],
)
def test_keeps_the_rest_of_it(shop: contract.Workshop, added: None, check: object) -> None:
    check(shop, NAME)
