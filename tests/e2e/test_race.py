"""Two runs started at once into one OUT: at most one comes to its end there, and what stands there is that one's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from writers import Inputs
from zygote import Outcome, Zygote

pytestmark = pytest.mark.e2e

CALIBRATION = ["--calibration=builtin", "--samples=8", "--seqlen=32"]
RUNS = {
    "prune": ["--ratio=0.2", "--round-to=1", *CALIBRATION],
    "prune otherwise": ["--ratio=0.3", "--round-to=1", "--solver=magnitude", *CALIBRATION],
    "sparsify": ["--method=magnitude", "--sparsity=0.3"],
    "sparsify otherwise": ["--method=wanda", "--sparsity=0.6", *CALIBRATION],
    "drop": ["--layers=1", *CALIBRATION],
    "drop otherwise": ["--layers=2", *CALIBRATION],
    "export": ["--format=padded"],
}
PAIRS = [
    ("prune", "prune otherwise"),
    ("sparsify", "sparsify otherwise"),
    ("drop", "drop otherwise"),
    ("export", "export"),
    ("prune", "sparsify"),
    ("drop", "export"),
]
REFUSALS = ("another slimgpt run is at work in", "exists", "an unfinished run is in")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Zygote]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Zygote(tmp_path_factory.mktemp("zygote"))) for _ in range(2)]


def run(zygote: Zygote, name: str, inputs: Inputs, out: Path, *flags: str) -> Outcome:
    return zygote.run([name.split()[0], str(inputs.model), str(out), *RUNS[name], *flags])


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(two: list[Zygote], inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    made = {}
    for name in RUNS:
        out = tmp_path_factory.mktemp("undisturbed") / "out"
        done = run(two[0], name, inputs, out)
        assert done.status == 0, done.text
        made[name] = weights(out)
    return made


@pytest.mark.parametrize("flags", [(), ("--force",)], ids=["plain", "force"])
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_two_at_once(
    two: list[Zygote],
    inputs: Inputs,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    pair: tuple[str, str],
    flags: tuple[str, ...],
) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(run, *each, inputs, out, *flags) for each in zip(two, pair, strict=True)]
            ends = [one.result() for one in waiting]
        ended_well = [name for name, end in zip(pair, ends, strict=True) if end.status == 0]
        assert ended_well, [end.text for end in ends]
        assert len(ended_well) == 1 or flags  # with --force the second may come after the first and replace it
        assert weights(out) in [undisturbed[name] for name in ended_well]
        for end in ends:
            assert end.status == 0 or (end.status == 2 and any(words in end.text for words in REFUSALS)), end.text
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        shutil.rmtree(out)
