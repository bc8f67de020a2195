"""`report.html` of a run that answers questions."""

from collections.abc import Mapping
from typing import Any

from eval.log import Log
from eval.report import figures
from eval.report.document import Block, Heading, Picture, Table, Text, Tiles, provenance, to_html

NAMES = {
    "exact": "exact match",
    "exact_last": "exact match, after all rounds",
    "exact_adaptive": "exact match, halting by itself",
    "rounds_adaptive": "rounds when halting by itself",
    "bleu": "BLEU, mean of sentences, smoothed",
    "corpus_bleu": "BLEU of the whole",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "length": "length of answers, characters",
    "expected_length": "length expected",
    "cells": "right cells",
    "open_cells": "right cells of those left open",
    "pairs": "questions",
}


def compose(log: Log, result: Mapping[str, Any] | None) -> str:
    """Return the page; without a result, the curves alone."""
    if result is None:
        command = f"python -m eval --workdir={log.workdir}"
        blocks = [Text(f"How well it answers is not measured yet: {command}", "missing")]
        blocks += _curves(log)
    else:
        blocks = [Text(headline(result), "lead"), Tiles(_tiles(result)), Heading("Scores")]
        blocks += [
            score_table(result),
            *_rounds(result),
            *_kinds(result),
            *_examples(result),
            *_curves(log),
        ]
        facts = {
            "checkpoint": f"step {result['step']}",
            "parameters": f"{result['parameters']:,}",
            "training pairs": f"{result['training_pairs']:,}, split {result['split']}",
        }
        blocks += provenance(facts, **result)
    title = f"{log.config.get('model', 'run')} · {log.workdir.resolve().name}"
    return to_html(title, blocks, _subtitle(log.config))


def _subtitle(config) -> str:
    data = config.get("data", {})
    what = ", ".join(map(str, data.get("tasks") or data.get("paths") or ())) or "pairs"
    return (
        f"{what}, {data.get('tokenizer')} tokens · batch {config.get('batch_size')} x "
        f"{config.get('seq_len')} · seed {config.get('seed')} · {config.get('dtype')}"
    )


def headline(result: Mapping[str, Any]) -> str:
    """Summarise the result in two sentences."""
    seen, unseen = result["splits"]["seen"], result["splits"]["unseen"]
    text = (
        f"After {result['step']} steps the model answers {100 * unseen['exact']:.1f} % of "
        f"{unseen['pairs']} unseen questions exactly, and {100 * seen['exact']:.1f} % of "
        f"{seen['pairs']} from its training."
    )
    if result["rounds"] > 1:
        text += (
            f" Of the unseen that is {100 * unseen['exact_last']:.1f} % after all "
            f"{result['rounds']} rounds of thinking, and {100 * unseen['exact_adaptive']:.1f} % "
            f"when it halts by itself, after {unseen['rounds_adaptive']:.1f}."
        )
    if any(result["left_out"].values()):
        seen, unseen = (f"{result['left_out'][split]:,}" for split in ("seen", "unseen"))
        text += f" Left out as too long for a row: {seen} training pairs, {unseen} unseen ones."
    return text


def _tiles(result):
    unseen, speed = result["splits"]["unseen"], result["speed"]
    second = ("chrf", "chrF, unseen") if "chrf" in unseen else ("cells", "right cells, unseen")
    return [
        (f"{100 * unseen['exact']:.1f} %", "exact, unseen"),
        (f"{100 * unseen[second[0]]:.1f} %", second[1]),
        (f"{speed['latency_ms']:.0f} ms", "one question"),
        (f"{speed['questions_per_second']:.0f}/s", f"questions, {speed['batch_size']} at a time"),
    ]


def score_table(result: Mapping[str, Any]) -> Table:
    """Return every score, with one column per split."""
    splits = result["splits"]
    rows = [
        [label, *(format_score(name, splits[split][name]) for split in splits)]
        for name, label in NAMES.items()
        if name in splits["unseen"]
    ]
    return Table(["", *splits], rows, styles={0: "strong"})


def format_score(name: str, value: float) -> str:
    """Return a score as text with its unit."""
    if name in ("pairs",):
        return f"{value:,}"
    return f"{value:.1f}" if "length" in name or "rounds" in name else f"{100 * value:.1f} %"


def _rounds(result) -> list[Block]:
    if result["rounds"] < 2:
        return []
    count = list(range(1, result["rounds"] + 1))
    lines = {
        split: (count, [100 * x for x in scores["exact_by_round"]])
        for split, scores in result["splits"].items()
    }
    figure = figures.curves(lines, ylabel="% exact", xlabel="rounds of thinking")
    caption = "Exact answers against how many rounds the model was allowed to think."
    blocks = [Heading("Thinking"), Picture(figures.svg(figure, "rounds"), caption)]
    rank = result["rounds_against_difficulty"]
    if rank is not None:
        blocks.append(
            Text(
                "Does it think longer on what is harder? Rank correlation of its rounds with the "
                f"difficulty of the question: {rank:+.2f}."
            )
        )
    return blocks


def _kinds(result) -> list[Block]:
    blocks = []
    for field, title in (("by_task", "By task"), ("by_difficulty", "By difficulty")):
        groups = result[field]
        if len(groups) < 2:
            continue
        rows = [
            [key, f"{g['pairs']:,}", f"{100 * g['exact']:.1f} %", f"{g['rounds']:.1f}"]
            for key, g in groups.items()
        ]
        blocks += [Heading(title), Table(["", "questions", "exact", "rounds"], rows)]
    if blocks:
        note = "Difficulty is a puzzle's number of blanks, else the length of the answer."
        blocks.append(Text(note))
    return blocks


def _examples(result) -> list[Block]:
    rows = [
        [e["question"], e["expected"], e["answer"], str(e["rounds"])] for e in result["examples"]
    ]
    header = ["question", "expected", "answer", "rounds"]
    return [Heading("Unseen questions"), Table(header, rows, left=(0, 1, 2))]


def _curves(log: Log) -> list[Block]:
    blocks = []
    for name, label in (("answer", "loss of the answer"), ("exact", "share exact")):
        lines = {
            split: log.series(split, name)
            for split in ("train", "valid")
            if name in log.names(split)
        }
        if lines:
            figure = figures.curves(lines, ylabel=label)
            blocks.append(Picture(figures.svg(figure, name), f"{label} along the run"))
    return [Heading("The run"), *blocks] if blocks else []
