"""slimgpt sparsify: exact shares, the statistics of the sparse path, ordinary checkpoints, and bad input."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import oracle
import pytest
import tiny
import tiny_llama
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from slimgpt import cli, load_model, prune
from slimgpt.calibration import cached_windows
from slimgpt.config import ReportConfig, SparsifyConfig
from slimgpt.errors import ConfigError, ModelError, NumericalError, OutputError
from slimgpt.reports.runs import read_runs
from slimgpt.sparsity import sparsify
from slimgpt.sparsity.outliers import OUTLIER, outlier_share
from slimgpt.sparsity.ratios import MAX_LAYER, OWL_SPAN, along_curve, fractions, owl
from slimgpt.sparsity.threshold import smallest_per_matrix

SAMPLES, SEQLEN = 8, 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("sparsify") / "model")


def run(model: Path, out: Path, **options: Any) -> Path:
    numbers = {"calibration": "builtin", "samples": SAMPLES, "seqlen": SEQLEN, "device": "cpu", "batch_size": 3}
    return sparsify(SparsifyConfig(str(model), str(out), **{**numbers, **options})).path


def read_record(out: Path) -> dict[str, Any]:
    return json.loads((out / "slimgpt.json").read_text())


def projections(model: Any, layers: str = "model.layers") -> dict[tuple[int, str], nn.Module]:
    """Every matrix of every layer, found without slimgpt: a Linear or Conv1D, and the fused experts one by one."""
    return {
        (index, path): module
        for index, layer in enumerate(model.get_submodule(layers))
        for path, module in layer.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    }


def weight_OI(module: nn.Module) -> Tensor:
    return module.weight.data.T if isinstance(module, Conv1D) else module.weight.data


def zeros(weight: Tensor) -> float:
    return float((weight == 0).double().mean())


@torch.inference_mode()
def logits(network: Any) -> Tensor:
    return network(tiny_llama.tokens(2, 24), use_cache=False).logits


# --- what comes out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "random"])
def test_every_projection_has_the_share_of_zeros_and_the_rest_is_untouched(
    model: Path, tmp_path: Path, method: str
) -> None:
    out = run(model, tmp_path / "out", method=method, sparsity=0.5)
    before, after = (load_file(path / "model.safetensors") for path in (model, out))
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert weight.shape == before[name].shape and weight.dtype == before[name].dtype
        if "_proj" in name:
            assert zeros(weight) == 0.5
            assert method == "sparsegpt" or torch.equal(weight[weight != 0], before[name][weight != 0])
        else:
            assert torch.equal(weight, before[name])


@pytest.mark.parametrize("name", sorted(tiny.MODELS))
def test_every_family(tmp_path: Path, name: str) -> None:
    """By row, so that a slip in orientation shows; what is no projection (embeddings, head, router) stays."""
    dense = tiny.save_model(tmp_path / "dense", name)
    out = run(dense, tmp_path / "out", method="wanda", sparsity=0.25)
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (dense, out))
    assert type(before) is type(after)
    found = projections(after, tiny.MODELS[name].layers)
    for key, module in found.items():
        weight = weight_OI(module)
        if len(weight) > 1:
            assert ((weight == 0).sum(1) == math.floor(weight.shape[1] / 4 + 0.5)).all(), key
    touched = {id(module.weight) for module in found.values()}
    for (path, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        if "experts." in path and old.dim() == 3:
            assert ((new == 0).sum(2) == new.shape[2] // 4).all()
        elif id(new) not in touched:
            assert torch.equal(old, new), path


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_statistics_are_those_of_the_sparse_path(model: Path, tmp_path: Path, method: str) -> None:
    """Each layer sees what comes through the sparse layers before it, itself still dense."""
    out = run(model, tmp_path / "out", method=method, sparsity=0.5)
    dense, mixed, sparse = (AutoModelForCausalLM.from_pretrained(path) for path in (model, model, out))
    windows_BT = cached_windows("builtin", tiny_llama.make_tokenizer(), SAMPLES, SEQLEN, 0)
    twins = {
        "wanda": lambda weight, hessian: oracle.masked(weight, weight.abs() * hessian.diagonal().sqrt(), 0.5, 0, True),
        "sparsegpt": lambda weight, hessian: oracle.sparsegpt(weight, hessian, 0.5, 0, 0.01),
    }
    for index in range(tiny_llama.SHAPE["num_hidden_layers"]):
        inputs = inputs_of(mixed, index, windows_BT)
        for path, x_TI in inputs.items():
            weight = weight_OI(projections(dense)[index, path]).double()
            expected = twins[method](weight, x_TI.double().T @ x_TI.double())
            found = weight_OI(projections(sparse)[index, path]).double()
            assert ((expected == 0) != (found == 0)).double().mean() < 0.005  # float32 sums may swap near ties
            torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
        mixed.model.layers[index].load_state_dict(sparse.model.layers[index].state_dict())


@torch.inference_mode()
def inputs_of(network: Any, index: int, windows_BT: Tensor) -> dict[str, Tensor]:
    """What enters every projection of one layer in a plain forward pass."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda m, args, path=path: seen.update({path: args[0].flatten(0, -2)}))
        for (layer, path), module in projections(network).items()
        if layer == index
    ]
    network(windows_BT)
    for hook in hooks:
        hook.remove()
    return seen


