"""Writing beside other work: in order, one at a time, and nothing that goes wrong is lost."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from slimgpt.streaming.write_behind import WriteBehind


def test_writing_goes_on_beside_the_caller_and_in_order() -> None:
    written: list[int] = []
    gate = threading.Event()

    def first() -> None:
        gate.wait(10)
        written.append(1)

    with closing(WriteBehind()) as writer:
        writer.start(first)
        assert written == []
        gate.set()
        writer.start(lambda: written.append(2))
        assert written[0] == 1
        writer.finish()
        assert written == [1, 2]


@pytest.mark.parametrize("then", ["start", "finish"])
def test_what_went_wrong_is_raised_at_the_next_occasion(then: str) -> None:
    def full() -> None:
        raise OSError("no space")

    with closing(WriteBehind()) as writer:
        writer.start(full)
        with pytest.raises(OSError, match="no space"):
            writer.start(lambda: None) if then == "start" else writer.finish()
        writer.finish()  # it is raised once


def test_close_waits_for_the_last_writing() -> None:
    written: list[int] = []
    gate = threading.Event()
    writer = WriteBehind()
    writer.start(lambda: (gate.wait(10), written.append(1)))
    threading.Timer(0.05, gate.set).start()
    writer.close()
    assert written == [1]
