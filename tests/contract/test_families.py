"""What has to hold for every family, under eager and SDPA attention: one contract, many random models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LAYERS, MODELS, QUERIES, consumer_inputs, consumer_weight, piece_width, save_model
from tiny_llama import tokens
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from slimgpt import Observer, PruneConfig, prune
from slimgpt.allocation.places import layered
from slimgpt.allocation.plan import places_of, tokens_per_input
from slimgpt.arch import FAMILIES
from slimgpt.calibration import cached_windows
from slimgpt.config import ExportConfig
from slimgpt.errors import ConfigError
from slimgpt.exports import export
from slimgpt.model.checkpoint import open_checkpoint

SAMPLES, SEQLEN = 16, 32
DAMPING = 1e-3
NEW_TOKENS = 6
BY_QUERIES = {"attention_units": "queries", "allocation": "linear", "ratio": 0.35}
PROMPT = tokens(2, 20, seed=1)  # longer than the models' sliding windows

every_model = pytest.mark.parametrize("name", MODELS)
every_shared = pytest.mark.parametrize("name", [name for name, tiny in MODELS.items() if tiny.query])
every_attention = pytest.mark.parametrize(
    ("name", "attention"),
    [(name, kind) for name, tiny in MODELS.items() for kind in ("eager", "sdpa") if tiny.sdpa or kind == "eager"],
)


class Workshop:
    """Dense and pruned checkpoints, each made once, when a test first asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = folder / "text.txt"
        # more kinds of bytes than a model has channels: before its first attention, tokens of a kind are all equal
        characters = torch.randint(32, 0x7FF, (4000,), generator=torch.Generator().manual_seed(0))
        self.text.write_text("".join(map(chr, characters.tolist())), encoding="utf-8")

    def dense(self, name: str, dtype: torch.dtype = torch.float32) -> Path:
        folder = self.folder / f"{name}-{dtype}"
        return folder if folder.exists() else save_model(folder, name, dtype)

    def pruned(self, source: Path, out: str | None = None, observer: Observer | None = None, **options: Any) -> Path:
        """Pruned at random without repair unless ``options`` say otherwise."""
        odd = not any(tiny.experts and source.name.startswith(name) for name, tiny in MODELS.items())
        options = {"ratio": 0.3, "solver": "random", "repair": False, "round_to": 1 if odd else 8, **options}
        folder = self.folder / (out or "-".join([source.name, *(f"{key}={value}" for key, value in options.items())]))
        if not folder.exists():
            calibration = {"calibration": str(self.text), "samples": SAMPLES, "seqlen": SEQLEN, "batch_size": 5}
            prune(PruneConfig(str(source), str(folder), device="cpu", **calibration, **options), observer)
        return folder

    def windows(self, name: str) -> Tensor:
        """The calibration tokens; transformers may give a family's tokenizer habits of its own."""
        return cached_windows(str(self.text), AutoTokenizer.from_pretrained(self.dense(name)), SAMPLES, SEQLEN, 0)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("families"))


def test_every_family_has_a_model() -> None:
    assert {name.split("-")[0] for name in MODELS} == set(FAMILIES)


# --- the pruned model computes what it should ------------------------------------------------------


@every_attention
def test_sliced_equals_masked(shop: Workshop, name: str, attention: str) -> None:
    dense = load(shop.dense(name), attention)
    out = shop.pruned(shop.dense(name))
    before = logits(dense)
    mask_(name, dense, out)
    assert_close(logits(load(out, attention)), logits(dense))
    assert not torch.allclose(logits(dense), before, rtol=0.1, atol=0.1), "nothing was pruned"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@every_shared
def test_query_heads_go_by_themselves(shop: Workshop, name: str, attention: str) -> None:
    """Equally many from every KV group: sliced = masked, and parameters by formula."""
    if attention == "sdpa" and not MODELS[name].sdpa:
        return
    dense = load(shop.dense(name), attention)
    out = shop.pruned(shop.dense(name), **BY_QUERIES)
    assert any(queries_lost(entry) for entry in read_record(out)["sites"]), "no query head went by itself"
    mask_(name, dense, out)
    pruned = load(out, attention)
    assert_close(logits(pruned), logits(dense))
    assert count(pruned) == by_formula(name, count(dense), out) == read_record(out)["parameters"]["after"]