def test_plain_transformers_loads_it_without_slimgpt(model: Path, tmp_path: Path) -> None:
    out = run(model, tmp_path / "out", method="magnitude", sparsity=0.5)
    program = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(out)!r}); AutoTokenizer.from_pretrained({str(out)!r})\n"
        "print(type(model).__name__, 'slimgpt' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["LlamaForCausalLM", "False"]
    assert {file.name for file in model.iterdir()} <= {file.name for file in out.iterdir()}


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "random"])
def test_sparsity_0_gives_the_dense_bytes(model: Path, tmp_path: Path, method: str) -> None:
    out = run(model, tmp_path / "out", method=method, sparsity=0.0)
    before, after = (load_file(path / "model.safetensors") for path in (model, out))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_same_command_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    first, second = (run(model, tmp_path / out, method="sparsegpt") for out in ("a", "b"))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_other_seeds_and_matrices_have_other_random_masks(model: Path, tmp_path: Path) -> None:
    first, second = (
        load_file(run(model, tmp_path / f"{s}", method="random", seed=s) / "model.safetensors") for s in (1, 2)
    )
    name, other = (f"model.layers.0.self_attn.{path}.weight" for path in ("q_proj", "o_proj"))
    assert not torch.equal(first[name] == 0, second[name] == 0)
    assert not torch.equal(first[name] == 0, first[other] == 0)


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_a_pattern_holds_in_every_projection(model: Path, tmp_path: Path, pattern: str) -> None:
    kept, group = map(int, pattern.split(":"))
    sparse = AutoModelForCausalLM.from_pretrained(run(model, tmp_path / "out", method="sparsegpt", pattern=pattern))
    for module in projections(sparse).values():
        assert ((module.weight != 0).view(len(module.weight), -1, group).sum(2) == kept).all()


def test_bfloat16_stays_and_another_dtype_can_be_asked_for(tmp_path: Path) -> None:
    dense = tiny_llama.save_model(tmp_path / "dense", dtype=torch.bfloat16)
    for dtype in ("auto", "float32"):
        out = run(dense, tmp_path / dtype, method="sparsegpt", dtype=dtype)
        expected = torch.bfloat16 if dtype == "auto" else torch.float32
        assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {expected}
        assert AutoModelForCausalLM.from_pretrained(out).dtype == expected


def test_a_pruned_model_can_be_made_sparse(model: Path, tmp_path: Path) -> None:
    pruned = prune(tiny_llama.prune_config(model, tmp_path / "pruned")).path
    out = run(pruned, tmp_path / "out", method="wanda")
    assert read_record(out)["before"]["source"] == str(model)
    assert read_record(out)["layout"] == "per-layer" and (out / "modeling_slimgpt.py").is_file()
    network, _ = load_model(str(out), "cpu")
    assert all(abs(zeros(module.weight) - 0.5) < 0.02 for module in projections(network).values())


# --- over layers and rounds -------------------------------------------------------------------------


def test_one_threshold_over_all_layers(model: Path, tmp_path: Path) -> None:
    out = run(model, tmp_path / "out", method="magnitude", scope="global", sparsity=0.6)
    before, after = (load_file(path / "model.safetensors") for path in (model, out))
    names = [name for name in before if "_proj" in name]
    values = torch.cat([before[name].flatten() for name in names])
    gone = torch.cat([after[name].flatten() for name in names]) == 0
    assert gone.sum() == round(0.6 * len(values))
    assert values[gone].abs().max() <= values[~gone].abs().min()
    assert len({zeros(after[name]) for name in names}) > 10


@pytest.mark.parametrize("num", [0, 1, 17, 500, 999])
def test_the_threshold_counts_exactly_also_with_ties(num: int) -> None:
    torch.manual_seed(0)
    layers = [{"a": torch.randn(10, 20).bfloat16(), "b": torch.randint(-2, 3, (15, 20)).float()} for _ in range(2)]
    counts = smallest_per_matrix(lambda index: layers[index], 2, num)
    values = torch.cat([weight.flatten().abs().float() for layer in layers for weight in layer.values()])
    threshold = values.sort().values[num - 1] if num else -1.0
    assert sum(count for layer in counts for count in layer.values()) == num
    for layer, counted in zip(layers, counts, strict=True):
        for name, weight in layer.items():
            below, upto = (int((weight.abs() < threshold).sum()), int((weight.abs() <= threshold).sum()))
            assert below <= counted[name] <= upto


