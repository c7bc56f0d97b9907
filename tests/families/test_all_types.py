"""Every model type of the installed transformers: what is accepted keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_types
from rows import TESTED
from write_table import row_alone


@pytest.mark.families
@pytest.mark.parametrize("model_type", tiny_types.TYPES)
def test_what_is_accepted_keeps_the_contract(model_type: str, tmp_path: Path) -> None:
    row = row_alone(model_type)
    assert row.why or row.known
    if row.known != TESTED:
        assert not row.fails, row
