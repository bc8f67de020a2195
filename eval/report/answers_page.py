"""The report page of a run on questions."""

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

NAMES = {
    "exact": "exact match",
    "exact_last": "exact match after all ACT steps",
    "exact_adaptive": "exact match with adaptive halting",
    "rounds_adaptive": "ACT steps with adaptive halting",
    "bleu": "BLEU, mean of sentences, smoothed",
    "corpus_bleu": "corpus BLEU",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "distinct": "distinct pairs of words in the answers",
    "expected_distinct": "distinct pairs of words expected",
    "length": "length of answers, characters",
    "expected_length": "expected length, characters",
    "cells": "cell accuracy",
    "open_cells": "cell accuracy on open cells",
    "pairs": "questions",
}


def compose(log: Log, result: Mapping[str, Any] | None) -> str:
    """Return the page as HTML; without a result, with the training curves only."""
    if result is None:
        blocks = [not_evaluated(log.workdir), *_notes(log)]
        blocks += _curves(log)
    else:
        blocks = [Text(headline(result), "lead"), Tiles(_tiles(result)), *_notes(log)]
        blocks.append(Heading("Scores"))
        blocks += [score_table(result), *_act_steps(result), *_groups(result)]
        blocks += [*_examples(result), *_curves(log)]
        facts = {
            "checkpoint": f"step {result['step']}",
            "parameters": f"{result['parameters']:,}",
            "training pairs": f"{result['training_pairs']:,}, split {result['split']}",
        }
        if tokenizer := result.get("bleu_tokenizer"):
            facts["BLEU's tokenizer"] = tokenizer
        blocks += provenance(facts, **result)
    return to_html(log.title, blocks, log.settings("pairs"))


def _notes(log: Log) -> list[Block]:
    return [Text(note, "missing") for note in log.notes]


def headline(result: Mapping[str, Any]) -> str:
    """Summarize the result in two sentences."""
    (name, unseen), *_ = reversed(result["splits"].items())  # "unseen", or "other" alone
    text = (
        f"After {result['step']} steps the model answers {100 * unseen['exact']:.1f} % of "
        f"{unseen['pairs']} {name} questions exactly"
    )
    if seen := result["splits"].get("seen"):
        text += f", and {100 * seen['exact']:.1f} % of {seen['pairs']} training questions"
    text += "."
    if result["rounds"] > 1:
        text += (
            f" On {name} questions: {100 * unseen['exact_last']:.1f} % after all "
            f"{result['rounds']} ACT steps, {100 * unseen['exact_adaptive']:.1f} % with adaptive "
            f"halting, after {unseen['rounds_adaptive']:.1f} steps on average."
        )
    if any(result["left_out"].values()):
        kinds = {"seen": "training"}
        skipped = (f"{n:,} {kinds.get(part, part)} pairs" for part, n in result["left_out"].items())
        text += f" Skipped as too long for a row: {', '.join(skipped)}."
    return text


def _tiles(result):
    unseen, speed = result["splits"]["unseen"], result["speed"]
    second, name = ("chrf", "chrF") if "chrf" in unseen else ("cells", "cell accuracy")
    return [
        (f"{100 * unseen['exact']:.1f} %", "exact, unseen"),
        (f"{100 * unseen[second]:.1f} %", f"{name}, unseen"),
        (f"{speed['latency_ms']:.0f} ms", "one question"),
        (f"{speed['questions_per_second']:.0f}/s", f"questions, batch size {speed['batch_size']}"),
    ]


def score_table(result: Mapping[str, Any]) -> Table:
    """Return every score, one column per split."""
    splits = result["splits"]
    rows = [
        [label, *(format_score(name, splits[split][name]) for split in splits)]
        for name, label in NAMES.items()
        if all(name in scores for scores in splits.values())
    ]
    return Table(["", *splits], rows, styles={0: "strong"})


def format_score(name: str, value: float) -> str:
    """Format a score with its unit."""
    if name == "pairs":
        return f"{value:,}"
    return f"{value:.1f}" if "length" in name or "rounds" in name else f"{100 * value:.1f} %"


def _act_steps(result) -> list[Block]:
    if result["rounds"] < 2:
        return []
    count = list(range(1, result["rounds"] + 1))
    lines = {
        split: (count, [100 * x for x in scores["exact_by_round"]])
        for split, scores in result["splits"].items()
    }
    figure = figures.curves(lines, ylabel="% exact", xlabel="ACT steps")
    caption = "Exact matches against the number of ACT steps."
    blocks = [Heading("ACT steps"), Picture(figures.svg(figure, "rounds"), caption)]
    if any("by_confidence" in scores for scores in result["splits"].values()):
        blocks.append(_by_confidence(result["splits"]))
    if (rank := result["rounds_against_difficulty"]) is not None:
        text = f"Rank correlation of ACT steps with the difficulty of the question: {rank:+.2f}."
        blocks.append(Text(text))
    return blocks


def _by_confidence(splits: Mapping[str, Any]) -> Table:
    """Return exact matches and mean ACT steps if a model stops where it is that sure."""
    rows = [
        [split, least, f"{100 * found['exact']:.1f} %", f"{found['rounds']:.1f}"]
        for split, scores in splits.items()
        for least, found in scores.get("by_confidence", {}).items()
    ]
    return Table(["", "stops where it is sure by", "exact", "ACT steps"], rows)


def _groups(result) -> list[Block]:
    blocks = []
    for field, title in (("by_task", "By task"), ("by_difficulty", "By difficulty")):
        rows = [
            [key, f"{g['pairs']:,}", f"{100 * g['exact']:.1f} %", f"{g['rounds']:.1f}"]
            for key, g in result[field].items()
        ]
        if len(rows) > 1:
            blocks += [Heading(title), Table(["", "questions", "exact", "ACT steps"], rows)]
    if blocks:
        note = "Difficulty: number of blanks of a puzzle, or else the length of the answer."
        blocks.append(Text(note))
    return blocks


def _examples(result) -> list[Block]:
    rows = [
        [e["question"], e["expected"], e["answer"], str(e["rounds"])] for e in result["examples"]
    ]
    header = ["question", "expected", "answer", "ACT steps"]
    return [Heading("Unseen questions"), Table(header, rows, left=(0, 1, 2))]


def _curves(log: Log) -> list[Block]:
    blocks = []
    for name, label in (("answer", "loss of the answer"), ("exact", "fraction exact")):
        lines = {
            split: log.series(split, name)
            for split in ("train", "valid")
            if name in log.names(split)
        }
        if lines:
            figure = figures.curves(lines, ylabel=label)
            caption = f"{label.capitalize()} during training."
            blocks.append(Picture(figures.svg(figure, name), caption))
    return [Heading("Training"), *blocks] if blocks else []
