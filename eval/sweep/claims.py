"""Published numbers compared with what the runs measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COMPILED = "compiled"  # in place of an entry: the memory of a preset's training step, in GB
GB = 1e9
HEADER = ("row", "number", "of", "aim", "by seed", "")


@dataclass(frozen=True)
class Claim:
    """A number that was claimed.

    Attributes:
      row: of the source's list.
      says: the quantity.
      entry: whose runs have the number, or `COMPILED`.
      value: dotted path into `results.evaluation`, e.g. "scores.unseen.exact".
      aim: the number to reach; None = it is only reported.
      below: whether the number must lie below the aim, and not above.
      scale: factor on the value.
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
        """Return the number; None if the run has none."""
        found: Any = evaluation
        for name in self.value.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return None if found is None else self.scale * found

    def reached(self, value: float) -> bool:
        """Return whether a number does what is claimed."""
        return value < self.aim if self.below else value > self.aim

    def shortfall(self, value: float) -> float:
        """Return by how much a number misses the aim, at least 0."""
        return max(value - self.aim if self.below else self.aim - value, 0.0)

    def verdict(self, values: Sequence[float | None]) -> str:
        """Say whether each seed's number reaches the aim; "" without an aim or a number."""
        if self.aim is None or not values:
            return ""
        known = [value for value in values if value is not None]
        good = sum(map(self.reached, known))
        if good == len(values):
            return "reached"
        short = f", short by {self.form.format(max(map(self.shortfall, known)))} at most"
        by = short if known else ""
        return (f"by {good} of {len(values)} seeds" if good else "not reached") + by


def judge(claims: Sequence[Claim], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a claim: the aim, each seed's number, and whether it was reached.

    Args:
      claims: those of entries that the sweep does not have are left out.
      result: of `results.collect`, with "memory" as `memory.measure` wrote it.
    """
    sizes = {
        key: (found["arguments"] + found["temporaries"]) / GB
        for key, found in result.get("memory", {}).items()
    }
    rows = []
    for claim in claims:
        if claim.entry == COMPILED:
            found = {"any": sizes[claim.value]} if claim.value in sizes else None
        elif claim.entry in result["entries"]:
            found = {
                run["seed"]: claim.read(run["evaluation"])
                for run in result["runs"]
                if run["entry"] == claim.entry and run.get("evaluation")
            }
        else:
            found = None
        if found is not None:
            rows.append(_row(claim, found))
    return sorted(rows, key=lambda row: row["row"])


def _row(claim: Claim, found: Mapping[Any, float | None]) -> dict[str, Any]:
    values = found.values()
    shown = ", ".join("never" if v is None else claim.form.format(v) for v in values)
    return {
        "row": claim.row,
        "claim": claim.says,
        "run": claim.entry,
        "aim": None if claim.aim is None else ("<" if claim.below else ">") + f" {claim.aim:g}",
        "values": {str(seed): value for seed, value in found.items()},
        "shown": shown or "not measured",
        "verdict": claim.verdict(list(values)),
    }


def cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return judged rows as text under `HEADER`."""
    return [
        [row["row"], row["claim"], row["run"], row["aim"] or "", row["shown"], row["verdict"]]
        for row in rows
    ]


def lead(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """Say how many claims were reached."""
    judged = [row for row in rows if row["verdict"]]
    reached = sum(row["verdict"] == "reached" for row in judged)
    return (
        f"{reached} of {len(judged)} numbers with an aim are reached by every seed "
        f"({', '.join(map(str, seeds))})."
    )
