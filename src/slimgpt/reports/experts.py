"""What ``slimgpt prune --experts`` shows when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from slimgpt.reports.loudness import out
from slimgpt.reports.memory import mebibytes


def print_experts(record: Mapping[str, Any]) -> None:
    """Which experts went, what the router had sent to them, and whether the text was enough to judge them by."""
    found, sizes, cost = record["experts"], record["parameters"], record["cost"]
    table = Table(title="Experts", title_justify="left")
    for column in ("layer", "gone", "tokens sent to them", "busiest before", "busiest now"):
        table.add_column(column, justify="left" if column == "gone" else "right")
    for layer in found["layers"]:
        gone = sorted(set(range(found["before"])) - set(layer["kept"]))
        busiest = (f"{max(layer[key]):.1%}" for key in ("share_before", "share_after"))
        table.add_row(str(layer["layer"]), " ".join(map(str, gone)), f"{1 - layer['share_kept']:.1%}", *busiest)
    out.print(table)
    out.print(
        f"{found['before']} → {found['after']} experts a layer, {found['per_token']} of them a token; "
        f"{sizes['before']:,} → {sizes['after']:,} parameters ({sizes['removed_ratio']:.2%} removed) in "
        f"{sum(cost['seconds'].values()):.0f} s; peak memory {mebibytes(cost['peak_host_bytes'])}."
    )
    for line in notes(found):
        out.print(line)
    if record["bos"] is not None:
        out.print(f"Every calibration window began with {record['bos']}.")


def notes(found: Mapping[str, Any]) -> list[str]:
    """What people should know of the text and of the files."""
    mean, least = found["tokens_mean"], found["tokens_least"]
    said = [f"An expert saw {mean:,.0f} calibration tokens on average, and {least:,} at least."]
    if found["repaired"]:
        refitted = sum(layer["refitted"] for layer in found["layers"])
        said.append(
            f"{refitted} of the {found['after'] * len(found['layers'])} experts that stay were refitted; error of "
            f"their layers' outputs on tokens that the fit had not seen: {_mean(found, 'error_before_repair'):.2%} → "
            f"{_mean(found, 'error_after_repair'):.2%} on average."
        )
    if least < found["tokens_enough"]:
        unseen = f" {found['unseen']} experts saw none at all." if found["unseen"] else ""
        said.append(
            f"note: with fewer than {found['tokens_enough']} tokens an expert's score means little: raise --samples, "
            f"or take a text that is nearer to what the model is for.{unseen}"
        )
    if found["left_out"]:
        said.append(
            f"note: {len(found['left_out'])} tensors that transformers does not read, such as those of heads for "
            f"several tokens, are left out, first {found['left_out'][0]}."
        )
    return said


def _mean(found: Mapping[str, Any], key: str) -> float:
    return float(sum(layer[key] for layer in found["layers"]) / len(found["layers"]))
