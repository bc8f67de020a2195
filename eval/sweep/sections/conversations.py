"""Scores of runs on held-out conversations."""

import statistics
from collections.abc import Mapping
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
    "stop.f1": "stop, F1",
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
    return [Heading("Held-out conversations"), Text(text), Table(header, rows)]


def _spread(outcomes, split, path):
    values = [json_value(outcome["splits"][split], path) for outcome in outcomes]
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"
