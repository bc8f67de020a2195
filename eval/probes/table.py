"""Results of the probes as a table on the terminal and as Markdown."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from eval.report.document import Heading, Table, Text, provenance, to_markdown

Row = Mapping[str, Any]
TITLE = "Synthetic tasks at equal parameters"
SHORT = ("task", "cell", "accuracy", "chance", "whole rows", "state bytes", "seconds")


def mean_and_spread(values: Sequence[float]) -> str:
    """Format mean ± sample standard deviation in per cent, or the mean of a single value."""
    text = f"{statistics.fmean(values):.1%}"
    return text if len(values) < 2 else f"{text} ± {100 * statistics.stdev(values):.1f}"


def _accuracy(row: Row) -> str:
    diverged = f" ({row['diverged']} diverged)" if row["diverged"] else ""
    return mean_and_spread(row["accuracy"]) + diverged


COLUMNS: dict[str, Callable[[Row], str]] = {
    "task": lambda row: row["task"],
    "cell": lambda row: row["cell"],
    "accuracy": _accuracy,
    "chance": lambda row: f"{row['chance']:.1%}",
    "whole rows": lambda row: mean_and_spread(row["whole_rows"]),
    "state bytes": lambda row: f"{row['state_bytes']:,}",
    "parameters": lambda row: f"{row['parameters']:,}",
    "width": lambda row: f"{row['width']} / {row['hidden']}",
    "learning rate": lambda row: f"{row['learning_rate']:g}",
    "tokens": lambda row: f"{row['tokens']:,}" + (" solved" if row["solved"] else ""),
    "seconds": lambda row: f"{row['seconds']:.0f}",
}


def short_table(rows: Sequence[Row]) -> Table:
    """Return the columns that fit on a terminal, with a rule between tasks."""
    starts = [i for i in range(1, len(rows)) if rows[i]["task"] != rows[i - 1]["task"]]
    return Table(SHORT, _cells(rows, SHORT), left=(0, 1), rules=starts)


def _cells(rows: Sequence[Row], columns: Iterable[str]) -> list[list[str]]:
    return [[COLUMNS[column](row) for column in columns] for row in rows]


def markdown(result: Mapping[str, Any]) -> str:
    """Format the result as Markdown: accuracy by cell and task, every row, and provenance."""
    rows = result["rows"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    by_key = {(row["cell"], row["task"]): row for row in rows}
    short = [["chance"] + [f"{_any(rows, task)['chance']:.1%}" for task in tasks]]
    for cell in cells:
        scores = [by_key.get((cell, task)) for task in tasks]
        short.append([cell] + ["" if r is None else mean_and_spread(r["accuracy"]) for r in scores])
    settings = [[task, *_settings(_any(rows, task))] for task in tasks]
    blocks = [
        Text(EXPLANATION),
        Table(["cell", *tasks], short),
        Heading("Every row"),
        Table(tuple(COLUMNS), _cells(rows, COLUMNS), left=(0, 1)),
        Heading("Settings"),
        Table(["task", "fields", "step limit", "rows per step", "learning rates"], settings),
        *provenance(**result),
    ]
    return to_markdown(blocks, TITLE)


EXPLANATION = """\
Each row is a model of residual blocks (cell, then SwiGLU), trained on generated rows and tested on
1,024 rows of another seed. Accuracy: fraction of correct scored positions, mean ± sample standard
deviation over the seeds of initialization and training rows. Chance: accuracy without reading the
input. Whole rows: fraction of rows without an error. The learning rate is selected on validation
rows of a third seed. State bytes: recurrent state per sequence, over all layers (for attention, the
keys and values of a whole row). Width: of the model / of the SwiGLU layer, which takes the
parameters that the cell leaves. Tokens: seen by each model; "solved" = stopped early with a
validation accuracy of 99.5 % for every seed. Seconds: all seeds and learning rates together, with
compilation."""


def _any(rows: Sequence[Row], task: str) -> Row:
    return next(row for row in rows if row["task"] == task)


def _settings(row: Row) -> list[str]:
    settings = row["settings"]
    fields = ", ".join(f"{name}={value}" for name, value in settings["task"].items())
    rates = ", ".join(f"{rate:g}" for rate in settings["learning_rates"])
    return [fields, str(settings["steps"]), str(settings["batch_size"]), rates]