@pytest.mark.parametrize("ratios", ["log", "owl"])
def test_layer_ratios_vary_over_layers_and_meet_the_target(model: Path, tmp_path: Path, ratios: str) -> None:
    record = read_record(run(model, tmp_path / "out", method="wanda", sparsity=0.5, layer_ratios=ratios))
    by_layer = [{entry["target"] for entry in layer["matrices"].values()} for layer in record["projections"]]
    assert all(len(targets) == 1 for targets in by_layer) and len(set.union(*by_layer)) == 3
    assert record["sparsity"]["projections"] == pytest.approx(0.5, abs=0.01)  # rows of 48 make steps of 0.02
    assert ratios != "log" or by_layer == sorted(by_layer, key=min)


def test_owl_keeps_layers_with_outliers_denser() -> None:
    found = owl(0.6, [100, 100, 200], [0.05, 0.01, 0.02])
    assert found[0] < found[2] < found[1]
    assert sum(size * s for size, s in zip([100, 100, 200], found, strict=True)) == pytest.approx(0.6 * 400)
    assert max(abs(s - 0.6) for s in found) == pytest.approx(OWL_SPAN)
    assert owl(0.6, [1, 1], [0.02, 0.02]) == [0.6, 0.6]
    assert max(owl(0.97, [1, 1], [0.01, 0.03])) <= MAX_LAYER


def test_outliers_are_counted_over_the_whole_layer() -> None:
    torch.manual_seed(0)
    weights, norms = [torch.randn(6, 8), torch.randn(4, 5)], [torch.rand(8) ** 6, torch.rand(5)]
    scores = [
        abs(float(w[i, j])) * float(n[j])
        for w, n in zip(weights, norms, strict=True)
        for i in range(len(w))
        for j in range(len(n))
    ]
    expected = sum(score > OUTLIER * sum(scores) / len(scores) for score in scores) / len(scores)
    assert expected > 0
    assert outlier_share(weights, norms) == pytest.approx(expected)


@pytest.mark.parametrize("target", [0.0, 0.3, 0.75, 0.95])
def test_the_log_curve_meets_the_target_also_where_layers_are_full(target: float) -> None:
    sizes = [100 + index for index in range(12)]
    found = along_curve("log", target, sizes)
    assert found == sorted(found) and max(found) <= MAX_LAYER
    assert sum(s * r for s, r in zip(sizes, found, strict=True)) == pytest.approx(target * sum(sizes), abs=1e-6)


def test_schedules_end_at_the_whole() -> None:
    assert fractions("one-shot", 1) == [1.0]
    assert fractions("iterative", 4) == [0.25, 0.5, 0.75, 1.0]
    assert fractions("gradual", 2) == [0.875, 1.0]  # 1 - (1 - 1/2)^3


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("schedule", ["iterative", "gradual"])
def test_rounds_are_one_shots_on_their_own_result(model: Path, tmp_path: Path, schedule: str, pattern: str) -> None:
    once = {"method": "sparsegpt", "pattern": pattern}
    whole = run(model, tmp_path / "whole", schedule=schedule, rounds=2, **once)
    first = 0.5 * fractions(schedule, 2)[0]
    if pattern == "2:4":
        first = math.floor(4 * first + 0.5) / 4
        half = run(model, tmp_path / "half", method="sparsegpt", pattern=f"{4 - round(4 * first)}:4")
    else:
        half = run(model, tmp_path / "half", method="sparsegpt", sparsity=first)
    again = run(half, tmp_path / "again", **once)
    expected, found = (load_file(path / "model.safetensors") for path in (again, whole))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


# --- the record and the card ------------------------------------------------------------------------


def test_the_record_counts_what_is_there(model: Path, tmp_path: Path) -> None:
    out = run(model, tmp_path / "out", method="sparsegpt", sparsity=0.3)
    record, sparse = read_record(out), AutoModelForCausalLM.from_pretrained(out)
    weights = [module.weight for module in projections(sparse).values()]
    num_zeros, total = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    params = sum(p.numel() for p in sparse.parameters())
    found = record["sparsity"]
    assert record["kind"] == "sparsify" and record["options"]["method"] == "sparsegpt"
    assert (found["zeros"], found["projection_weights"]) == (num_zeros, total)
    assert found["projections"] == num_zeros / total and found["parameters"] == num_zeros / params
    head = sparse.lm_head.weight.numel()
    assert found["flops_left_with_head"] == pytest.approx((total - num_zeros + head) / (total + head))
    assert record["parameters"]["bytes_after"] == params * 4
    for (index, path), module in projections(sparse).items():
        entry = record["projections"][index]["matrices"][path]
        assert entry["sparsity"] == zeros(module.weight) and 0 < entry["error"] < 1


