"""Running a study: every cell once, failures shown and left behind, no death that costs more than the cell at hand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_shop import RECIPE, Pretended, study_config
from tiny_llama import save_model

from slimgpt.cli import main
from slimgpt.config import StudyConfig
from slimgpt.errors import ConfigError, OutputError
from slimgpt.studies import StudyObserver, StudyResult, cluster, run, study

NUM_CELLS = 5  # two methods, two seeds, the dense model
TESTS = Path(__file__).parents[2]


class Heard(StudyObserver):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.plans: list[tuple[int, int]] = []
        self.finished_ids: list[str] = []

    def planned(self, num_cells: int, num_finished: int) -> None:
        self.plans.append((num_cells, num_finished))

    def finished(self, record: Any) -> None:
        self.finished_ids.append(record["id"])


def studied(folder: Path, commands: Pretended, **options: Any) -> tuple[StudyResult, Heard]:
    heard = Heard()
    return study(study_config(folder, **options), heard, commands), heard


def test_every_cell_leaves_a_record_and_no_weights(tmp_path: Path) -> None:
    done, heard = studied(tmp_path, Pretended())
    folders = sorted(path.name for path in (done.out / "cells").iterdir())
    assert folders == sorted(record["id"] for record in done.records) == sorted(heard.finished_ids)
    assert len(folders) == NUM_CELLS and heard.plans == [(NUM_CELLS, 0)]
    assert not list(done.out.rglob("*.safetensors"))
    record = json.loads((done.out / "cells" / folders[-1] / "cell.json").read_text())
    assert record["kind"] == "study-cell" and record["status"] == "done"
    assert record["measured"]["stored_bytes"] == len(b"weights")
    assert "layers" not in record["measured"]["pruned"]
    assert [step["name"] for step in record["steps"]][:2] == ["prune", "evaluate"]
    assert (done.out / "table.csv").is_file() and (done.out / "table.parquet").is_file()


def test_weights_stay_where_asked(tmp_path: Path) -> None:
    done, _ = studied(tmp_path, Pretended(), keep_models=True)
    assert len(list(done.out.rglob("*.safetensors"))) == NUM_CELLS - 1


def test_a_finished_study_runs_nothing(tmp_path: Path) -> None:
    first, _ = studied(tmp_path, Pretended())
    again = Pretended()
    second, heard = studied(tmp_path, again)
    assert not again.calls and heard.plans == [(NUM_CELLS, NUM_CELLS)]
    assert second.records == first.records and second.table.equals(first.table)


def test_a_longer_recipe_runs_what_is_new(tmp_path: Path) -> None:
    studied(tmp_path, Pretended())
    longer = {"grid": [{**RECIPE["grid"][0], "seeds": [0, 1, 2]}]}
    again, heard = Pretended(), Heard()
    study(study_config(tmp_path, longer), heard, again)
    assert heard.plans == [(NUM_CELLS + 2, NUM_CELLS)]
    assert {words[words.index("--seed") + 1] for words in again.calls if words[0] == "prune"} == {"2"}


def test_others_go_on_when_a_cell_fails(tmp_path: Path) -> None:
    done, _ = studied(tmp_path, Pretended(refuse="--solver wanda"))
    assert [record["cell"]["method"] for record in done.failures] == ["wanda", "wanda"]
    assert done.failures[0]["error"] == {
        "step": "prune",
        "message": "slimgpt: error: there is no such luck: try again",
    }
    assert len(done.records) == NUM_CELLS
    errors = [row["error"] for row in done.table.to_pylist()]
    assert errors.count("prune: slimgpt: error: there is no such luck: try again") == 2


def test_a_failed_cell_runs_again_only_by_retry(tmp_path: Path) -> None:
    studied(tmp_path, Pretended(refuse="--solver wanda"))
    again = Pretended()
    done, _ = studied(tmp_path, again)
    assert not again.calls and len(done.failures) == 2
    done, heard = studied(tmp_path, again, retry=True)
    assert heard.plans == [(NUM_CELLS, NUM_CELLS - 2)] and not done.failures
    assert {words[words.index("--solver") + 1] for words in again.calls if words[0] == "prune"} == {"wanda"}


def test_workers_change_nothing_but_the_time(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    one, _ = studied(tmp_path / "one", Pretended())
    many, _ = studied(tmp_path / "many", Pretended(), workers=4)
    columns = [name for name in one.table.column_names if name != "seconds"]
    assert one.table.select(columns).equals(many.table.select(columns))


def test_the_end_of_what_a_command_said_where_it_named_no_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {number}" for number in range(20)))
    assert run.last_lines(log).splitlines() == [f"line {number}" for number in range(14, 20)]


def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    config = study_config(tmp_path)

    class Meddling(Pretended):
        def __call__(self, arguments: Sequence[str], log: Path) -> int:
            with pytest.raises(OutputError, match="another slimgpt run is at work in"):
                study(config, command=Pretended())
            return super().__call__(arguments, log)

    assert not study(config, command=Meddling()).failures


KILLED = """
import sys, time
from pathlib import Path
from study_shop import Pretended
from slimgpt.config import StudyConfig
from slimgpt.studies import study

