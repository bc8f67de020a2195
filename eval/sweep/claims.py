"""Comparison of published numbers with the results of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COMPILED = "compiled"  # pseudo entry: memory of a preset's compiled training step in GB
GB = 1e9
HEADER = ("row", "number", "of", "aim", "by seed", "")


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
        value: Any = evaluation
        for name in self.value.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return None if value is None else self.scale * value

    def reached(self, value: float) -> bool:
        """Return whether a value reaches the aim."""
        return value < self.aim if self.below else value > self.aim

    def verdict(self, values: Sequence[float | None]) -> str:
        """Describe how many seeds reach the aim; "" without an aim or a value."""
        if self.aim is None or not values:
            return ""
        numbers = [value for value in values if value is not None]
        good = sum(map(self.reached, numbers))
        if good == len(values):
            return "reached"
        misses = [value - self.aim if self.below else self.aim - value for value in numbers]
        short = f", short by {self.form.format(max([0.0, *misses]))} at most" if numbers else ""
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
        if claim.entry == COMPILED:
            values = {"any": sizes[claim.value]} if claim.value in sizes else None
        elif claim.entry in result["entries"]:
            values = {
                run["seed"]: claim.read(run["evaluation"])
                for run in result["runs"]
                if run["entry"] == claim.entry and run.get("evaluation")
            }
        else:
            values = None
        if values is not None:
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


def cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Format judged rows as table cells under `HEADER`."""
    return [
        [row["row"], row["claim"], row["run"], row["aim"] or "", row["shown"], row["verdict"]]
        for row in rows
    ]


def lead(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """Return a sentence on how many claims were reached."""
    judged = [row for row in rows if row["verdict"]]
    reached = sum(row["verdict"] == "reached" for row in judged)
    return (
        f"{reached} of {len(judged)} numbers with an aim are reached by every seed "
        f"({', '.join(map(str, seeds))})."
    )
