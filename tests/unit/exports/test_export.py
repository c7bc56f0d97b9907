"""Exports of tiny models: what is in the files, and what is refused. No other tool is needed here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_llama
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, TokenType
from tiny_llama import edit_weights, prune_config
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from slimgpt import inspect_model, load_model, prune
from slimgpt.config import ExportConfig
from slimgpt.errors import ConfigError, ModelError, OutputError, ProofError, SlimGPTError
from slimgpt.exports import export
from slimgpt.exports import tools as export_tools
from slimgpt.exports.gguf import tensor_type
from slimgpt.exports.gguf_architecture import DECI, choose, interleave, rope_factors
from slimgpt.exports.gguf_tokenizer import PRE_TOKENIZERS, SPACE, add_tokenizer
from slimgpt.model.checkpoint import open_checkpoint

HEAD_DIM = tiny_llama.SHAPE["head_dim"]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("dense") / "model")


@pytest.fixture(scope="module")
def pruned(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "model"
    return prune(prune_config(dense, out, ratio=0.3)).path


@pytest.fixture(scope="module")
def uniform(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uniform") / "model"
    return prune(prune_config(dense, out, ratio=0.3, layout="uniform", round_to=8)).path


def exported(model: Path, out: Path, **changes: Any) -> Path:
    path = export(ExportConfig(str(model), str(out), **changes)).path
    assert path == out
    assert not out.with_name(out.name + ".partial").exists()
    return out


def refused(error: type[SlimGPTError], model: Path, out: Path | None, **changes: Any) -> str:
    with pytest.raises(error) as raised:
        export(ExportConfig(str(model), None if out is None else str(out), **changes))
    if out is not None:
        assert not out.with_name(out.name + ".partial").exists()
    return str(raised.value)


def value(reader: GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def tensors(reader: GGUFReader) -> dict[str, np.ndarray[Any, Any]]:
    """Dequantised, outputs x inputs."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(tensor.shape)[::-1])
        for tensor in reader.tensors
    }


# --- GGUF: sizes and tensors -----------------------------------------------------------------------


def test_a_per_layer_model_is_deci_with_sizes_by_layer(pruned, tmp_path):
    reader = GGUFReader(exported(pruned, tmp_path / "m.gguf", outtype="f32"))
    layers = inspect_model(str(pruned))["layers"]
    assert value(reader, "general.architecture") == "deci"
    assert value(reader, "deci.attention.head_count") == [layer["num_attention_heads"] for layer in layers]
    assert value(reader, "deci.attention.head_count_kv") == [layer["num_key_value_heads"] for layer in layers]
    assert value(reader, "deci.feed_forward_length") == [layer["intermediate_size"] for layer in layers]
    assert len({layer["intermediate_size"] for layer in layers}) > 1
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        assert value(reader, f"deci.{key}") == HEAD_DIM
    assert value(reader, "deci.context_length") == tiny_llama.CONTEXT
    assert value(reader, "deci.embedding_length") == tiny_llama.SHAPE["hidden_size"]
    stored = tensors(reader)
    for index, layer in enumerate(layers):
        heads, kv_heads = layer["num_attention_heads"], layer["num_key_value_heads"]
        assert stored[f"blk.{index}.attn_q.weight"].shape == (heads * HEAD_DIM, 48)
        assert stored[f"blk.{index}.attn_v.weight"].shape == (kv_heads * HEAD_DIM, 48)
        assert stored[f"blk.{index}.attn_output.weight"].shape == (48, heads * HEAD_DIM)
        assert stored[f"blk.{index}.ffn_down.weight"].shape == (48, layer["intermediate_size"])


