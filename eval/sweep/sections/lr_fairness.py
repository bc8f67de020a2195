"""Fairness of the learning rate: entries that were also run at other rates, each at its best.

One rate for all favours the entry that it was chosen for. Entries of the group "rates" differ from
another entry in the rate alone. Here they are compared with it, and the questions between such
entries are asked again, each entry at its best rate.
"""

from collections.abc import Mapping
from typing import Any

from eval.report.document import Block, Heading, Table, Text
from eval.sweep.results import by_seed
from eval.sweep.statistics import HELPS, HURTS, SAME, compare, number

RATE = "optimizer.learning_rate"
Tried = list[dict[str, Any]]
NOTE = (
    "The best is the one of the lowest mean over the same runs that are then compared, so that "
    "each value is a little too good, for both sides of a question alike; the intervals know "
    "nothing of the choice. All other entries were run at one rate alone, which was chosen for the "
    "first: whether theirs would be another is not known."
)


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return the part of the page; empty if every entry was run at one rate."""
    rates = rate_table(result)
    if not rates.rows:
        return []
    blocks = [Heading("Is one learning rate fair?"), Text(NOTE), rates]
    asked = question_table(result)
    return [*blocks, *([asked] if asked.rows else []), *map(Text, words(result))]


def tried(result: Mapping[str, Any]) -> dict[str, Tried]:
    """Return entry -> its runs at each rate, the lowest first; entries of one rate are left out.

    A dict a rate: `rate`, `entry`, `values` (seed -> final value), `mean`, None without values.
    """
    entries, found = result["entries"], {}
    for name, entry in entries.items():
        if entry["group"] == "rates":
            continue
        same = [name]
        for other, listed in entries.items():
            if listed["group"] == "rates" and _but_rate(listed) == _but_rate(entry):
                same.append(other)
        if len(same) > 1:
            rows = [_at(result, one) for one in same]
            found[name] = sorted(rows, key=lambda row: row["rate"])
    return found


def _but_rate(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in entry["changes"].items() if field != RATE}


def _at(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    entry, values = result["entries"][name], by_seed(result, name)
    rate = entry["changes"].get(RATE)
    rate = entry["config"]["optimizer"]["learning_rate"] if rate is None else rate
    mean = sum(values.values()) / len(values) if values else None
    return {"rate": float(rate), "entry": name, "values": values, "mean": mean}


def best(rows: Tried) -> dict[str, Any] | None:
    """Return the rate of the lowest mean; None if nothing finished."""
    known = [row for row in rows if row["mean"] is not None]
    return min(known, key=lambda row: row["mean"]) if known else None


def at_their_best(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ask the questions of which both sides were run at several rates of each side's best.

    A dict a question: `text`, `before` (the verdict at the common rate), `with`, `without` (the
    entries that were compared) and what `compare` says.
    """
    rates, found = tried(result), []
    for answer in result["answers"].values():
        sides = {side: best(rates.get(answer[side], [])) for side in ("with", "without")}
        if None in sides.values():
            continue
        again = compare(sides["with"]["values"], sides["without"]["values"])
        names = {side: row["entry"] for side, row in sides.items()}
        found.append({"text": answer["text"], "before": answer["verdict"], **names, **again})
    return found


def words(result: Mapping[str, Any]) -> list[str]:
    """Describe the best rates, and the answers that change with them, a sentence each."""
    said = []
    for name, rows in tried(result).items():
        chosen = best(rows)
        if chosen is None:
            continue
        gain = next(row["mean"] for row in rows if row["entry"] == name)
        change = "" if gain is None else f", {chosen['mean'] - gain:+.4f} from the common rate"
        edge = [row["rate"] for row in rows if row["mean"] is not None]
        end = ""
        if len(edge) > 1 and chosen["rate"] in (edge[0], edge[-1]):
            end = f"; the {'lowest' if chosen['rate'] == edge[0] else 'highest'} one tried, "
            end += "so that its own best may lie beyond"
        said.append(f"“{name}” is best at {chosen['rate']:g}{change}{end}.")
    again = at_their_best(result)
    moved = [row for row in again if row["verdict"] != row["before"]]
    if again and not moved:
        said.append(f"None of the {len(again)} answers that this touches changes.")
    for row in moved:
        said.append(f"“{row['text']}”: {row['before']} at one rate, {row['verdict']} at the best.")
    return said


def rate_table(result: Mapping[str, Any]) -> Table:
    """Return a table with an entry a row and a rate a column, the best one marked."""
    rates = tried(result)
    columns = sorted({row["rate"] for rows in rates.values() for row in rows})
    table = []
    for name, rows in rates.items():
        chosen, by_rate = best(rows), {row["rate"]: row for row in rows}
        cells = [name]
        for rate in columns:
            row = by_rate.get(rate)
            mark = " (best)" if row is not None and row is chosen and chosen["mean"] else ""
            cells.append((number(row["mean"]) if row else "-") + mark)
        table.append(cells)
    return Table(["learning rate", *(f"{rate:g}" for rate in columns)], table)


def question_table(result: Mapping[str, Any]) -> Table:
    """Return a table of the answers at the common rate and at each side's best."""
    shown = {HELPS: "yes", HURTS: "no, worse", SAME: SAME}
    rows = []
    for row in at_their_best(result):
        interval = "-" if row["p"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        before, now = (shown.get(row[key], row[key]) for key in ("before", "verdict"))
        rows.append([row["text"], before, now, number(row["difference"], sign=True), interval])
    header = ["", "at the common rate", "at each one's best", "difference", "interval at 95 %"]
    return Table(header, rows)
