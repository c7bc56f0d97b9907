"""What pruning costs at the sizes people have: seconds by stage, tokens per second, peak memory of device and host.

    python benchmarks/scale.py --shape 135M --samples 8 --seqlen 256
    python benchmarks/scale.py --shape 1B --samples 32 --seqlen 512 --ratio 0.25
    python benchmarks/scale.py --shape 7B --solver obs slimgpt --device cuda --peak-tflops 989
    python benchmarks/scale.py --shape 70B --layers 8 --device cuda --peak-tflops 989
    python benchmarks/scale.py --sweep                    # cost against layers and tokens, with a plot

Checkpoints are Llamas of random bfloat16 weights, written shard by shard, with a tokenizer of numbered words and a text
of random ones: the cost does not depend on the values. Every run has a process of its own, so that its peaks are its
own. ``--solver slimgpt`` measures the paper's *flow* with the paper's solver: three forward passes a layer, which stop
at what they are for, and statistics from float32 products. With ``--layers N`` the model has only N of its layers; the
result says so, and gives the seconds of all layers scaled up from the stages that belong to layers.

Appends to benchmarks/results/scale.jsonl and writes scale.md from it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimgpt.streaming.conveyor import to_host

RESULTS = Path(__file__).with_name("results")
WORDS = 4096  # of the tokenizer
ONCE = ("prepare", "embed")  # stages of the whole model; all others belong to layers


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """A layer's matrices, outputs x inputs."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.ffn, self.hidden),
            "mlp.up_proj": (self.ffn, self.hidden),
            "mlp.down_proj": (self.hidden, self.ffn),
        }

    def layer_flops(self, seqlen: int) -> float:
        """Useful operations for a token in one layer: each weight once, causal attention, half of X Xᵀ twice."""
        weights = sum(outputs * inputs for outputs, inputs in self.projections.values())
        attention = 2 * self.heads * self.head_dim * seqlen  # QKᵀ and AV, half of each
        return 2 * weights + attention + (self.heads * self.head_dim) ** 2 + self.ffn**2


SHAPES = {
    "tiny": Shape(256, 704, 8, 8, 4, WORDS, tied=True),
    "135M": Shape(576, 1536, 30, 9, 3, 49152, tied=True),
    "1B": Shape(2048, 8192, 16, 32, 8, 128256, tied=True),
    "7B": Shape(4096, 11008, 32, 32, 32, 32000),
    "13B": Shape(5120, 13824, 40, 40, 40, 32000),
    "70B": Shape(8192, 28672, 80, 64, 8, 32000),
}


@dataclass(frozen=True)
class Run:
    """One measurement."""

    shape: str
    layers: int
    samples: int
    seqlen: int
    ratio: float
    solver: str
    device: str
    offload_dir: str | None
    peak_tflops: float | None

    @property
    def sizes(self) -> Shape:
        return SHAPES[self.shape]


# --- the checkpoint ----------------------------------------------------------------------------------


def build(folder: Path, shape: Shape, layers: int, device: str) -> None:
    """A checkpoint folder; no more than one layer is in memory."""
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        bos_token_id=0,
        eos_token_id=0,
        dtype="bfloat16",
    ).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards(shape, layers, random_weights(device))):
        write_shard(folder, f"model-{number:05d}.safetensors", tensors, weight_map)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def random_weights(device: str) -> Callable[[int, int], Tensor]:
    generator = torch.Generator(device).manual_seed(0)

    def make(outputs: int, inputs: int) -> Tensor:
        weight = torch.empty(outputs, inputs, dtype=torch.bfloat16, device=device)
        return to_host(weight.normal_(std=0.02, generator=generator), torch.bfloat16)

    return make


def shards(shape: Shape, layers: int, make: Callable[[int, int], Tensor]) -> Iterator[dict[str, Tensor]]:
    ones = torch.ones(shape.hidden, dtype=torch.bfloat16)
    yield {"model.embed_tokens.weight": make(shape.vocabulary, shape.hidden), "model.norm.weight": ones}
    if not shape.tied:
        yield {"lm_head.weight": make(shape.vocabulary, shape.hidden)}
    for index in range(layers):
        prefix = f"model.layers.{index}."
        norms = {f"{prefix}{norm}.weight": ones.clone() for norm in ("input_layernorm", "post_attention_layernorm")}
        yield {**norms, **{f"{prefix}{name}.weight": make(*size) for name, size in shape.projections.items()}}


