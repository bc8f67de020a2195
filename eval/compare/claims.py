"""Claim beside measurement: HRLM's success numbers (SYSTEMS L-70 to L-79)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Outcome = Mapping[str, Any]
GB = 1e9
NOT_MEASURED = (
    "Not measured: the hours of L-76 (no such cards here); fluency and coherence of L-78, of "
    "which templates tell nothing; transfer to new tasks of L-79, and several users at once beyond "
    "the questions a second in batches."
)


@dataclass(frozen=True)
class Claim:
    """A number that was claimed.

    Attributes:
      row: of SYSTEMS.
      says: what is claimed, with its aim in words; "" of the aim if the source names none.
      run: whose outcome has the number.
      read: outcome -> the number, or None if it has none.
      aim: the number to reach; None = there is none, it is only told.
      below: whether the number must lie below the aim, and not above.
      form: how it is written.
    """

    row: str
    says: str
    run: str
    read: Callable[[Outcome], float | None]
    aim: float | None = None
    below: bool = False
    form: str = "{:.1f}"

    def reached(self, value: float) -> bool:
        """Whether a number does what is claimed."""
        return value < self.aim if self.below else value > self.aim

    def short(self, value: float) -> float:
        """By how much it misses."""
        return max(value - self.aim, 0.0) if self.below else max(self.aim - value, 0.0)


def _unseen(name: str, factor: float = 1.0):
    def read(outcome: Outcome) -> float | None:
        value = outcome["scores"]["unseen"].get(name)
        return None if value is None else factor * value

    return read


def _task(name: str):
    def read(outcome: Outcome) -> float | None:
        return 100.0 * outcome["by_task"][name]["exact"] if name in outcome["by_task"] else None

    return read


def _field(name: str):
    return lambda outcome: outcome[name]


def _speed(name: str):
    return lambda outcome: outcome["speed"][name]


def claims() -> list[Claim]:
    """All of them, in the order of the table."""
    exact, bleu, whole = _unseen("exact", 100.0), _unseen("bleu"), "{:,.0f}"
    level1 = ("translation", "json_sentence", "factual")
    levels = ("grammar", "extraction", "summary")
    text, first, more = "translation", "level 1", "levels 2, 3"
    until = "steps until 90 % of validation are exact"
    return [
        Claim("L-70", "exact on simple translation, %", text, exact, 90),
        Claim("L-70", "the same after all rounds", text, _unseen("exact_last", 100.0), 90),
        *(Claim("L-70", f"exact on {name}, %", first, _task(name), 90) for name in level1),
        Claim("L-71", "BLEU, 0 to 1", text, bleu, 0.7, form="{:.3f}"),
        Claim("L-71", "BLEU, 0 to 1", first, bleu, 0.7, form="{:.3f}"),
        Claim("L-72", "training steps", text, _field("steps"), 10_000, True, whole),
        Claim("L-72", until, text, _field("converged"), 10_000, True, whole),
        Claim("L-72", until, first, _field("converged"), 10_000, True, whole),
        Claim("L-74", "training pairs", text, _field("training_pairs"), 5000, True, whole),
        Claim("L-74", "training pairs", first, _field("training_pairs"), 5000, True, whole),
        Claim("L-74, L-77", "exact, %", "1,000 pairs", exact, 80),
        Claim("L-75", "one question, ms", text, _speed("latency_ms"), 100, True),
        Claim("L-75", "questions a second", text, _speed("questions_per_second"), 100, form=whole),
        Claim("L-77", "rounds against blanks, rank correlation", "4x4 Sudoku", _harder, 0.0),
        Claim("L-77", "exact, %", "4x4 Sudoku", exact, 99),
        Claim("L-78", "chrF, 0 to 1", text, _unseen("chrf"), form="{:.3f}"),
        Claim("L-78", "ROUGE-L, 0 to 1", text, _unseen("rouge_l"), form="{:.3f}"),
        *(Claim("L-78", f"exact on {name}, %", more, _task(name)) for name in levels),
        Claim("L-78", "ROUGE-L, 0 to 1", more, _unseen("rouge_l"), form="{:.3f}"),
    ]


def _harder(outcome: Outcome) -> float | None:
    return outcome["rounds_against_difficulty"]


def judge(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a claim: what was said, each seed's number, and whether it was reached.

    Args:
      result: with "names" of all runs, "runs", outcomes of `runs.outcome`, and "memory" of
        `memory.read`. What is claimed of runs that are not among the names is left out.
    """
    rows = []
    for claim in claims():
        if claim.run not in result["names"]:
            continue
        outcomes = [o for o in result["runs"] if o["name"] == claim.run]
        found = {o["seed"]: claim.read(o) for o in outcomes}
        rows.append(_row(claim, found))
    rows += _memory_rows(result["memory"])
    return sorted(rows, key=lambda row: row["row"])


def _row(claim: Claim, found: Mapping[Any, float | None]) -> dict[str, Any]:
    values = {seed: value for seed, value in found.items() if value is not None}
    shown = ", ".join(claim.form.format(value) for value in values.values())
    if len(values) < len(found):
        shown = ", ".join(
            claim.form.format(found[seed]) if seed in values else "never" for seed in found
        )
    return {
        "row": claim.row,
        "claim": claim.says,
        "run": claim.run,
        "aim": None if claim.aim is None else ("<" if claim.below else ">") + f" {claim.aim:g}",
        "values": {str(seed): value for seed, value in found.items()},
        "shown": shown or "not measured",
        "verdict": _verdict(claim, list(found.values())),
    }


def _verdict(claim: Claim, found: Sequence[float | None]) -> str:
    if claim.aim is None or not found:
        return ""
    good = sum(value is not None and claim.reached(value) for value in found)
    if good == len(found):
        return "reached"
    known = [value for value in found if value is not None]
    by = f", short by {claim.form.format(max(map(claim.short, known)))} at most" if known else ""
    return (f"by {good} of {len(found)} seeds" if good else "not reached") + by


def _memory_rows(memory: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for key, found in memory.items():
        preset = key.split(",")[0]
        aim = 2.0 if preset == "hrlm/base" else found["card_gb"]
        name = f"GB of a training step of {key}, {found['batch_size']} x {found['seq_len']}"
        row = "L-73" if preset == "hrlm/base" else "L-76"
        claim = Claim(row, name, "compiled", lambda o: o, aim, True, "{:.2f}")
        size = (found["arguments"] + found["temporaries"]) / GB
        rows.append(_row(claim, {"any": size}))
    return rows


HEADER = ("row", "number", "of", "aim", "by seed", "")


def cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Judged rows as text under `HEADER`."""
    return [
        [row["row"], row["claim"], row["run"], row["aim"] or "", row["shown"], row["verdict"]]
        for row in rows
    ]


def lead(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """How many were reached."""
    judged = [row for row in rows if row["verdict"]]
    reached = sum(row["verdict"] == "reached" for row in judged)
    return (
        f"{reached} of {len(judged)} numbers with an aim are reached by every seed "
        f"({', '.join(map(str, seeds))})."
    )
