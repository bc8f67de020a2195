"""Results of the probes as a table on the terminal and as Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from eval.report.document import Heading, Table, Text, provenance, to_markdown

Row = Mapping[str, Any]
TITLE = "Synthetic tasks at equal parameters"
SHORT = ("task", "cell", "accuracy", "chance", "whole rows", "state bytes", "seconds")
COLUMNS = (
    "task",
    "cell",
    "accuracy",
    "chance",
    "whole rows",
    "state bytes",
    "parameters",
    "width",
    "learning rate",
    "tokens",
    "seconds",
)


def mean_and_spread(values: Sequence[float]) -> str:
    """Format mean ± sample standard deviation in per cent, or the mean of a single value."""
    text = f"{statistics.fmean(values):.1%}"
    return text if len(values) < 2 else f"{text} ± {100 * statistics.stdev(values):.1f}"


def cells_of(row: Row) -> list[str]:
    """Format one row in the order of `COLUMNS`."""
    diverged = f" ({row['diverged']} diverged)" if row["diverged"] else ""
    return [
        row["task"],
        row["cell"],
        mean_and_spread(row["accuracy"]) + diverged,
        f"{row['chance']:.1%}",
        mean_and_spread(row["whole_rows"]),
        f"{row['state_bytes']:,}",
        f"{row['parameters']:,}",
        f"{row['width']} / {row['hidden']}",
        f"{row['learning_rate']:g}",
        f"{row['tokens']:,}" + (" solved" if row["solved"] else ""),
        f"{row['seconds']:.0f}",
    ]


def short_table(rows: Sequence[Row]) -> Table:
    """Return the columns that fit on a terminal, with a rule between tasks."""
    indices = [COLUMNS.index(column) for column in SHORT]
    cells = [cells_of(row) for row in rows]
    starts = [i for i in range(1, len(rows)) if rows[i]["task"] != rows[i - 1]["task"]]
    return Table(SHORT, [[row[i] for i in indices] for row in cells], left=(0, 1), rules=starts)


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
        Table(COLUMNS, [cells_of(row) for row in rows], left=(0, 1)),
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
