"""Scores of runs that answer questions, and of puzzles by the number of their blanks."""

import statistics
from collections.abc import Mapping
from typing import Any

from eval.report import figures
from eval.report.answers_page import format_score
from eval.report.document import Block, Heading, Picture, Table, Text
from eval.sweep.results import of_entry

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


def section(result: Result) -> list[Block]:
    """Return the part of the page; empty if no run has been asked questions."""
    found = evaluations(result)
    if not found:
        return []
    split = next(iter(found.values()))[0]["split"]
    words = f"On unseen questions but for the column “seen”; by seed. Pairs are split {split}."
    blocks = [Heading("Scores"), Text(words), score_table(found)]
    if (blanks := blanks_table(found)).rows:
        blocks += [Text("Unseen puzzles by blanks, those of all seeds together."), blanks]
    return blocks + _picture(found)


def evaluations(result: Result) -> dict[str, list[Result]]:
    """Return entry -> `results.evaluation` of its runs, by seed; entries without any left out."""
    found = {
        name: [run["evaluation"] for run in of_entry(result, name) if run.get("evaluation")]
        for name in result["entries"]
    }
    return {name: outcomes for name, outcomes in found.items() if outcomes}


def score_table(found: Mapping[str, list[Result]]) -> Table:
    """Return a row an entry: parameters, steps, and each score on unseen questions by seed."""
    unseen = [outcome["scores"]["unseen"] for outcomes in found.values() for outcome in outcomes]
    used = [name for name in SCORES if any(name in scores for scores in unseen)]
    header = ("", "parameters", "steps", "pairs", "asked, unseen", "exact, seen")
    header += tuple(SCORES[name] for name in used)
    rows = []
    for name, outcomes in found.items():

        def seeds(score, split="unseen", outcomes=outcomes):
            values = [o["scores"][split].get(score) for o in outcomes]
            return ", ".join("-" if v is None else format_score(score, v) for v in values)

        first = outcomes[0]
        row = [name, f"{first['parameters']:,}", f"{first['steps']:,}"]
        pairs = [(first["training_pairs"], "seen"), (first["scores"]["unseen"]["pairs"], "unseen")]
        for count, split in pairs:
            long = first["left_out"][split]
            row.append(f"{count:,}" + (f" ({long:,} too long)" if long else ""))
        rows.append([*row, seeds("exact", "seen"), *map(seeds, used)])
    return Table(header, rows)


def blanks_table(found: Mapping[str, list[Result]]) -> Table:
    """Return a row an entry and number of blanks: exact, right cells and rounds, over all seeds."""
    rows = []
    for name, outcomes in found.items():
        by_key: dict[str, list[Result]] = {}
        for key, group in (item for o in outcomes for item in o["by_difficulty"].items()):
            if "open_cells" in group:
                by_key.setdefault(key, []).append(group)
        for key, groups in sorted(by_key.items(), key=lambda item: item[1][0]["difficulty"]):
            puzzles = [group["pairs"] for group in groups]

            def mean(field, groups=groups, puzzles=puzzles):
                return statistics.fmean([group[field] for group in groups], puzzles)

            row = [name, key, f"{sum(puzzles):,}", f"{100 * mean('exact'):.1f} %"]
            rows.append([*row, f"{100 * mean('open_cells'):.1f} %", f"{mean('rounds'):.1f}"])
    header = ("", "blanks", "puzzles", "exact", "right of the blanks", "rounds")
    return Table(header, rows, left=(0, 1))


def _picture(found: Mapping[str, list[Result]]) -> list[Block]:
    """Draw the puzzles solved against their blanks, or if none is, the blanks filled right."""
    groups = {
        name: [g for g in outcomes[0]["by_difficulty"].values() if "open_cells" in g]
        for name, outcomes in found.items()
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
    subject = "Unseen puzzles solved" if solved else "Blanks of unseen puzzles filled right"
    caption = f"{subject}, by the number of blanks; first seed."
    return [Picture(figures.svg(figure, "blanks"), caption)]