@every_shared
def test_models_without_some_query_heads_are_pruned_again(shop: Workshop, name: str) -> None:
    once = shop.pruned(shop.dense(name), **BY_QUERIES)
    for units in ("groups", "queries"):
        twice = shop.pruned(once, ratio=0.2, seed=1, attention_units=units)
        masked = load(once)
        mask_(name, masked, twice)
        assert_close(logits(load(twice)), logits(masked))


@every_attention
def test_repaired_weights_are_least_squares(shop: Workshop, name: str, attention: str) -> None:
    """At every site, W' minimises ‖W X − W' X_K‖² + λ‖W_K − W'‖² for the X that comes through all pruned before it."""
    out = shop.pruned(shop.dense(name), solver="obs", repair=True, damping=DAMPING)
    dense, widened, pruned = (
        load(path, attention, experts_implementation="eager").double()  # grouped products know no float64
        for path in (shop.dense(name), shop.dense(name), out)
    )
    for layer, site, kept_I in every_site(name, out):
        weight_OI = consumer_weight(name, widened, layer, site).zero_()
        weight_OI[:, kept_I] = consumer_weight(name, pruned, layer, site)
    assert_close(logits(widened), logits(pruned))
    inputs = consumer_inputs(name, widened, shop.windows(name))
    for layer, site, kept_I in every_site(name, out):
        x_TI, weight_OI = inputs[layer, site], consumer_weight(name, dense, layer, site)
        ridge = (DAMPING * x_TI.square().sum(0).mean()).sqrt()
        rows = torch.cat([x_TI[:, kept_I], ridge * torch.eye(len(kept_I))])
        targets = torch.cat([x_TI @ weight_OI.T, ridge * weight_OI[:, kept_I].T])
        best_OK = torch.linalg.lstsq(rows, targets).solution.T
        assert_close(consumer_weight(name, pruned, layer, site), best_OK, rtol=1e-3, atol=1e-3)
        assert len(kept_I) == weight_OI.shape[1] or (weight_OI[:, kept_I] - best_OK).abs().max() > 1e-2


@every_attention
def test_cache_and_padding_change_nothing(shop: Workshop, name: str, attention: str) -> None:
    model = load(shop.pruned(shop.dense(name)), attention)
    cached, uncached = (generate(model, use_cache=use) for use in (True, False))
    assert torch.equal(cached, uncached)
    single = model(input_ids=PROMPT[:1]).logits
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), PROMPT[:1]], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :5] = 0
    batch = torch.cat([padded, tokens(1, padded.shape[1])])
    both = torch.cat([mask, torch.ones_like(mask)])
    positions = (both.cumsum(1) - 1).clamp(min=0)
    together = model(input_ids=batch, attention_mask=both, position_ids=positions).logits
    assert_close(together[:1, 5:], single)


@every_model
def test_ratio_0_is_the_dense_model(shop: Workshop, name: str) -> None:
    out = shop.pruned(shop.dense(name), ratio=0.0)
    assert_close(logits(load(out)), logits(load(shop.dense(name))), rtol=0, atol=1e-6)


@every_model
def test_parameters_by_formula(shop: Workshop, name: str) -> None:
    out = shop.pruned(shop.dense(name))
    record = read_record(out)
    expected = by_formula(name, count(load(shop.dense(name))), out)
    assert count(load(out)) == expected == record["parameters"]["after"]
    assert abs(record["parameters"]["removed_ratio"] - 0.3) < 0.02


@every_model
def test_a_model_offers_what_its_units_weigh(shop: Workshop, name: str) -> None:
    """In every layer attention and an FFN; experts lose a channel together."""
    tiny = MODELS[name]
    unit_params = {"attention": tiny.params[0], "ffn": tiny.params[1] * max(tiny.experts, 1)}
    places = layered(places_of(open_checkpoint(str(shop.dense(name)))))
    assert [place.key for place in places] == list(product(range(LAYERS), unit_params))
    for place in places:
        assert (place.unit_params, place.fine) == (unit_params[place.part], place.part == "ffn")
        assert place.members == (QUERIES if place.part == "attention" and tiny.query else 1)
        assert place.members == 1 or place.member_params == tiny.query


# --- and can be used like any other ----------------------------------------------------------------


@every_model
def test_prunes_again(shop: Workshop, name: str) -> None:
    once = shop.pruned(shop.dense(name))
    twice = shop.pruned(once, ratio=0.2, seed=1)
    masked = load(once)
    mask_(name, masked, twice)
    assert_close(logits(load(twice)), logits(masked))
    assert count(load(twice)) < count(load(once))