def test_tensors_come_back_as_they_were(pruned, tmp_path):
    stored = tensors(GGUFReader(exported(pruned, tmp_path / "m.gguf", outtype="f32")))
    model, _ = load_model(str(pruned), "cpu")
    state = model.state_dict()
    assert "output.weight" not in stored  # tied: llama.cpp takes the embedding
    assert np.array_equal(stored["token_embd.weight"], state["model.embed_tokens.weight"])
    for index in range(3):
        ours, theirs = f"model.layers.{index}.", f"blk.{index}."
        for name, other in (("self_attn.v_proj", "attn_v"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up")):
            assert np.array_equal(stored[f"{theirs}{other}.weight"], state[f"{ours}{name}.weight"])
        for name, other in (("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k")):
            assert np.array_equal(undone(stored[f"{theirs}{other}.weight"]), state[f"{ours}{name}.weight"])


def undone(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Channel 2i + j of a head goes back to j * d/2 + i, one row at a time."""
    back = np.empty_like(rows)
    for row, values in enumerate(rows):
        head, channel = divmod(row, HEAD_DIM)
        back[head * HEAD_DIM + channel % 2 * (HEAD_DIM // 2) + channel // 2] = values
    return back


def test_interleaved_rope_of_interleaved_rows_gives_the_same_scores():
    """The theorem behind the permutation: both layouts of rotary embedding give one attention score."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, HEAD_DIM, 1, dtype=torch.float64).flatten(1, 2)  # 3 heads, rows x 1
    frequencies = 100.0 ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)

    def halves(rows, position):
        one, two = rows.view(3, HEAD_DIM).chunk(2, dim=1)
        return turned(one, two, position)

    def pairs(rows, position):
        return turned(*rows.view(3, HEAD_DIM // 2, 2).unbind(2), position)

    def turned(one, two, position):
        cos, sin = (position * frequencies).cos(), (position * frequencies).sin()
        return torch.cat([one * cos - two * sin, one * sin + two * cos], dim=1)

    theirs = (halves(q, 5) * halves(k, 2)).sum(1)
    ours = (pairs(interleave(q, HEAD_DIM), 5) * pairs(interleave(k, HEAD_DIM), 2)).sum(1)
    assert torch.allclose(theirs, ours, atol=1e-12)
    assert not torch.allclose(theirs, (pairs(q, 5) * pairs(k, 2)).sum(1), atol=1e-3)  # negative control


def test_a_dense_model_goes_under_its_own_architecture_with_numbers(dense, tmp_path):
    reader = GGUFReader(exported(dense, tmp_path / "m.gguf"))
    assert value(reader, "general.architecture") == "llama"
    assert value(reader, "llama.feed_forward_length") == 96
    assert {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1} == {GGMLQuantizationType.F16}
    assert {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) == 1} == {GGMLQuantizationType.F32}


def test_an_untied_head_is_written(tmp_path):
    model = tiny_llama.save_model(tmp_path / "model", tie_word_embeddings=False)
    stored = tensors(GGUFReader(exported(model, tmp_path / "m.gguf", outtype="f32")))
    weight = open_checkpoint(str(model)).weights.get("lm_head.weight")
    assert np.array_equal(stored["output.weight"], weight)


@pytest.mark.parametrize(("outtype", "error"), [("bf16", 0.004), ("q8_0", 0.01), ("q4_0", 0.15), ("q4_1", 0.12)])
def test_quantised_matrices_are_near_and_uneven_rows_stay_f16(pruned, tmp_path, outtype, error):
    path = tmp_path / "m.gguf"
    done = export(ExportConfig(str(pruned), str(path), outtype=outtype))
    stored = tensors(GGUFReader(path))
    exact = tensors(GGUFReader(exported(pruned, tmp_path / "exact.gguf", outtype="f32")))
    for name, weight in exact.items():
        assert np.linalg.norm(stored[name] - weight) <= error * np.linalg.norm(weight)
    uneven = [name for name, weight in exact.items() if weight.ndim > 1 and weight.shape[1] % 32]
    assert uneven  # 48 columns nearly everywhere
    assert any(f"{len(uneven)} tensors stay f16" in note for note in done.notes) == (outtype != "bf16")


def test_types_of_tensors():
    assert tensor_type((48, 64), "q4_0") == GGMLQuantizationType.Q4_0
    assert tensor_type((64, 48), "q4_0") == GGMLQuantizationType.F16
    assert tensor_type((64, 48), "bf16") == GGMLQuantizationType.BF16
    assert tensor_type((64,), "q4_0") == GGMLQuantizationType.F32


def test_scaled_rotary_frequencies_are_factors(tmp_path):
    model = tiny_llama.save_model(tmp_path / "model", rope_parameters=LLAMA3)
    reader = GGUFReader(exported(model, tmp_path / "m.gguf"))
    factors = tensors(reader)["rope_freqs.weight"]
    assert factors.shape == (HEAD_DIM // 2,)
    assert factors[0] == 1 and factors[-1] == pytest.approx(8)  # fast turns stay, slow ones are divided by the factor
    assert value(reader, "llama.rope.freq_base") == 10000.0
    plain = tiny_llama.save_model(tmp_path / "plain")
    assert rope_factors(open_checkpoint(str(plain))) is None


def test_qwen2_falls_back_on_deci_where_its_own_architecture_refuses_the_heads(tmp_path):
    shape = {**tiny_llama.SHAPE, "tie_word_embeddings": False}
    saved(Qwen2Config(**shape), tmp_path / "fits")
    assert choose(open_checkpoint(str(tmp_path / "fits"))).name == "qwen2"
    saved(Qwen2Config(**{**shape, "num_attention_heads": 4, "num_key_value_heads": 2}), tmp_path / "narrow")
    assert choose(open_checkpoint(str(tmp_path / "narrow"))) == DECI
    stored = tensors(GGUFReader(exported(tmp_path / "narrow", tmp_path / "m.gguf", outtype="f32")))
    bias = open_checkpoint(str(tmp_path / "narrow")).weights.get("model.layers.0.self_attn.q_proj.bias")
    assert np.array_equal(undone(stored["blk.0.attn_q.bias"]), bias)


def saved(config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    model.save_pretrained(folder)
    tiny_llama.make_tokenizer().save_pretrained(folder)
    return folder


# --- GGUF: tokenizers ------------------------------------------------------------------------------


def test_tokenizer_metadata(dense, tmp_path):
    reader = GGUFReader(exported(dense, tmp_path / "m.gguf"))
    tokenizer = tiny_llama.make_tokenizer()
    tokens, types = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    assert value(reader, "tokenizer.ggml.model") == "gpt2" and value(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert len(tokens) == len(types) == tiny_llama.SHAPE["vocab_size"]
    assert all(tokens[index] == token for token, index in tokenizer.get_vocab().items())
    assert types[0] == TokenType.NORMAL and types[tokenizer.bos_token_id] == TokenType.CONTROL
    assert tokens[-1] == "[PAD259]" and types[-1] == TokenType.UNUSED
    assert value(reader, "tokenizer.ggml.bos_token_id") == tokenizer.bos_token_id
    assert value(reader, "tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
    assert value(reader, "tokenizer.ggml.add_bos_token") is False
    assert value(reader, "tokenizer.chat_template") == tiny_llama.TEMPLATE


@pytest.mark.parametrize(("steps", "name"), PRE_TOKENIZERS.items(), ids=PRE_TOKENIZERS.values())
def test_ways_of_splitting_text_have_names(steps, name, tmp_path):
    assert written(trained(splitter(steps)), tmp_path)["tokenizer.ggml.pre"] == name


def splitter(steps: tuple[str, ...]) -> Any:
    """The pre-tokenizer that the steps describe, as files of such models have it."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex="GPT-2" in steps[-1])
    if len(steps) == 2:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if byte_level.use_regex:
        return byte_level
    from tokenizers import Regex

    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(steps[0]), "isolated"), byte_level])


def trained(pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the river is long, isn't it?"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def written(tokenizer: Any, folder: Path, vocab_size: int = 400) -> dict[str, Any]:
    writer = GGUFWriter(folder / "vocab.gguf", "llama")
    add_tokenizer(writer, tokenizer, vocab_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return {name: field.contents() for name, field in GGUFReader(folder / "vocab.gguf").fields.items()}


def test_merges_keep_their_order(tmp_path):
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    assert written(tokenizer, tmp_path)["tokenizer.ggml.merges"] == [" ".join(pair) for pair in spec["model"]["merges"]]


def test_sentencepiece_scores_are_ranks_of_merges(tmp_path):
    vocab = {"<unk>": 0, "<s>": 1, "<0x41>": 2, SPACE: 3, "a": 4, "b": 5, "ab": 6, f"{SPACE}ab": 7}
    merges = [("a", "b"), (SPACE, "ab")]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.add_special_tokens([AddedToken("<s>")])
    backend.add_tokens([AddedToken(f"x{SPACE}y")])
    found = written(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"), tmp_path, 10)
    assert found["tokenizer.ggml.model"] == "llama" and found["tokenizer.ggml.add_space_prefix"] is True
    assert found["tokenizer.ggml.scores"][6:8] == [0.0, -1.0]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.BYTE, *[TokenType.NORMAL] * 5]
    assert found["tokenizer.ggml.token_type"] == [*kinds, TokenType.USER_DEFINED, TokenType.UNUSED]
    assert found["tokenizer.ggml.tokens"][8] == "x y"


def test_tokenizers_that_llama_cpp_does_not_have(tmp_path):
    with pytest.raises(ModelError, match=r"splits text by \['Whitespace'\].*Known: gpt-2, smollm"):
        written(trained(pre_tokenizers.Whitespace()), tmp_path)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(ModelError, match=r"of kind 'WordLevel'.*only BPE"):
        written(words, tmp_path)
    with pytest.raises(ModelError, match="embedding has only 200 rows"):
        written(tiny_llama.make_tokenizer(), tmp_path, 200)


# --- padded ----------------------------------------------------------------------------------------


def test_padded_is_stock_and_computes_the_same(pruned, tmp_path):
    folder = exported(pruned, tmp_path / "padded", format="padded", verify=True)
    config = json.loads((folder / "config.json").read_text())
    layers = inspect_model(str(pruned))["layers"]
    assert config["model_type"] == "llama" and "auto_map" not in config and not config.get("per_layer_config")
    assert config["intermediate_size"] == max(layer["intermediate_size"] for layer in layers)
    assert config["num_key_value_heads"] == max(layer["num_key_value_heads"] for layer in layers)
    ids = tiny_llama.tokens(2, 20)
    slim, stock = (load_model(str(path), "cpu")[0](ids).logits for path in (pruned, folder))
    assert torch.allclose(slim, stock, atol=1e-5)
    assert (folder / "tokenizer.json").is_file() and (folder / "generation_config.json").is_file()


@pytest.fixture(scope="module")
def by_queries(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KV groups and query heads in each that differ from layer to layer."""
    out = tmp_path_factory.mktemp("export") / "by-queries"
    options = {"attention_units": "queries", "allocation": "linear", "ratio": 0.35}
    prune(prune_config(dense, out, **options))
    return out


def test_layers_with_unlike_query_heads_are_padded_within_each_group(by_queries, tmp_path):
    layers = inspect_model(str(by_queries))["layers"]
    sizes = [(layer["num_key_value_heads"], layer["num_attention_heads"]) for layer in layers]
    assert len({heads // groups for groups, heads in sizes}) > 1, sizes
    exported(by_queries, tmp_path / "padded", format="padded", verify=True)
    exported(by_queries, tmp_path / "m.gguf")
    reader = GGUFReader(tmp_path / "m.gguf")
    assert value(reader, "deci.attention.head_count") == [heads for _, heads in sizes]
    assert value(reader, "deci.attention.head_count_kv") == [groups for groups, _ in sizes]


def test_padded_can_be_pruned_and_exported_again(pruned, tmp_path):
    folder = exported(pruned, tmp_path / "padded", format="padded")
    again = prune(prune_config(folder, tmp_path / "again", ratio=0.2)).path
    exported(again, tmp_path / "again.gguf")


# --- which layouts fit -----------------------------------------------------------------------------


def test_uniform_check(dense, pruned, uniform):
    def says(model: Path) -> str:
        done = export(ExportConfig(str(model), format="uniform-check"))
        assert done.path is None
        return " ".join(done.notes)

    assert "all 3 layers have num_attention_heads 6" in says(dense) and "LlamaForCausalLM" in says(dense)
    assert "without remote code" in says(uniform)
    assert "Not uniform" in says(pruned) and "--format padded" in says(pruned)


def test_formats_that_do_not_fit_say_which_do(pruned, tmp_path):
    message = refused(ConfigError, pruned, tmp_path / "onnx", format="onnx")
    assert "--layout uniform" in message and "--format uniform-check" in message
    saved(Qwen3Config(**tiny_llama.SHAPE), tmp_path / "qwen3")
    slim = prune(prune_config(tmp_path / "qwen3", tmp_path / "slim", ratio=0.3)).path
    assert "--layout uniform, or --format padded" in refused(ConfigError, slim, tmp_path / "m.gguf")


def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path):
    gelu = tiny_llama.save_model(tmp_path / "gelu", hidden_act="gelu")
    assert "computes silu" in refused(ConfigError, gelu, tmp_path / "m.gguf")
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32}
    scaled = tiny_llama.save_model(tmp_path / "yarn", rope_parameters=yarn)
    assert "'yarn' cannot be written; those that can: default, linear" in refused(
        ConfigError, scaled, tmp_path / "m.gguf"
    )
    narrow = tiny_llama.save_model(tmp_path / "narrow", intermediate_size=24)
    assert "24 FFN channels, but llama.cpp needs 32" in refused(ConfigError, narrow, tmp_path / "m.gguf")


# --- bad input and bad places ----------------------------------------------------------------------


def test_out_is_needed_and_named_by_its_format(dense, tmp_path):
    assert "needs OUT" in refused(ConfigError, dense, None)
    assert "must end in .gguf" in refused(ConfigError, dense, tmp_path / "m.bin")


def test_what_exists_is_not_replaced_without_force(dense, tmp_path):
    path = exported(dense, tmp_path / "m.gguf")
    before = path.read_bytes()
    assert "exists" in refused(OutputError, dense, path)
    assert path.read_bytes() == before
    exported(dense, path, force=True, outtype="f32")
    assert path.stat().st_size > len(before)


def test_force_replaces_exports_but_neither_folders_by_files_nor_what_is_not_ours(dense, tmp_path):
    folder = exported(dense, tmp_path / "padded", format="padded")
    exported(dense, folder, format="padded", force=True)
    (tmp_path / "folder.gguf").mkdir()
    assert "is a folder" in refused(OutputError, dense, tmp_path / "folder.gguf", force=True)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("do not lose me")
    assert "did not make it" in refused(OutputError, dense, tmp_path / "letters", format="padded", force=True)
    assert "own folder" in refused(OutputError, dense, dense / "m.gguf")


def test_an_older_export_survives_a_death_between_the_two_renames(dense, tmp_path):
    path = exported(dense, tmp_path / "m.gguf")
    work = tmp_path / "m.gguf.partial"
    work.mkdir()
    (work / "slimgpt.lock").touch()
    path.rename(work / "replaced")
    assert "exists" in refused_as_it_stands(dense, path)
    assert path.is_file()


def refused_as_it_stands(model: Path, out: Path) -> str:
    with pytest.raises(OutputError) as raised:
        export(ExportConfig(str(model), str(out)))
    return str(raised.value)


def test_an_export_that_fails_leaves_nothing(dense, tmp_path, monkeypatch):
    monkeypatch.setattr("slimgpt.exports.gguf._data", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(ExportConfig(str(dense), str(tmp_path / "m.gguf")))
    assert not list(tmp_path.iterdir())


def test_tensors_that_would_be_lost_are_named(dense, tmp_path):
    model = Path(shutil.copytree(dense, tmp_path / "model"))
    edit_weights(model, lambda tensors: tensors.update({"model.layers.0.adapter.weight": torch.ones(2)}))
    assert "'model.layers.0.adapter.weight'" in refused(ModelError, model, tmp_path / "m.gguf")


def test_values_beyond_f16_are_refused(dense, tmp_path):
    model = Path(shutil.copytree(dense, tmp_path / "model"))
    edit_weights(model, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].__setitem__((0, 0), 1e6))
    message = refused(ConfigError, model, tmp_path / "m.gguf")
    assert "model.layers.1.mlp.up_proj.weight" in message and "--outtype bf16" in message
    exported(model, tmp_path / "m.gguf", outtype="bf16")


def test_missing_tools_are_named_with_their_extra(dense, tmp_path, monkeypatch):
    there = export_tools.importlib.import_module

    def absent(module: str, package: str | None = None) -> Any:
        if module.split(".")[0] in ("llama_cpp", "onnx", "onnxruntime", "onnxscript"):
            raise ImportError(f"No module named {module!r}")
        return there(module, package)

    monkeypatch.setattr(export_tools.importlib, "import_module", absent)
    assert "slimgpt[llama-cpp]" in refused(ConfigError, dense, tmp_path / "m.gguf", verify=True)
    assert "slimgpt[onnx]" in refused(ConfigError, dense, tmp_path / "onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_that_computes_something_else_is_not_kept(pruned, tmp_path, monkeypatch):
    monkeypatch.setattr("slimgpt.exports.padded.surviving_rows", lambda rows, *_: torch.arange(rows) >= 0)
    monkeypatch.setattr(
        "slimgpt.exports.padded._spread",
        lambda tensor, kept, dim: tensor.new_ones([*tensor.shape[:dim], len(kept), *tensor.shape[dim + 1 :]]),
    )
    with pytest.raises(ProofError, match="not the model that was made: the logits of a window differ"):
        export(ExportConfig(str(pruned), str(tmp_path / "padded"), format="padded"))
    assert not (tmp_path / "padded").exists()
    monkeypatch.undo()
    exported(pruned, tmp_path / "padded", format="padded")
