"""Units from what reaches what, on layers made by hand."""

from __future__ import annotations

import pytest
import torch
from hand_made import Attention, Gated, on_bench
from torch import nn

from slimgpt.detection.bench import Bench
from slimgpt.detection.companions import companions
from slimgpt.detection.reach import Reach, reaches
from slimgpt.detection.units import NotSeparable, Units, connected, find_units
from slimgpt.sites import Segment


def units_of(bench: Bench, consumer: str) -> Units:
    """From every producer before the consumer."""
    order = bench.projections
    before = order[: order.index(consumer)]
    found = {path: reach[consumer] for path in before if consumer in (reach := reaches(bench, path, [consumer]))}
    return find_units(found, bench.layer.get_submodule(consumer).weight.shape[1])


@pytest.mark.parametrize(
    ("layout", "producers"),
    [
        ("apart", (Segment("ffn.gate", 1), Segment("ffn.up", 1))),
        ("halves", (Segment("ffn.both", 1), Segment("ffn.both", 1, offset=7))),
        ("turns", (Segment("ffn.both", 2),)),
    ],
)
def test_channels_in_whatever_order(layout: str, producers: tuple[Segment, ...]) -> None:
    units = units_of(on_bench(None, Gated(7, layout)), "ffn.down")
    assert units == Units(7, 1, 1, producers, (), onward=False)


def test_heads() -> None:
    units = units_of(on_bench(Attention(keys=3, queries=1)), "attention.o")
    assert (units.num_units, units.unit_width, units.members, units.onward) == (3, 2, 1, True)
    assert units.producers == tuple(Segment(f"attention.{name}", 2) for name in "qkv")


def test_query_heads_that_share_keys_are_members_of_a_group() -> None:
    units = units_of(on_bench(Attention(keys=3, queries=4)), "attention.o")
    assert (units.num_units, units.unit_width, units.members) == (3, 8, 4)
    assert units.producers[0] == Segment("attention.q", 8, by_member=True)
    assert units.producers[1:] == (Segment("attention.k", 2), Segment("attention.v", 2))


def test_keys_that_serve_all_queries_stay() -> None:
    units = units_of(on_bench(Attention(keys=1, queries=4)), "attention.o")
    assert (units.num_units, units.unit_width) == (4, 2)
    assert units.producers == (Segment("attention.q", 2),)
    assert units.shared == ("attention.k", "attention.v")


def test_a_norm_over_all_heads_couples_them() -> None:
    """Negative control: values alone still tell heads apart, and what serves all is named."""
    units = units_of(on_bench(Attention(keys=3, queries=1, norm=True)), "attention.o")
    assert units.producers == (Segment("attention.k", 2), Segment("attention.v", 2))
    assert units.shared == ("attention.q",)


class Normed(nn.Module):
    """An FFN with a norm over its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(12, 6), nn.LayerNorm(6), nn.Linear(6, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.norm(self.up(x)))


def test_a_norm_over_all_channels_couples_them() -> None:
    with pytest.raises(NotSeparable, match="all its inputs hang together"):
        units_of(on_bench(None, Normed()), "ffn.down")


def test_sinks_go_with_their_heads() -> None:
    bench = on_bench(Attention(keys=2, queries=3, sinks=True))
    found = companions(bench, "attention.o", units_of(bench, "attention.o"))
    assert found == (Segment("attention.sinks", 3, by_member=True),)


class Scaled(Attention):
    """With as many numbers as it has units, each of which matters to all of them."""

    def __init__(self) -> None:
        super().__init__(keys=2, queries=3)
        self.scale = nn.Parameter(torch.ones(2))

    def q_of(self, x: torch.Tensor) -> torch.Tensor:
        return super().q_of(x) * self.scale.mean()


def test_tensors_that_all_units_share_are_no_companions() -> None:
    bench = on_bench(Scaled())
    assert companions(bench, "attention.o", units_of(bench, "attention.o")) == ()


def test_a_norm_before_the_block_is_no_producer() -> None:
    bench = on_bench(Attention(keys=3, queries=1), Gated(7))
    assert set(bench.projections) == {f"attention.{name}" for name in "qkvo"} | {
        f"ffn.{n}" for n in ("gate", "up", "down")
    }
    assert reaches(bench, "attention.v", ["ffn.down"]) == {}


# --- the sets alone --------------------------------------------------------------------------------


def reach(pairs: list[tuple[int, int]], rows: int, onward: bool = False) -> Reach:
    row_E, column_E = torch.tensor(pairs).T
    return Reach(row_E, column_E, torch.zeros(rows, dtype=torch.bool), torch.full((rows,), onward))


def test_connected_follows_long_chains() -> None:
    chain = torch.arange(49)
    assert connected(chain.repeat(2), torch.cat([chain, chain + 1]), 51).tolist() == [0] * 50 + [1]


def test_units_that_do_not_lie_side_by_side_are_refused() -> None:
    striped = reach([(row, column) for row in range(2) for column in range(row, 6, 2)], 2)
    with pytest.raises(NotSeparable, match="do not lie side by side"):
        find_units({"p": striped}, 6)


def test_rows_that_do_not_lie_unit_after_unit_are_refused() -> None:
    swapped = reach([(0, 1), (1, 0), (2, 2)], 3)
    with pytest.raises(NotSeparable, match="the outputs of p do not lie unit after unit"):
        find_units({"p": swapped}, 3)


def test_parts_of_different_sizes_are_refused() -> None:
    with pytest.raises(NotSeparable, match="parts of different sizes"):
        find_units({"p": reach([(0, 0), (1, 1), (1, 2)], 2)}, 3)