@every_model
def test_keeps_bfloat16(shop: Workshop, name: str) -> None:
    source = shop.dense(name, torch.bfloat16)
    out = shop.pruned(source)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    model, masked = load(out), load(source)
    assert model.dtype == torch.bfloat16
    mask_(name, masked, out)
    assert_close(logits(model.float()), logits(masked.float()))


@every_model
def test_uniform_loads_as_a_stock_class_or_says_why_not(shop: Workshop, name: str) -> None:
    expected = MODELS[name].uniform
    if expected is None:
        with pytest.raises(ConfigError, match="--layout per-layer"):
            shop.pruned(shop.dense(name), layout="uniform")
        return
    out = shop.pruned(shop.dense(name), layout="uniform")
    assert not list(out.glob("*.py"))
    model, masked = load(out), load(shop.dense(name))
    mask_(name, masked, out)
    assert type(model).__name__ == expected
    assert type(model).__module__.startswith("transformers.")
    assert_close(logits(model), logits(masked))


@every_model
def test_padded_is_a_stock_class_that_computes_the_same(shop: Workshop, name: str, tmp_path: Path) -> None:
    out = shop.pruned(shop.dense(name))
    padded = export(ExportConfig(str(out), str(tmp_path / "padded"), format="padded")).path
    assert padded is not None
    model = load(padded)
    assert type(model).__module__.startswith("transformers.")
    files = [set(load_file(folder / "model.safetensors")) for folder in (padded, out, shop.dense(name))]
    assert files[0] == files[1] == files[2], "other tools look for the names of the family's checkpoints"
    assert_close(logits(model), logits(load(out)))