def write_shard(folder: Path, name: str, tensors: dict[str, Tensor], weight_map: dict[str, str]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / name, metadata={"format": "pt"})
    weight_map.update(dict.fromkeys(tensors, name))


def tokenizer() -> Any:
    """One token a word, w0 … w4095."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")


def write_text(path: Path, num_tokens: int) -> None:
    draw = random.Random(0)
    path.write_text(" ".join(f"w{draw.randrange(WORDS)}" for _ in range(num_tokens)))


# --- one measurement ---------------------------------------------------------------------------------


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do it in a process of its own, whose peaks of memory nobody has raised before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def measure(run: Run, model: Path, text: Path, out: Path) -> dict[str, Any]:
    """Prune once; the record's costs."""
    from slimgpt import PruneConfig, prune

    if run.solver == "slimgpt":
        follow_the_paper()
    config = PruneConfig(
        str(model),
        str(out),
        ratio=run.ratio,
        calibration=str(text),
        samples=run.samples,
        seqlen=run.seqlen,
        solver=run.solver,  # type: ignore[arg-type]
        allocation="log",  # the paper's, for either solver
        device=run.device,
        offload_dir=run.offload_dir,
    )
    wall, cpu = time.perf_counter(), time.process_time()
    record = prune(config).record
    return {
        **record["cost"],
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "params_before": record["parameters"]["before"],
        "removed_ratio": record["parameters"]["removed_ratio"],
        "threads": torch.get_num_threads(),
    }


def follow_the_paper() -> None:
    """Three forward passes a layer (nothing that a pass has seen is kept for the next), float32 products throughout."""
    from slimgpt.solvers import stats
    from slimgpt.streaming import stream

    stream.keeps_input = lambda site, device: False  # type: ignore[assignment]
    stats._exact_as_it_is = lambda x_TI: False  # type: ignore[assignment]


def result(run: Run, cost: dict[str, Any]) -> dict[str, Any]:
    """The measurement with what follows from it."""
    seconds, tokens = cost["seconds"], run.samples * run.seqlen
    layers = sum(value for stage, value in seconds.items() if stage not in ONCE)
    once = sum(seconds.get(stage, 0.0) for stage in ONCE)
    passes = sum(value for stage, value in seconds.items() if stage.endswith("statistics") or stage == "advance")
    useful = run.sizes.layer_flops(run.seqlen) * tokens * run.layers
    return {
        **vars(run),
        "offload_dir": run.offload_dir is not None,
        "date": str(date.today()),
        "torch": str(torch.__version__),
        "layers_of_shape": run.sizes.layers,
        "cost": cost,
        "total_s": once + layers,
        "all_layers_s": once + layers * run.sizes.layers / run.layers,
        "tokens_per_s": tokens * run.layers / run.sizes.layers / (once + layers),
        "of_peak": useful / passes / run.peak_tflops / 1e12 if run.peak_tflops else None,
    }


def measured(run: Run, folder: Path) -> dict[str, Any]:
    """Build what is missing, and measure."""
    model, text = folder / f"{run.shape}-{run.layers}", folder / f"words-{run.samples * run.seqlen}.txt"
    if not (model / "model.safetensors.index.json").exists():
        alone(build, model, run.sizes, run.layers, "cpu" if run.device == "cpu" else "cuda")
    if not text.exists():
        write_text(text, 2 * run.samples * run.seqlen)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        return result(run, alone(measure, run, model, text, Path(scratch) / "out"))


# --- reports -----------------------------------------------------------------------------------------


