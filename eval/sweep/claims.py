"""Comparison of published numbers with the results of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.log import json_value

COMPILED = "compiled"  # pseudo entry: memory of a preset's compiled training step in GB
GB = 1e9
# Key of a judged row -> heading of its column.
COLUMNS = {"row": "row", "claim": "number", "run": "of", "aim": "aim"}
COLUMNS |= {"shown": "by seed", "verdict": ""}


@dataclass(frozen=True)
class Claim:
    """A published number.

    Attributes:
      row: id in docs/systems.md.
      says: description of the quantity.
      entry: entry whose runs measure it, or `COMPILED`.
      value: dotted path into `results.evaluation`, e.g. "scores.unseen.exact".
      aim: the number to reach; None = report only.
      below: True if the value must be below the aim, False if above.
      scale: factor applied to the value.
      form: format of a value.
    """

    row: str
    says: str
    entry: str
    value: str
    aim: float | None = None
    below: bool = False
    scale: float = 1.0
    form: str = "{:.1f}"

    def read(self, evaluation: Mapping[str, Any]) -> float | None:
        """Return the scaled value, or None if the run does not have it."""
        value = json_value(evaluation, self.value)
        return None if value is None else self.scale * value

    def verdict(self, values: Sequence[float | None]) -> str:
        """Describe how many seeds reach the aim; "" without an aim or a value."""
        if self.aim is None or not values:
            return ""
        sign = 1 if self.below else -1
        misses = [sign * (value - self.aim) for value in values if value is not None]
        good = sum(miss < 0 for miss in misses)
        if good == len(values):
            return "reached"
        short = f", short by {self.form.format(max([0.0, *misses]))} at most" if misses else ""
        return (f"by {good} of {len(values)} seeds" if good else "not reached") + short


def judge(claims: Sequence[Claim], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per claim: the aim, each seed's value, and the verdict.

    Args:
      claims: claims on entries that the sweep does not have are skipped.
      result: result of `results.collect`, with the output of `memory.measure` as "memory".
    """
    sizes = {
        key: (size["arguments"] + size["temporaries"]) / GB
        for key, size in result.get("memory", {}).items()
    }
    rows = []
    for claim in claims:
        if claim.entry == COMPILED and claim.value in sizes:
            rows.append(_row(claim, {"any": sizes[claim.value]}))
        elif claim.entry in result["entries"]:
            values = {
                run["seed"]: claim.read(run["evaluation"])
                for run in result["runs"]
                if run["entry"] == claim.entry and run.get("evaluation")
            }
            rows.append(_row(claim, values))
    return sorted(rows, key=lambda row: row["row"])


def _row(claim: Claim, by_seed: Mapping[Any, float | None]) -> dict[str, Any]:
    values = by_seed.values()
    shown = ", ".join("never" if v is None else claim.form.format(v) for v in values)
    return {
        "row": claim.row,
        "claim": claim.says,
        "run": claim.entry,
        "aim": None if claim.aim is None else ("<" if claim.below else ">") + f" {claim.aim:g}",
        "values": {str(seed): value for seed, value in by_seed.items()},
        "shown": shown or "not measured",
        "verdict": claim.verdict(list(values)),
    }


def lead(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """Return a sentence on how many claims were reached."""
    judged = [row for row in rows if row["verdict"]]
    reached = sum(row["verdict"] == "reached" for row in judged)
    return (
        f"{reached} of {len(judged)} numbers with an aim are reached by every seed "
        f"({', '.join(map(str, seeds))})."
    )