def test_shards_have_the_names_of_checkpoints_too(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimgpt.output.place.ONE_FILE_BYTES", 0)
    out = shop.pruned(shop.dense("mixtral"), out="mixtral-in-shards")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(load_file(shop.dense("mixtral") / "model.safetensors"))
    masked = load(shop.dense("mixtral"))
    mask_("mixtral", masked, out)
    assert_close(logits(load(out)), logits(masked))


@every_model
def test_uniform_check_names_only_what_can_be_written(shop: Workshop, name: str, tmp_path: Path) -> None:
    out = str(shop.pruned(shop.dense(name)))
    says = export(ExportConfig(out, format="uniform-check")).notes
    assert "Not uniform: " in says[0] and " from " in says[0] and "--format padded fits." in says
    for kind, place in (("gguf", "m.gguf"), ("onnx", "onnx")):
        config = ExportConfig(out, str(tmp_path / place), format=kind)
        if f"--format {kind} fits." in says:
            export(config)
            continue
        with pytest.raises(ConfigError) as refused:
            export(config)
        assert f"--format {kind} does not fit: {refused.value}" in says


@pytest.mark.parametrize(("name", "body"), [("gpt2", "transformer."), ("opt", "model.")])
def test_reads_checkpoints_of_the_body_alone(shop: Workshop, tmp_path: Path, name: str, body: str) -> None:
    """Those on the hub lack the body's name in theirs."""
    source = shutil.copytree(shop.dense(name), tmp_path / name)
    tensors = load_file(source / "model.safetensors")
    assert all(key.startswith(body) for key in tensors)
    save_file({key.removeprefix(body): tensor for key, tensor in tensors.items()}, source / "model.safetensors")
    whole, bare = load(shop.pruned(shop.dense(name))), load(shop.pruned(source))
    assert torch.equal(logits(whole), logits(bare))


@pytest.mark.parametrize("name", ["gpt2", "opt", "mixtral", "llama"])
def test_resumes_to_the_same_bytes(shop: Workshop, name: str) -> None:
    class Interrupt(Observer):
        def stage(self, layer: int, stage: str) -> None:
            if layer == 2:
                raise KeyboardInterrupt

    options = {**(BY_QUERIES if name == "llama" else {}), "solver": "obs", "repair": True}
    straight = shop.pruned(shop.dense(name), **options)
    with pytest.raises(KeyboardInterrupt):
        shop.pruned(shop.dense(name), observer=Interrupt(), out="resumed-" + name, **options)
    resumed = shop.pruned(shop.dense(name), resume=True, out="resumed-" + name, **options)
    assert (resumed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_experts_want_widths_that_their_kernels_take(shop: Workshop) -> None:
    with pytest.raises(ConfigError, match="--round-to 4 is not a multiple of 8"):
        shop.pruned(shop.dense("mixtral"), round_to=4)


# --- in a fresh process ----------------------------------------------------------------------------

FRESH = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

remote, folders, prompt, results = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
if remote:
    sys.modules["slimgpt"] = None  # importing it fails
else:
    import slimgpt
prompt = torch.load(prompt)
for name, folder in folders.items():
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=remote).eval()
    with torch.inference_mode():
        logits = model(input_ids=prompt).logits
        model.save_pretrained(results / name)
        again = AutoModelForCausalLM.from_pretrained(results / name, trust_remote_code=remote).eval()
        kinds = [AutoModel, AutoModelForSequenceClassification]
        others = [kind.from_pretrained(folder, trust_remote_code=remote).eval() for kind in kinds]
        hidden = [one.base_model(input_ids=prompt).last_hidden_state for one in (model, *others)]
        outcome = {"logits": logits, "again": again(input_ids=prompt).logits, "hidden": hidden}
        torch.save(outcome, results / f"{name}.pt")
"""


@pytest.mark.parametrize("remote", [True, False], ids=["remote-code", "import-slimgpt"])
def test_loads_and_saves_in_a_fresh_process(shop: Workshop, tmp_path: Path, remote: bool) -> None:
    """All families in one process: starting one costs more than all of them."""
    folders = {name: str(shop.pruned(shop.dense(name))) for name in MODELS}
    torch.save(PROMPT, tmp_path / "prompt.pt")
    subprocess.run(
        [sys.executable, "-c", FRESH, json.dumps(remote), json.dumps(folders), tmp_path / "prompt.pt", tmp_path],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    for name, folder in folders.items():
        results = torch.load(tmp_path / f"{name}.pt")
        assert_close(results["logits"], logits(load(Path(folder))))
        assert torch.equal(results["again"], results["logits"]), name
        assert all(torch.equal(hidden, results["hidden"][0]) for hidden in results["hidden"]), name


# --- helpers ---------------------------------------------------------------------------------------


def load(folder: Path, attention: str | None = None, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, **options).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=PROMPT).logits


def generate(model: Any, use_cache: bool) -> Tensor:
    return model.generate(
        PROMPT[:1], max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, use_cache=use_cache
    )


def read_record(out: Path) -> dict[str, Any]:
    return json.loads((out / "slimgpt.json").read_text())


def every_site(name: str, out: Path) -> list[tuple[int, str, Tensor]]:
    """Layer, site and the consumer's input columns that survive."""
    return [
        (entry["layer"], entry["site"], kept_columns(entry, piece_width(name, entry["site"])))
        for entry in read_record(out)["sites"]
    ]


def kept_columns(entry: dict[str, Any], width: int) -> Tensor:
    return torch.tensor([piece * width + i for piece in entry.get("kept_members", entry["kept"]) for i in range(width)])


def queries_lost(entry: dict[str, Any]) -> int:
    """Query heads that kept KV groups have lost at a site."""
    return len(entry["kept"]) * entry["members"] - len(entry["kept_members"]) if "members" in entry else 0


def by_formula(name: str, before: int, out: Path) -> int:
    """Parameters after pruning, by the parameters of units and of query heads."""
    for entry in read_record(out)["sites"]:
        before -= queries_lost(entry) * MODELS[name].query
        before -= (entry["num_units"] - len(entry["kept"])) * MODELS[name].params[entry["site"] != "attention"]
    return before


def mask_(name: str, model: Any, out: Path) -> None:
    """Silence in the bigger ``model`` what ``out`` has lost."""
    for layer, site, kept_I in every_site(name, out):
        weight_OI = consumer_weight(name, model, layer, site)
        gone_I = torch.ones(weight_OI.shape[1], dtype=torch.bool)
        gone_I[kept_I] = False
        weight_OI[:, gone_I] = 0


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def assert_close(found: Tensor, expected: Tensor, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("name", "num_inputs", "share"), [("llama", 112, 1), ("qwen3_moe", 80, 2 / 4)])
def test_tokens_are_counted_by_the_widest_consumer(shop: Workshop, name: str, num_inputs: int, share: float) -> None:
    """Of four experts every token goes to two."""
    checkpoint = open_checkpoint(str(shop.dense(name)))
    assert tokens_per_input(checkpoint, 1000) == (pytest.approx(1000 * share / num_inputs), num_inputs)