def append(row: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "scale.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    rows = [json.loads(line) for line in (RESULTS / "scale.jsonl").read_text().splitlines()]
    (RESULTS / "scale.md").write_text(markdown(rows))
    print(markdown([row]))


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line a run; `scaled` figures are for all layers of the shape."""
    head = (
        "# Cost of pruning, by size\n\n"
        "Random bfloat16 Llamas, random words (`python benchmarks/scale.py --help` says how it is measured). *s, all "
        "layers* is scaled up from the layers that were run where these are fewer. *of peak* counts each weight once "
        "for each token, causal attention, and half of X Xᵀ, over the seconds of the passes. The solver `slimgpt` "
        "stands for the paper's flow: three passes a layer, float32 statistics, re-inversion.\n\n"
    )
    names = "date shape layers tokens ratio solver device s s,_all_layers tokens/s of_peak device_GiB host_GiB stages"
    columns = [name.replace("_", " ") for name in names.split()]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return head + "\n".join(lines) + "\n"


def cells(row: dict[str, Any]) -> list[str]:
    cost = row["cost"]
    device = cost["peak_device_bytes"]
    return [
        row["date"],
        row["shape"],
        f"{row['layers']} of {row['layers_of_shape']}",
        f"{row['samples']} x {row['seqlen']}",
        f"{row['ratio']:.0%}",
        row["solver"],
        f"{cost['device']}{', offloaded' if row['offload_dir'] else ''}",
        f"{row['total_s']:.1f}",
        f"{row['all_layers_s']:.1f}",
        f"{row['tokens_per_s']:,.0f}",
        f"{row['of_peak']:.1%}" if row["of_peak"] else "",
        f"{device / 2**30:.2f}" if device else "",
        f"{cost['peak_host_bytes'] / 2**30:.2f}",
        ", ".join(f"{stage} {value:.1f}" for stage, value in cost["seconds"].items()),
    ]


# --- the sweep ---------------------------------------------------------------------------------------


def sweep(folder: Path, device: str) -> None:
    """CPU seconds (other work on the machine does not count) over layers and over tokens, and their straight lines."""
    layers = {n: swept(folder, device, n, 32) for n in (2, 4, 8, 16)}
    tokens = {n * 256: swept(folder, device, 4, n) for n in (16, 32, 64, 128)}
    unit = "CPU seconds" if device == "cpu" else "seconds"
    plot({"layers (8,192 tokens)": layers, "tokens (4 layers)": tokens}, unit, RESULTS / "scale.png")


def swept(folder: Path, device: str, layers: int, samples: int) -> float:
    cost = measured(Run("tiny", layers, samples, 256, 0.25, "obs", device, None, None), folder)["cost"]
    return float(cost["cpu_s"] if device == "cpu" else cost["wall_s"])


def plot(sweeps: dict[str, dict[int, float]], unit: str, target: Path) -> None:
    import matplotlib.pyplot as plt  # the extra `report`

    figure, axes = plt.subplots(1, len(sweeps), figsize=(9, 3.5), layout="constrained", sharey=False)
    for axis, (name, points) in zip(axes, sweeps.items(), strict=True):
        slope, start, fit = line(list(points), list(points.values()))
        axis.plot(list(points), list(points.values()), "o")
        axis.plot([0, max(points)], [start, start + slope * max(points)], "-", linewidth=1)
        axis.set(xlabel=name, ylabel=unit, title=f"R² = {fit:.4f}", xlim=0, ylim=0)
        print(f"{name}: {start:.2f} + {slope:.3g} {unit} each, R² = {fit:.4f}")
    figure.suptitle("256-wide Llama, 25 % removed")
    figure.savefig(target, dpi=120)


def line(x: list[int], y: list[float]) -> tuple[float, float, float]:
    """Least squares: slope, intercept, R²."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    start = mean_y - slope * mean_x
    left = sum((b - start - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    return slope, start, 1 - left / sum((b - mean_y) ** 2 for b in y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="135M")
    parser.add_argument("--layers", type=int, help="only so many layers")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seqlen", type=int, default=2048)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--solver", nargs="+", default=["obs"], help="one after the other on the same checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--offload-dir")
    parser.add_argument("--peak-tflops", type=float, help="of the device in the dtype of the forward pass")
    parser.add_argument("--folder", help="where checkpoints are built and kept; default: a temporary one")
    parser.add_argument("--sweep", action="store_true", help="plot cost against layers and tokens instead")
    args = parser.parse_args()
    if args.folder:
        Path(args.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(args.folder or scratch)
        if args.sweep:
            sweep(folder, args.device)
            return
        layers = args.layers or SHAPES[args.shape].layers
        shared = (args.device, args.offload_dir, args.peak_tflops)
        for solver in args.solver:
            append(measured(Run(args.shape, layers, args.samples, args.seqlen, args.ratio, solver, *shared), folder))


if __name__ == "__main__":
    main()
