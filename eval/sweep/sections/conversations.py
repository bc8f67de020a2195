"""Scores of runs on held-out conversations, and on arithmetic among them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from eval.log import json_value
from eval.report.document import Block, Heading, Table, Text
from eval.sweep.results import of_entry

# path in a split's scores -> column
SCORES = {
    "bits_per_byte": "bits per byte",
    "intent.accuracy": "intent",
    "answerable.auroc": "answerable, AUROC",
    "answerable.ece": "answerable, calibration error",
    "stop.auroc": "stop, AUROC",
    "stop.best_f1": "stop, best F1",
    "stop.always_f1": "F1 of always stopping",
}


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return the section; empty if no run was evaluated on conversations."""
    by_entry = {
        name: [run["conversation"] for run in of_entry(result, name) if run.get("conversation")]
        for name in result["entries"]
    }
    by_entry = {name: outcomes for name, outcomes in by_entry.items() if outcomes}
    if not by_entry:
        return []
    split = list(next(iter(by_entry.values()))[0]["splits"])[-1]
    rows = []
    for name, outcomes in by_entry.items():
        row = [name, f"{outcomes[0]['parameters']:,}", str(len(outcomes))]
        rows.append([*row, *(_spread(outcomes, split, path) for path in SCORES)])
    majority = json_value(next(iter(by_entry.values()))[0]["splits"][split], "intent.majority")
    text = f"On the {split} split, mean and standard deviation over the seeds."
    text += f" The most frequent intent is {100 * majority:.1f} % of the data." if majority else ""
    header = ["", "parameters", "seeds", *SCORES.values()]
    blocks = [Heading("Held-out conversations"), Text(text), Table(header, rows)]
    return [*blocks, *_arithmetic(by_entry, split)]


def _arithmetic(by_entry: Mapping[str, Sequence[Mapping]], split: str) -> list[Block]:
    """Return a table for each operation, the digits of the longer operand as columns."""
    found = [
        outcome["splits"][split].get("arithmetic", {})
        for outcomes in by_entry.values()
        for outcome in outcomes
    ]
    signs = sorted({sign for scores in found for sign in scores} - {"all"})
    if not signs:
        return []
    text = f"Percent of the questions of the {split} split that are answered exactly right, by the "
    text += "digits of the longer operand; mean and standard deviation over the seeds."
    blocks: list[Block] = [Heading("Held-out arithmetic"), Text(text)]
    for sign in signs:
        digits = sorted({n for scores in found for n in scores.get(sign, {})} - {"all"}, key=int)
        columns = [*digits, "all"]
        rows = []
        for name, outcomes in by_entry.items():
            paths = [f"arithmetic.{sign}.{n}.exact" for n in columns]
            rows.append([name, *(_spread(outcomes, split, path, 100, 1) for path in paths)])
        blocks.append(Table([f"a {sign} b", *columns], rows))
    return blocks


def _spread(outcomes, split, path, scale=1, places=3):
    values = [json_value(outcome["splits"][split], path) for outcome in outcomes]
    values = [scale * value for value in values if value is not None]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{places}f}{spread}"