def test_the_card_claims_no_speed(model: Path, tmp_path: Path) -> None:
    card = (run(model, tmp_path / "out", method="wanda") / "README.md").read_text()
    assert "50.0% zeros" in card and "no speed is claimed" in card and "stored dense" in card
    assert "8 windows of 32 tokens of `builtin`" in card
    assert "windows" not in (run(model, tmp_path / "m", method="magnitude") / "README.md").read_text()


def test_the_error_of_sparsegpt_is_lower_than_that_of_masks_alone(model: Path, tmp_path: Path) -> None:
    errors = {}
    for method in ("sparsegpt", "wanda"):
        record = read_record(run(model, tmp_path / method, method=method))
        errors[method] = [entry["error"] for entry in record["projections"][0]["matrices"].values()]
    assert all(a < b for a, b in zip(errors["sparsegpt"], errors["wanda"], strict=True))


def test_the_command_prints_what_came_of_it(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sparsify", str(model), str(tmp_path / "out"), "--method", "magnitude", "--sparsity", "0.25"]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("Needs about ")
    assert "weights of projections are zero (25.00%;" in said and "no faster without sparse kernels" in said
    assert cli.main(arguments) == 2
    assert "exists: choose another folder, or replace it with --force" in " ".join(capsys.readouterr().err.split())


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"--sparsity 1\.0 is outside \[0, 0\.99\]: it is the zeros' share"),
        ({"sparsity": math.nan}, "--sparsity nan is outside"),
        ({"pattern": "4:2"}, r"--pattern '4:2' is neither unstructured nor N:M with 0 < N <= M"),
        ({"pattern": "half"}, "--pattern 'half' is neither"),
        ({"pattern": "2:4", "sparsity": 0.6}, r"--sparsity 0\.6 contradicts --pattern 2:4, which makes it 0\.5"),
        ({"pattern": "2:4", "layer_ratios": "owl"}, "--layer-ratios owl contradicts --pattern 2:4"),
        ({"scope": "global", "method": "wanda"}, r"--scope global is for --method magnitude: scores of wanda.*owl"),
        ({"scope": "global", "method": "magnitude", "pattern": "2:4"}, "--scope global leaves one threshold"),
        ({"schedule": "gradual"}, "--schedule gradual and --rounds 1 contradict each other"),
        ({"rounds": 3}, "--schedule one-shot and --rounds 3 contradict"),
        ({"damping": -1.0}, r"--damping -1\.0 must be 0 or more"),
        ({"samples": 0}, "--samples 0 must be 1 or more"),
        ({"pattern": "2:5"}, r"--pattern 2:5: self_attn\.q_proj of layer 0 has 48 inputs, which is no multiple of 5\."),
        ({"seqlen": 65}, "--seqlen 65 is beyond the model's context of 64 tokens"),
        ({"device": "tpu"}, "--device 'tpu' is not one of"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    model: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(model, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_pattern_and_the_sparsity_that_it_makes_agree(model: Path, tmp_path: Path) -> None:
    SparsifyConfig(str(model), "out", pattern="2:4", sparsity=0.5).check()
    assert SparsifyConfig(str(model), "out", pattern="1:4").target == 0.75


def test_outputs_of_others_are_not_replaced(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(OutputError, match=r"has no slimgpt\.json, so slimgpt did not make it"):
        run(model, tmp_path / "mine", force=True)
    with pytest.raises(OutputError, match="is the model's own folder or inside it"):
        run(model, model / "out")
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "journal.json").write_text("{}")
    with pytest.raises(OutputError, match=r"an unfinished run is in .*new\.partial.*--force"):
        run(model, tmp_path / "new")
    assert run(model, tmp_path / "new", method="magnitude", force=True).is_dir()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    dense = tiny_llama.save_model(tmp_path / "dense")
    broken = "model.layers.1.mlp.up_proj.weight"
    tiny_llama.edit_weights(dense, lambda tensors: tensors[broken].fill_(math.nan))
    with pytest.raises(NumericalError, match=r"layer 1: weight 'mlp\.up_proj\.weight' has NaN or infinite entries"):
        run(dense, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_singular_problem_names_the_layer(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"layer 0: the Hessian over 48 inputs is singular.*--damping"):
        run(model, tmp_path / "out", method="sparsegpt", samples=1, seqlen=8, damping=0.0)


def test_a_report_says_that_it_is_of_pruned_models(model: Path, tmp_path: Path) -> None:
    out = run(model, tmp_path / "out", method="magnitude")
    with pytest.raises(
        ModelError, match=r"was made by slimgpt sparsify: a report is of models pruned by slimgpt prune"
    ):
        read_runs(ReportConfig((str(out),), str(tmp_path / "page.html")))
