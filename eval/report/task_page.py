"""The report page of a run on a synthetic task."""

from collections.abc import Mapping
from typing import Any

from eval.log import Log
from eval.report import figures
from eval.report.document import (
    Block,
    Heading,
    Picture,
    Table,
    Text,
    Tiles,
    not_evaluated,
    provenance,
    to_html,
)


def compose(log: Log, result: Mapping[str, Any] | None) -> str:
    """Return the page as HTML; without a result, with the training curves only."""
    notes = [Text(note, "missing") for note in log.notes]
    if result is None:
        blocks = [not_evaluated(log.workdir), *notes, *_curves(log)]
    else:
        scores = result["scores"]
        main = [name for name in ("accuracy", "whole_rows") if name in scores]
        tiles = [(f"{100 * scores[name]:.1f} %", name.replace("_", " ")) for name in main]
        tiles += [(f"{result['parameters']:,}", "parameters")]
        tiles += [(f"{result['state_bytes']:,}", "bytes of state")]
        blocks = [Text(headline(result), "lead"), Tiles(tiles), *notes]
        blocks += [Heading("Scores"), score_table(result), *_curves(log)]
        facts = {name: str(value) for name, value in result["fields"].items()}
        blocks += provenance({"checkpoint": f"step {result['step']}"} | facts, **result)
    return to_html(log.title, blocks, log.settings("a synthetic task"))


def headline(result: Mapping[str, Any]) -> str:
    """Summarize the result in a sentence."""
    scores, rows = result["scores"], f"{result['rows']:,} test rows of {result['task']}"
    if "accuracy" not in scores:
        return f"After {result['step']} steps, on {rows}:"
    return (
        f"After {result['step']} steps the model gives {100 * scores['accuracy']:.1f} % of the "
        f"answers of {rows}; {100 * result['chance']:.1f} % would be right by chance, and "
        f"{100 * scores['whole_rows']:.1f} % of the rows are right as a whole."
    )


def score_table(result: Mapping[str, Any]) -> Table:
    """Return every score."""
    rows = [[name, f"{value:.4f}"] for name, value in result["scores"].items()]
    return Table(["mean over targets", "test"], rows)


def _curves(log: Log) -> list[Block]:
    blocks: list[Block] = []
    names = dict.fromkeys(("loss", *log.names("train"), *log.names("valid")))
    chosen = [n for n in names if n in ("loss", "regression") or n.endswith(("accuracy", "_exact"))]
    for name in chosen:
        lines = {s: log.series(s, name) for s in ("train", "valid") if name in log.names(s)}
        if lines:
            figure = figures.curves(lines, ylabel=name.replace("_", " "))
            caption = f"{name.replace('_', ' ').capitalize()} during training."
            blocks.append(Picture(figures.svg(figure, name), caption))
    return [Heading("Training"), *blocks] if blocks else []
