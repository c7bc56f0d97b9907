"""What a record says of every site: one form for all kinds of them, and the old one is read too."""

from __future__ import annotations

from typing import Any

import pytest
import run_folders

from slimgpt.output.record_sites import SiteRecord, by_layer, is_pruned, layer_rows, sites_of

GROUPS = run_folders.site(0, "attention", 3, [0, 2], unit="KV group", members=2, kept_members=[1, 4])
CHANNELS = run_folders.site(0, "ffn", 8, [1, 2, 5], unit="channel")
EXPERTS = [run_folders.site(1, f"ffn.{expert}", 8, [expert, 6], 0.2 * expert, unit="channel") for expert in (0, 1)]
BESIDE = run_folders.site(None, "vocabulary", 100, range(90), 0.01, unit="token")


def record(*sites: dict[str, Any], num_layers: int = 2) -> dict[str, Any]:
    return {"sizes": [{}] * num_layers, "sites": list(sites)}


def test_what_is_read_is_written_again_as_it_was() -> None:
    sites = [GROUPS, CHANNELS, *EXPERTS, BESIDE]
    assert [site.to_json() for site in sites_of(record(*sites))] == sites


def test_the_old_form_has_no_names_of_units() -> None:
    old = run_folders.old_form(record(GROUPS, CHANNELS, *EXPERTS))
    found = [site.to_json() for site in sites_of(old)]
    assert found == [{**GROUPS, "unit": "unit"}, CHANNELS, *EXPERTS]


@pytest.mark.parametrize("form", [record(GROUPS), run_folders.old_form(record(GROUPS))])
def test_what_was_pruned_is_told_from_what_was_not(form: dict[str, Any]) -> None:
    assert is_pruned(form)
    assert not is_pruned({"recovery": []})


def test_members_that_went_by_themselves() -> None:
    groups, channels = sites_of(record(GROUPS, CHANNELS))
    assert (groups.pieces, groups.lost_members) == ((1, 4), 1)
    assert (channels.pieces, channels.lost_members) == ((1, 2, 5), 0)
    assert SiteRecord(0, "attention", 3, (), 0.0, members=2, kept_members=()).lost_members == 0, "nothing is kept"


def test_a_table_has_a_row_for_each_layer_and_gaps_for_parts_that_it_lacks() -> None:
    """Experts keep equally many; their errors are averaged."""
    sites = sites_of(record(GROUPS, CHANNELS, *EXPERTS, BESIDE))
    assert {layer: list(parts) for layer, parts in by_layer(sites).items()} == {
        0: ["attention", "ffn"],
        1: ["ffn"],
        None: ["vocabulary"],
    }
    assert layer_rows(sites) == [
        ("0", "2 of 3, 1 of 2 queries in each", "3 of 8", "–", "0.1000", "0.1000", "–"),
        ("1", "–", "2 of 8", "–", "–", "0.1000", "–"),
        ("model", "–", "–", "90 of 100", "–", "–", "0.0100"),
    ]
