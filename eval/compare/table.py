"""Scores of several runs, and what was claimed of them: on the terminal, as Markdown, as a page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.compare import claims
from eval.report import figures
from eval.report import html as page
from eval.report.answers_page import format_score

SCORES = {
    "exact": "exact",
    "exact_last": "exact, all rounds",
    "exact_adaptive": "exact, halting",
    "rounds_adaptive": "rounds, halting",
    "bleu": "BLEU of sentences",
    "corpus_bleu": "BLEU of all",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "cells": "right cells",
    "open_cells": "of the blanks",
}
Result = Mapping[str, Any]
Table = tuple[Sequence[str], list[list[str]]]


def outcomes_of(result: Result, name: str) -> list[Result]:
    """Of one run, by seed."""
    return [outcome for outcome in result["runs"] if outcome["name"] == name]


def known(result: Result) -> list[str]:
    """Names of the runs that have been measured."""
    return [name for name in result["names"] if outcomes_of(result, name)]


def scores(result: Result) -> Table:
    """A row a run: parameters, steps, and each score on unseen questions by seed."""
    used = [name for name in SCORES if any(name in o["scores"]["unseen"] for o in result["runs"])]
    header = ("run", "parameters", "steps", "pairs", "asked, unseen", "exact, seen")
    header += tuple(SCORES[name] for name in used)
    rows = []
    for name in known(result):
        outcomes = outcomes_of(result, name)

        def seeds(score, split="unseen", outcomes=outcomes):
            values = [o["scores"][split].get(score) for o in outcomes]
            return ", ".join("-" if v is None else format_score(score, v) for v in values)

        first = outcomes[0]
        rows.append([name, f"{first['parameters']:,}", f"{first['steps']:,}"])
        pairs = [(first["training_pairs"], "seen"), (first["scores"]["unseen"]["pairs"], "unseen")]
        for count, split in pairs:
            long = first["left_out"][split]
            rows[-1].append(f"{count:,}" + (f" ({long:,} too long)" if long else ""))
        rows[-1] += [seeds("exact", "seen"), *map(seeds, used)]
    return header, rows


def by_blanks(result: Result) -> Table:
    """A row a run and number of blanks: exact, right cells and rounds, of all seeds' puzzles."""
    rows = []
    for name in known(result):
        outcomes = [o["by_difficulty"] for o in outcomes_of(result, name)]
        found: dict[str, list[Result]] = {}
        for key, group in (item for groups in outcomes for item in groups.items()):
            if "open_cells" in group:
                found.setdefault(key, []).append(group)
        for key, groups in sorted(found.items(), key=lambda item: item[1][0]["difficulty"]):
            puzzles = [group["pairs"] for group in groups]

            def mean(field, groups=groups, puzzles=puzzles):
                return statistics.fmean([group[field] for group in groups], puzzles)

            rows.append([name, key, f"{sum(puzzles):,}"])
            rows[-1] += [f"{100 * mean('exact'):.1f} %", f"{100 * mean('open_cells'):.1f} %"]
            rows[-1] += [f"{mean('rounds'):.1f}"]
    return ("run", "blanks", "puzzles", "exact", "right of the blanks", "rounds"), rows


def made_of(result: Result) -> dict[str, str]:
    """By what it was made."""
    last = result["runs"][-1]
    times = {
        name: statistics.median(o["seconds"] for o in outcomes_of(result, name))
        for name in known(result)
    }
    found = {
        "command": result["command"],
        "split": last["split"],
        "device": last["device"],
        "versions": ", ".join(f"{k} {v}" for k, v in last["versions"].items()),
        "seconds of a run's training steps, median": ", ".join(
            f"{name} {seconds:,.0f}" for name, seconds in times.items()
        ),
    }
    if result["memory"]:
        found["memory"] = "arguments and temporaries of the compiled step, on this device"
    return found


def _tables(result: Result) -> list[tuple[str, str, Table]]:
    """Heading, words before it, and the table, of each that has rows."""
    tables = []
    if result["claims"]:
        words = f"{claims.lead(result['claims'], result['seeds'])} {claims.NOT_MEASURED}"
        table = claims.HEADER, claims.cells(result["claims"])
        tables.append(("Claimed and measured", words, table))
    words = "On unseen questions but for the first score; seeds side by side."
    tables.append(("Scores", words, scores(result)))
    if (blanks := by_blanks(result))[1]:
        tables.append(("By blanks", "Unseen puzzles, those of all seeds together.", blanks))
    return tables


def show(result: Result) -> None:
    """The tables on the terminal."""
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console()
    for title, _, (header, rows) in _tables(result):
        grid = Grid(title=title, title_justify="left")
        for name in header:
            grid.add_column(name)
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
    if result["claims"]:
        console.print(claims.lead(result["claims"], result["seeds"]))


def write(result: Result, workdir: Path) -> list[str]:
    """compare.md and compare.html; returns their paths."""
    made = made_of(result)
    lines = []
    parts = [page.heading("Runs side by side", f"seeds {', '.join(map(str, result['seeds']))}")]
    for title, words, (header, rows) in _tables(result):
        lines += [f"## {title}", "", words, ""]
        table = (header, ["---"] * len(header), *rows)
        lines += ["| " + " | ".join(row) + " |" for row in table] + [""]
        parts += [page.section(title), page.paragraph(words), page.table(header, rows)]
    lines += [f"* {name}: {value}" for name, value in made.items()]
    parts += _pictures(result)
    parts += [page.section("How it was made"), page.facts(made, ("command",))]
    text, html = workdir / "compare.md", workdir / "compare.html"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    html.write_text(page.page("Runs side by side", parts), encoding="utf-8")
    return [str(text), str(html)]


def _pictures(result: Result) -> list[str]:
    """Against blanks, where there are puzzles: those solved, or if none is, blanks filled right."""
    groups = {
        name: [
            group
            for group in outcomes_of(result, name)[0]["by_difficulty"].values()
            if "open_cells" in group
        ]
        for name in known(result)
    }
    solved = any(group["exact"] for found in groups.values() for group in found)
    field, label = ("exact", "% exact") if solved else ("open_cells", "% of the blanks right")
    lines = {
        name: ([g["difficulty"] for g in found], [100 * g[field] for g in found])
        for name, found in groups.items()
        if len(found) > 1
    }
    if not lines:
        return []
    figure = figures.curves(lines, ylabel=label, xlabel="blanks")
    what = "Unseen puzzles solved" if solved else "Blanks of unseen puzzles filled right"
    caption = f"{what}, by the number of blanks; seed {result['seeds'][0]}."
    return [page.picture(figures.svg(figure, "blanks"), caption)]