class Slow(Pretended):
    def __call__(self, arguments, log):
        if any(path.name.startswith("tiny-magnitude") for path in log.parents):
            (Path(sys.argv[2]) / "reached").touch()
            time.sleep(60)
        return super().__call__(arguments, log)

study(StudyConfig(sys.argv[1], sys.argv[2]), command=Slow())
"""


def test_a_killed_study_runs_only_what_is_missing(tmp_path: Path) -> None:
    config = study_config(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", KILLED, config.grid, config.out], cwd=TESTS)
    try:
        while not (Path(config.out) / "reached").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = [path.name for path in (Path(config.out) / "cells").iterdir()]
    assert len([name for name in left if "partial" not in name]) == 3 and len(left) == 4
    again, heard = Pretended(), Heard()
    done = study(config, heard, again)
    assert heard.plans == [(NUM_CELLS, 3)] and len(done.records) == NUM_CELLS and not done.failures
    assert {words[words.index("--solver") + 1] for words in again.calls if words[0] == "prune"} == {"magnitude"}
    assert not [path for path in (done.out / "cells").iterdir() if "partial" in path.name]


@pytest.mark.nightly
def test_real_commands_on_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way from the command line, with one cell that cannot work."""
    pytest.importorskip("jinja2")
    recipe = tiny_recipe(tmp_path)
    status = main(["study", str(recipe), str(tmp_path / "out")])
    said = capsys.readouterr()
    assert status == 1 and "3 cells, 1 of them failed" in said.out
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "cells").glob("*/cell.json")]
    by_ratio = {record["cell"]["ratio"]: record for record in records}
    assert by_ratio[0.0]["status"] == by_ratio[0.2]["status"] == "done"
    assert by_ratio[0.2]["measured"]["eval"]["parameters"] < by_ratio[0.0]["measured"]["eval"]["parameters"]
    assert by_ratio[0.9]["error"]["message"].startswith("slimgpt: error: ")
    page = (tmp_path / "out" / "study.html").read_text()
    assert "Cells that failed" in page and "http://" not in page.replace("http://www.w3.org", "")


def tiny_recipe(folder: Path) -> Path:
    """A dense model, one that is pruned, and one that cannot be: its embedding alone is more than a tenth of it."""
    save_model(folder / "model")
    (folder / "text.txt").write_text(" ".join(f"line {number % 17} of many" for number in range(400)))
    content = {
        "models": [{"name": "tiny", "path": str(folder / "model"), "text": str(folder / "text.txt"),
                    "calibration": "builtin"}],
        "grid": [{"methods": ["obs"], "granularities": ["structured"], "ratios": [0.2, 0.9]}],
        "calibration": {"samples": 8, "seqlen": 32},
        "evaluation": {"seqlen": 32, "max_tokens": 1024, "bench": False},
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return folder / "study.yaml"


def test_ray_is_asked_for_only_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--ray needs Ray: pip install 'slimgpt\[ray\]', or use --workers"):
        study(study_config(tmp_path, ray=True), command=Pretended())


def test_a_ray_cluster_of_two_runs_the_same_cells(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'slimgpt[ray]'")
    done = study(StudyConfig(str(tiny_recipe(tmp_path)), str(tmp_path / "out"), workers=2, ray=True))
    assert [record["status"] for record in done.records] == ["done", "done", "failed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"workers": 0}, "--workers 0 must be 1 or more"), ({"grid": "r.txt"}, "RECIPE 'r.txt' must be a .yaml file")],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StudyConfig(**{"grid": "r.yaml", "out": "o", **options}).check()
