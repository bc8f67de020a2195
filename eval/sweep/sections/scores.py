"""Scores of runs on questions, and of puzzles by their number of blanks."""

import statistics
from collections.abc import Mapping
from typing import Any

from eval.report import figures
from eval.report.answers_page import format_score
from eval.report.document import Block, Heading, Picture, Table, Text
from eval.sweep.results import of_entry

SCORES = {
    "exact": "exact",
    "exact_last": "exact, all ACT steps",
    "exact_adaptive": "exact, adaptive",
    "rounds_adaptive": "ACT steps, adaptive",
    "bleu": "sentence BLEU",
    "corpus_bleu": "corpus BLEU",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "cells": "cell accuracy",
    "open_cells": "on blanks",
}
Result = Mapping[str, Any]


def section(result: Result) -> list[Block]:
    """Return the section; empty if no run was evaluated on questions."""
    by_entry = evaluations(result)
    if not by_entry:
        return []
    split = next(iter(by_entry.values()))[0]["split"]
    text = f"On unseen questions except in the column “seen”; by seed. Pairs are split {split}."
    blocks = [Heading("Scores"), Text(text), score_table(by_entry)]
    if (blanks := blanks_table(by_entry)).rows:
        blocks += [Text("Unseen puzzles by number of blanks, over all seeds."), blanks]
    return blocks + _picture(by_entry)


def evaluations(result: Result) -> dict[str, list[Result]]:
    """Return entry -> `results.evaluation` of its runs by seed, for entries that have any."""
    by_entry = {
        name: [run["evaluation"] for run in of_entry(result, name) if run.get("evaluation")]
        for name in result["entries"]
    }
    return {name: outcomes for name, outcomes in by_entry.items() if outcomes}


def score_table(by_entry: Mapping[str, list[Result]]) -> Table:
    """Return one row per entry: parameters, steps, and each score on unseen questions by seed."""
    unseen = [outcome["scores"]["unseen"] for outcomes in by_entry.values() for outcome in outcomes]
    used = [name for name in SCORES if any(name in scores for scores in unseen)]
    header = ("", "parameters", "steps", "pairs", "unseen questions", "exact, seen")
    header += tuple(SCORES[name] for name in used)
    rows = []
    for name, outcomes in by_entry.items():

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


def blanks_table(by_entry: Mapping[str, list[Result]]) -> Table:
    """Return one row per entry and number of blanks, with means over all seeds."""
    rows = []
    for name, outcomes in by_entry.items():
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
    header = ("", "blanks", "puzzles", "exact", "accuracy on blanks", "ACT steps")
    return Table(header, rows, left=(0, 1))


def _picture(by_entry: Mapping[str, list[Result]]) -> list[Block]:
    """Draw solved puzzles against the number of blanks; if none is solved, accuracy on blanks."""
    groups = {
        name: [g for g in outcomes[0]["by_difficulty"].values() if "open_cells" in g]
        for name, outcomes in by_entry.items()
    }
    solved = any(group["exact"] for bins in groups.values() for group in bins)
    field, label = ("exact", "% exact") if solved else ("open_cells", "% accuracy on blanks")
    lines = {
        name: ([g["difficulty"] for g in bins], [100 * g[field] for g in bins])
        for name, bins in groups.items()
        if len(bins) > 1
    }
    if not lines:
        return []
    figure = figures.curves(lines, ylabel=label, xlabel="blanks")
    subject = "Unseen puzzles solved" if solved else "Accuracy on the blanks of unseen puzzles"
    caption = f"{subject}, by number of blanks; first seed."
    return [Picture(figures.svg(figure, "blanks"), caption)]
