"""Killed at any moment and resumed, a recovery ends with the same bytes, and so does a study that goes on."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from damage import left_in
from recovery_shop import SETTINGS, Shop
from study_shop import write_recipe
from zygote import WRITES, How, Outcome, Zygote, last_of_each

pytestmark = pytest.mark.nightly

NUM_DEATHS = 20
VARIANTS: dict[str, dict[str, Any]] = {
    "LoRA, with a teacher": {"teacher": "DENSE", "dropout": 0.2, "keep_adapter": True},
    "all weights, stopping early": {
        "full": True, "max_steps": 30, "eval_every": 1, "patience": 2, "learning_rate": 1.2e-2, "batch_size": 2,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with Zygote(tmp_path_factory.mktemp("zygote")) as process:
        yield process


@pytest.fixture(scope="module")
def studying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with Zygote(tmp_path_factory.mktemp("zygote"), entry="study_shop:main") as process:
        yield process


def deaths(moments: list[str]) -> list[tuple[int, bool]]:
    """Moments over the whole run, each of another kind: right before, and in the middle of what is written."""
    every = last_of_each(moments)
    torn = [(number, True) for label, number in every.items() if label.startswith(WRITES)]
    before = sorted(set(every.values()))
    return [(number, False) for number in before[:: max(1, len(before) // (NUM_DEATHS - len(torn)))]] + torn


def killed_everywhere(run: Callable[..., Outcome], world: Path, results: tuple[str, ...], resume: str | None) -> None:
    """Kill runs in a folder that holds nothing else, let them go on, and compare what they leave."""
    straight = run()
    assert straight.status == 0, straight.text
    expected = left_in(world, results)
    found = deaths(straight.moments)
    assert len(found) >= NUM_DEATHS
    for number, torn in found:
        shutil.rmtree(world)
        world.mkdir()
        what = f"{straight.moments[number]}, {'torn' if torn else 'before'}"
        dead = run(how=How(number, torn))
        assert dead.status == -signal.SIGKILL, f"{what}: {dead.text}"
        gone_on = run(*([resume] if resume else []))
        assert gone_on.status == 0, f"{what}: {gone_on.text}"
        assert "slimgpt:" not in gone_on.text, f"{what}: nothing is damaged, {gone_on.text}"
        assert left_in(world, results) == expected, what
        assert not list(world.rglob("*.partial*")), what


@pytest.mark.parametrize("given", VARIANTS.values(), ids=list(VARIANTS))
def test_a_recovery(zygote: Zygote, shop: Shop, tmp_path: Path, given: dict[str, Any]) -> None:
    world = tmp_path / "world"
    world.mkdir()
    settings = {**SETTINGS, **given}
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in settings.items()]
    arguments = ["recover", str(shop.pruned), str(world / "out"), "--data", str(shop.text), *flags]
    arguments = [argument.replace("DENSE", str(shop.dense)) for argument in arguments]

    def run(*more: str, how: How = How()) -> Outcome:  # noqa: B008 - frozen
        return zygote.run([*arguments, *more], how)

    killed_everywhere(run, world, ("out",), resume="--resume")


def test_a_study(studying: Zygote, tmp_path: Path) -> None:
    """With commands that take no time."""
    world = tmp_path / "world"
    world.mkdir()
    recipe = write_recipe(tmp_path)

    def run(*more: str, how: How = How()) -> Outcome:  # noqa: B008 - frozen
        return studying.run([str(recipe), str(world / "out"), *more], how)

    killed_everywhere(run, world, ("out",), resume=None)
