"""What a run says that it needs: how stages add up, what is refused, and whether it is what a process then takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch

from slimgpt import cli
from slimgpt.errors import ConfigError
from slimgpt.machine import host
from slimgpt.reports.memory import needs_lines
from slimgpt.streaming import memory
from slimgpt.streaming.memory import LIBRARIES, Needs, Stage

MIB, GIB = 2**20, 2**30
CPU = torch.device("cpu")
CURE = "buy more"
CAUGHT = 0.15
WORDS = "Some words to learn, and some more of them. " * 9


def machine(monkeypatch: pytest.MonkeyPatch, free_memory: int, free_disk: int = 1 << 50) -> None:
    """What this one has free."""
    monkeypatch.setattr(host, "free_bytes", lambda: free_memory)
    monkeypatch.setattr("psutil.disk_usage", lambda path: type("Disk", (), {"free": free_disk}))


def needs(**changes: Any) -> Needs:
    """A pass of 10 GiB in all, and another one of less."""
    stages = (
        Stage("a small thing", host={"layers": GIB}),
        Stage("a pass", {"a batch": 4 * GIB, "solver": GIB}, {"layers": GIB - LIBRARIES}, activations=4 * GIB),
    )
    return Needs(
        **{"stages": stages, "taken": 2 * GIB, "most_so_far": GIB, "offloaded": False, "on_cpu": True, **changes}
    )


# --- how stages add up -----------------------------------------------------------------------------


def test_the_largest_stage_decides_with_what_is_taken_already() -> None:
    assert needs().more == 10 * GIB
    assert needs().host == 12 * GIB
    assert needs().largest.name == "a pass"
    assert list(needs().parts) == ["activations", "a batch", "solver", "layers", "libraries"], "the most first"
    assert needs().device == 5 * GIB


def test_what_lies_elsewhere_does_not_count() -> None:
    assert needs(on_cpu=False).host == 7 * GIB
    assert needs(offloaded=True).host == 8 * GIB
    assert (needs().disk, needs(offloaded=True).disk) == (0, 4 * GIB)


def test_a_process_never_takes_less_than_it_has_taken() -> None:
    assert needs(most_so_far=40 * GIB).host == 40 * GIB
    assert "of memory, which getting ready has taken already." in needs_lines(needs(most_so_far=40 * GIB), CPU)


def test_what_is_said_names_the_stage_and_its_parts() -> None:
    assert needs_lines(needs(), CPU) == (
        "Needs about 12.0 GiB of memory, the most in a pass (2,048 MiB by now, 4,096 MiB activations, 4,096 MiB "
        "a batch, 1,024 MiB solver, 960 MiB layers)."
    ), "parts under a hundredth are left out"
    on_gpu = needs_lines(needs(on_cpu=False, offloaded=True), "cuda:0", num_processes=2)
    assert on_gpu.startswith(
        "Needs about 5,120 MiB on cuda:0, 3,136 MiB of memory, 4,096 MiB on disk for activations in each of 2 processes"
    )


# --- what is refused -------------------------------------------------------------------------------


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, 10 * GIB)
    memory.check(needs(), CPU, CURE, tmp_path)
    machine(monkeypatch, 9 * GIB)
    with pytest.raises(
        ConfigError,
        match=r"^this run needs about 12\.0 GiB of memory, 10\.0 GiB more than it has now, and 9\.0 GiB are free: "
        r"buy more\.$",
    ):
        memory.check(needs(), CPU, CURE, tmp_path)
    memory.check(needs(offloaded=True), CPU, CURE, tmp_path)


def test_processes_on_one_machine_share_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, 24 * GIB)
    memory.check(needs(), CPU, CURE, tmp_path, sharers=2)
    with pytest.raises(ConfigError, match=r"each of 3 processes needs about 12\.0 GiB .* 8\.0 GiB are free for it"):
        memory.check(needs(), CPU, CURE, tmp_path, sharers=3)


def test_what_does_not_fit_onto_the_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, 100 * GIB, free_disk=3 * GIB)
    with pytest.raises(ConfigError, match=r"activations take 4\.0 GiB, and .*/away has 3\.0 GiB free.*--samples"):
        memory.check(needs(offloaded=True), CPU, CURE, tmp_path / "away")
    memory.check(needs(), CPU, CURE, tmp_path)


def test_activations_that_take_half_of_what_is_free_go_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [Stage("a pass", activations=4 * GIB)]
    machine(monkeypatch, 9 * GIB)
    assert not memory.needs(stages, CPU).offloaded
    assert memory.needs(stages, CPU, sharers=2).offloaded
    assert memory.needs(stages, CPU, offload=True).offloaded


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("memory") / "model")


ASKED = {
    "prune": ["--ratio", "0.25"],
    "prune, not searched": ["--ratio", "0.25", "--allocation", "log"],
    "sparsify": ["--sparsity", "0.5"],
    "drop": ["--layers", "1"],
    "recover": ["--data", "{rows}", "--seqlen", "32", "--max-steps", "2", "--warmup", "0"],
}
CURES = {
    "prune": "lower --batch-size or --samples, or put the activations on a disk with --offload-dir, or do without the "
    "search by --allocation log.",
    "prune, not searched": "lower --batch-size or --samples, or put the activations on a disk with --offload-dir.",
    "sparsify": "lower --batch-size or --samples.",
    "drop": "lower --batch-size or --samples.",
    "recover": "lower --micro-batch-size or --seqlen, add --gradient-checkpointing, train adapters instead of --full, "
    "or leave the teacher on disk with --teacher-streamed.",
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_refused_run_leaves_nothing_and_names_its_cure(
    asked: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, MIB)
    rows, command = tmp_path / "rows.jsonl", asked.split(",")[0]
    rows.write_text((json.dumps({"text": WORDS}) + "\n") * 64)
    text = [] if command == "recover" else ["--calibration", str(rows), "--samples", "4", "--seqlen", "32"]
    words = [word.format(rows=rows) for word in ASKED[asked]]
    assert cli.main([command, str(model), str(tmp_path / "out"), "--device", "cpu", *text, *words]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("slimgpt: error: this run needs about ")
    assert said.endswith(f" GiB are free: {CURES[asked]}")
    assert list(tmp_path.iterdir()) == [rows]


# --- what is free ----------------------------------------------------------------------------------


def test_a_container_has_what_is_left_of_its_limit(tmp_path: Path) -> None:
    own, groups = tmp_path / "cgroup", tmp_path / "groups"
    (groups / "a" / "b").mkdir(parents=True)
    own.write_text("1:name=systemd:/\n0::/a/b\n")
    group(groups / "a", limit="1000", taken=700, files=50)
    group(groups / "a" / "b", limit="max", taken=700, files=50)
    assert list(host._left_in_groups(own, groups)) == [350], "no limit in its own group, one above it"
    group(groups / "a" / "b", limit="500", taken=700, files=50)
    assert list(host._left_in_groups(own, groups)) == [0, 350]


def group(folder: Path, limit: str, taken: int, files: int) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon {taken - files}\ninactive_file {files}\n")


def test_without_such_groups_the_machine_is_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/x\n")
    assert list(host._left_in_groups(tmp_path / "cgroup", tmp_path)) == []
    assert list(host._left_in_groups(tmp_path / "absent", tmp_path)) == []
    assert 0 < host.resident_bytes() <= host.peak_host_bytes()


# --- what is said, and what is taken ---------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from slimgpt import cli
assert cli.main(sys.argv[2:]) == 0
Path(sys.argv[1]).write_text(Path("/proc/self/status").read_text())
"""
SHAPE = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 16384, "head_dim": 64}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512}
TEXT = ("--calibration", "{rows}", "--samples", "8", "--seqlen", "512", "--device", "cpu")
TRAINING = ("--full", "--seqlen", "128", "--max-steps", "2", "--warmup", "1", "--batch-size", "8", "--keep", "last")
COMMANDS = {
    "prune, searched": ["prune", "{model}", "{out}", "--ratio", "0.25", *TEXT],
    "sparsify": ["sparsify", "{model}", "{out}", "--sparsity", "0.5", *TEXT],
    "recover": ["recover", "{model}", "{out}", "--data", "{rows}", "--device", "cpu", *TRAINING],
}
NIGHTLY = {"sparsify": pytest.mark.nightly, "recover": pytest.mark.nightly}


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that what it takes is not lost beside Python and its libraries."""
    return tiny_llama.save_model(tmp_path_factory.mktemp("larger") / "model", **SHAPE, **HEADS)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
@pytest.mark.parametrize("command", [pytest.param(name, marks=NIGHTLY.get(name, ())) for name in COMMANDS])
def test_a_process_takes_what_it_has_announced(command: str, larger: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    rows.write_text((json.dumps({"text": WORDS}) + "\n") * 64)
    names = {"{model}": str(larger), "{out}": str(out), "{rows}": str(rows)}
    taken = peak([names.get(word, word) for word in COMMANDS[command]], tmp_path / "status")
    record = json.loads((out / "slimgpt.json").read_text())
    cost = record["recovery"][-1] if command == "recover" else record["cost"]
    assert cost["planned_host_bytes"] == pytest.approx(taken, rel=CAUGHT)
    assert cost["peak_host_bytes"] == pytest.approx(taken, rel=0.01)


def peak(arguments: list[str], status: Path) -> int:
    """Bytes that a command takes at the most, in a process of its own."""
    subprocess.run([sys.executable, "-c", PROGRAM, str(status), *arguments], check=True, capture_output=True)
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].removesuffix("kB")) * 1024
