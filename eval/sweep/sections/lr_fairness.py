"""Fairness of the learning rate: comparison of entries at their own best rates.

One rate for all favours the entry that it was tuned for. Entries of the group "rates" differ from
another entry only in the learning rate. The questions between entries with several rates are
answered again with each entry at its best rate.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from eval.report.document import Block, Heading, Table, Text
from eval.sweep.results import by_seed
from eval.sweep.statistics import LABELS, compare, interval, number

RATE = "optimizer.learning_rate"
Rates = list[dict[str, Any]]
NOTE = (
    "The best rate is the one with the lowest mean over the runs that are then compared, which "
    "biases both sides of a question slightly downwards; the intervals do not account for this "
    "selection. All other entries were run only at the rate tuned for the first entry."
)


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return the section; empty if every entry was run at one rate."""
    rates = rate_table(result)
    if not rates.rows:
        return []
    blocks = [Heading("Is one learning rate fair?"), Text(NOTE), rates]
    if again := answers_at_best(result):
        blocks.append(question_table(again))
    return [*blocks, *map(Text, words(result))]


def entries_by_rate(result: Mapping[str, Any]) -> dict[str, Rates]:
    """Return entry -> its results at each rate in ascending order, for entries with several rates.

    Each is a dict with `rate`, `entry`, `values` (seed -> final value) and `mean` (or None).
    """
    entries, by_rate = result["entries"], {}
    for name, entry in entries.items():
        if entry["group"] == "rates":
            continue
        others = [
            other
            for other, listed in entries.items()
            if listed["group"] == "rates" and _other_changes(listed) == _other_changes(entry)
        ]
        if others:
            rows = [_rate_result(result, member) for member in (name, *others)]
            by_rate[name] = sorted(rows, key=lambda row: row["rate"])
    return by_rate


def _other_changes(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in entry["changes"].items() if field != RATE}


def _rate_result(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    rate = result["entries"][name]["config"]["optimizer"]["learning_rate"]
    values = by_seed(result, name)
    mean = statistics.fmean(values.values()) if values else None
    return {"rate": rate, "entry": name, "values": values, "mean": mean}


def best(rows: Rates) -> dict[str, Any] | None:
    """Return the result with the lowest mean, or None if no run finished."""
    finished = [row for row in rows if row["mean"] is not None]
    return min(finished, key=lambda row: row["mean"]) if finished else None


def answers_at_best(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answer the questions between entries with several rates, each side at its best rate.

    Returns one dict per question: `text`, `before` (the verdict at the common rate), `with`,
    `without` (the entries compared) and the result of `compare`.
    """
    rates, rows = entries_by_rate(result), []
    for answer in result["answers"].values():
        sides = {side: best(rates.get(answer[side], [])) for side in ("with", "without")}
        if None in sides.values():
            continue
        again = compare(sides["with"]["values"], sides["without"]["values"])
        names = {side: row["entry"] for side, row in sides.items()}
        rows.append({"text": answer["text"], "before": answer["verdict"], **names, **again})
    return rows


def words(result: Mapping[str, Any]) -> list[str]:
    """Return one sentence per best rate and per answer that changes."""
    sentences = []
    for name, rows in entries_by_rate(result).items():
        optimum = best(rows)
        if optimum is None:
            continue
        common = next(row["mean"] for row in rows if row["entry"] == name)
        change = "" if common is None else f", {optimum['mean'] - common:+.4f} from the common rate"
        tried = [row["rate"] for row in rows if row["mean"] is not None]
        edge = {tried[-1]: "highest", tried[0]: "lowest"}.get(optimum["rate"])
        end = f"; this is the {edge} rate tried, so the optimum may be beyond it"
        end = end if edge and len(tried) > 1 else ""
        sentences.append(f"“{name}” is best at {optimum['rate']:g}{change}{end}.")
    again = answers_at_best(result)
    changed = [row for row in again if row["verdict"] != row["before"]]
    if again and not changed:
        sentences.append(f"None of the {len(again)} affected answers changes.")
    for row in changed:
        sentences.append(
            f"“{row['text']}”: {row['before']} at the common rate, {row['verdict']} at the best."
        )
    return sentences


def rate_table(result: Mapping[str, Any]) -> Table:
    """Return a table with one row per entry and one column per rate, the best one marked."""
    rates = entries_by_rate(result)
    columns = sorted({row["rate"] for rows in rates.values() for row in rows})
    table = []
    for name, rows in rates.items():
        optimum = best(rows)
        cells = {
            row["rate"]: number(row["mean"]) + (" (best)" if row is optimum else "") for row in rows
        }
        table.append([name, *(cells.get(rate, "-") for rate in columns)])
    return Table(["learning rate", *(f"{rate:g}" for rate in columns)], table)


def question_table(again: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the answers at the common rate and at the best rates."""
    rows = []
    for row in again:
        verdicts = [LABELS[row[key]] for key in ("before", "verdict")]
        rows.append([row["text"], *verdicts, number(row["difference"], sign=True), interval(row)])
    header = ["", "at the common rate", "at the best rates", "difference", "95 % interval"]
    return Table(header, rows)
