"""Section on compute: operations per token, and those to the loss of the first entry."""

from collections.abc import Mapping
from typing import Any

from eval.report.document import Block, Heading, Table, Text
from eval.sweep.compute import to_reach
from eval.sweep.results import by_seed, of_entry

EXPLANATION = (
    "Operations of loss and gradient, counted from the program. The level is where the worst "
    "seed of the first entry ends, so that all of its seeds reach it; an entry reaches it at the "
    "mean of its seeds' steps, between two validations. “Never”: one seed did not."
)


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return the section; [] without counted operations or without a finished first entry."""
    rows = compute_rows(result)
    if not rows:
        return []
    header = ("entry", "MFLOP per token", "relative", "TFLOP to the level", "relative")
    cells = [[row["entry"], *map(_number, list(row.values())[1:])] for row in rows]
    return [Heading("Compute"), Table(header, cells), Text(EXPLANATION)]


def compute_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per entry: MFLOP per token, TFLOP to the level, and both over the first's."""
    entries = result["entries"]
    first = next(iter(entries))
    finals = by_seed(result, first)
    if not finals or not all(entry.get("flops") for entry in entries.values()):
        return []
    level, rows = max(finals.values()), []  # lower is better
    for name, entry in entries.items():
        config = entry["config"]
        per_token = entry["flops"] / (config["batch_size"] * config["seq_len"]) / 1e6
        finished = [run for run in of_entry(result, name) if run["final"] is not None]
        steps = to_reach(finished, level)
        total = None if steps is None else steps * entry["flops"] / 1e12
        rows.append({"entry": name, "per_token": per_token, "total": total})
    base = rows[0]
    return [
        {
            "entry": row["entry"],
            "per_token": row["per_token"],
            "per_token_relative": row["per_token"] / base["per_token"],
            "total": row["total"],
            "total_relative": _over(row["total"], base["total"]),
        }
        for row in rows
    ]


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _number(value: float | None) -> str:
    return "never" if value is None else f"{value:.3g}"
