"""Scores on questions: exact matches on seen and unseen ones, ACT steps, speed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.evaluators.infer import Answers, Asker
from eval.evaluators.scores import grid_scores, text_scores
from eval.log import device_description, versions
from eval.report.answers_page import headline, score_table
from eval.report.document import Block, Heading, Text
from eval.report.run_page import write_report
from eval.run import load_trained
from jaxmodels import count_parameters
from jaxmodels.cli import progress_counter, write_atomically
from jaxmodels.data.pairs.rows import Pair, evenly_spaced, that_fit
from jaxmodels.data.tokenizers.grid import NO_CELL
from jaxmodels.errors import UserError
from train import tasks

SHOWN = 12  # examples kept for the page
MOST = 1000  # pairs of a split


def measure(
    workdir: str | Path,
    *,
    checkpoint: str = "best",
    most: int | None = MOST,
    batch_size: int = 64,
    max_steps: int | None = None,
    command: str = "",
    progress: Callable[[str], Callable[[int, int], None] | None] = lambda split: None,
) -> dict[str, Any]:
    """All that is known of a run's answers, as `answers.json` holds it.

    Seen are training pairs, unseen those of the test split (of the validation split where there is
    no test split).

    Args:
      workdir, checkpoint: see `load_trained`.
      most: pairs of each split at most; None = all.
      batch_size, max_steps: see `Asker`.
      command: that made this, for the record.
      progress: split -> what is told (done, total).

    Raises:
      UserError: not such a run, or its pairs are gone.
    """
    start = time.perf_counter()
    trained, _ = load_trained(workdir, checkpoint)
    config, model = trained.config, trained.model
    if tasks.of(config).kind != "answers":
        raise UserError(f"--workdir={workdir}: a run on text; its numbers: python -m eval")
    corpus = tasks.of(config).load_corpus(config)
    if corpus.fingerprint() != trained.data:
        raise UserError(f"config.data: not the pairs that {workdir} was trained on")
    asker = Asker(model, corpus.tokenizer, batch_size=batch_size, max_steps=max_steps)
    held = "test" if corpus.test else "valid"
    splits, left_out, examples, fields = {}, {}, [], {}
    for name, pairs in (("seen", corpus.train), ("unseen", getattr(corpus, held))):
        fits = that_fit(pairs, corpus.tokenizer, model.config.mode, model.config.seq_len)
        left_out[name] = len(pairs) - len(fits)
        chosen = evenly_spaced(fits, most)
        which = [pair.identifier for pair in chosen]
        answers = asker.ask([pair.question for pair in chosen], progress(name), which)
        if model.config.mode == "grid":
            answers = _labelled(answers, chosen)
        given = asker.chosen(answers)
        splits[name] = _split(chosen, answers, given, grid=model.config.mode == "grid")
        if name == "seen":
            asked = [pair.question for pair in chosen[:batch_size]]
        else:
            fields = _by_kind(chosen, answers, given, grid=model.config.mode == "grid")
            examples = [
                {"question": p.question, "expected": p.answer, "answer": a, "rounds": int(r)}
                for p, a, r in evenly_spaced(
                    list(zip(chosen, given, answers.rounds, strict=True)), SHOWN
                )
            ]
    return {
        "command": command,
        "model": config.model,
        "mode": model.config.mode,
        "parameters": count_parameters(model),
        "step": trained.step,
        "steps": config.steps,
        "averaged": trained.averaged,
        "seed": config.seed,
        "pairs": corpus.name,
        "split": corpus.split,
        "unseen_is": held,
        "training_pairs": len(corpus.train) - left_out["seen"],
        "left_out": left_out,  # pairs too long for a row
        "rounds": asker.rounds,
        "halt": asker.halt,
        "checkpoint": checkpoint,
        "max_pairs": most,
        "splits": splits,
        **fields,
        "examples": examples,
        "speed": speed(asker, asked),
        "device": device_description(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 3),
    }


def _labelled(answers: Answers, pairs: Sequence[Pair]) -> Answers:
    """What a model says of places that are no cell counts neither for nor against it."""

    def one(text, expected):
        cells = zip(text, expected, strict=True)
        return "".join(NO_CELL if right == NO_CELL else said for said, right in cells)

    if not any(NO_CELL in pair.answer for pair in pairs):
        return answers
    by_round = [
        [one(text, pair.answer) for text, pair in zip(texts, pairs, strict=True)]
        for texts in answers.by_round
    ]
    return dataclasses.replace(answers, by_round=by_round)


def _split(
    pairs: Sequence[Pair], answers: Answers, given: Sequence[str], *, grid: bool
) -> dict[str, Any]:
    """Scores of the answers that are given, and what other rounds would have given."""
    expected = [pair.answer for pair in pairs]

    def exact(texts):
        return float(np.mean([a == e for a, e in zip(texts, expected, strict=True)]))

    if grid:
        scores = grid_scores(given, expected, [pair.question for pair in pairs])
    else:
        scores = text_scores(given, expected)
    return scores | {
        "pairs": len(pairs),
        "exact_by_round": [exact(texts) for texts in answers.by_round],
        "exact_last": exact(answers.last),
        "exact_adaptive": exact(answers.adaptive),
        "rounds_adaptive": float(answers.rounds.mean()),
    }


def _by_kind(
    pairs: Sequence[Pair], answers: Answers, given: Sequence[str], *, grid: bool
) -> dict[str, Any]:
    """Exact share and mean rounds by task, and by how hard a question is; of grids, right cells."""
    right = np.array([a == p.answer for a, p in zip(given, pairs, strict=True)])
    groups: dict[str, dict[str, list[int]]] = {
        "by_task": defaultdict(list),
        "by_difficulty": defaultdict(list),
    }
    numbers = [hardness(pair) for pair in pairs]
    label = _bins(len(pairs[0].question)) if grid else _quantiles(numbers)
    for i, (pair, number) in enumerate(zip(pairs, numbers, strict=True)):
        groups["by_task"][pair.task or "-"].append(i)
        groups["by_difficulty"][label(number)].append(i)

    def one(members):
        found = {
            "pairs": len(members),
            "exact": float(right[members].mean()),
            "rounds": float(answers.rounds[members].mean()),
            "difficulty": float(np.mean([numbers[i] for i in members])),
        }
        if grid:
            chosen = [pairs[i] for i in members]
            texts = [p.answer for p in chosen], [p.question for p in chosen]
            found |= grid_scores([given[i] for i in members], *texts)
        return found

    return {
        name: {
            key: one(members)
            for key, members in sorted(parts.items(), key=lambda item: numbers[item[1][0]])
        }
        for name, parts in groups.items()
    } | {"rounds_against_difficulty": _correlation(numbers, answers.rounds)}


def _bins(cells: int) -> Callable[[float], str]:
    """Difficulty of a grid -> its group, the same for every sample of puzzles."""
    width = max(cells // 20, 1)

    def label(number):
        low = int(number // width * width)
        return str(low) if width == 1 else f"{low} to {low + width - 1}"

    return label


def _quantiles(numbers: Sequence[float]) -> Callable[[float], str]:
    """Difficulty -> its group, six of about the same size."""
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, 7)))

    def label(number):
        place = max(int(np.searchsorted(edges, number, side="left")), 1)
        return f"{edges[place - 1]:g} to {edges[min(place, len(edges) - 1)]:g}"

    return label


def hardness(pair: Pair) -> float:
    """Of a puzzle, which has one number beside it, that: its blanks; else the answer's length."""
    alone = pair.combination[0] if len(pair.combination) == 1 else ""
    return float(alone) if alone.isdigit() else float(len(pair.answer))


def _correlation(difficulty, rounds) -> float | None:
    """Spearman's rank correlation: above 0 if it thinks longer on what is harder."""
    from scipy.stats import spearmanr

    if len(set(difficulty)) < 2 or len(set(rounds.tolist())) < 2:
        return None
    return float(spearmanr(difficulty, rounds).statistic)


def speed(asker: Asker, questions: Sequence[str], repeats: int = 7) -> dict[str, float]:
    """Latency of one question, and questions a second in batches; compilation left out (L-75)."""
    sizes = {"batch_size": 1, "max_steps": asker.rounds}
    one = Asker(asker.model, asker.tokenizer, halt=asker.halt, **sizes)

    def seconds(which, texts):
        which.answer(texts)
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            which.answer(texts)
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    many = list(questions)
    return {
        "latency_ms": 1000.0 * seconds(one, many[:1]),
        "questions_per_second": len(many) / seconds(asker, many),
        "batch_size": asker.batch_size,
        "repeats": repeats,
    }


def write(workdir: str | Path, result: dict[str, Any]) -> list[str]:
    """Write `answers.json` and `report.html` into a run's folder; return their paths."""
    path = Path(workdir) / "answers.json"
    write_atomically(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return [str(path), str(write_report(workdir))]


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Evaluate a run on questions; write `answers.json` and the report.

    Raises:
      UserError: a bad option, no such run, or its pairs are gone.
    """
    if options.data or options.max_bytes or options.whole_documents:
        raise UserError("--data, --max-bytes and --whole-documents are for runs on text")
    if options.max_pairs < 0:
        raise UserError(f"--max-pairs={options.max_pairs}: give 1 or more, or 0 for all")
    result = measure(
        options.workdir,
        checkpoint=options.checkpoint,
        most=options.max_pairs or None,
        batch_size=options.batch_size,
        max_steps=options.max_steps,
        command=command,
        progress=lambda split: progress_counter(split, "questions"),
    )
    return result | {"written": write(options.workdir, result)}


def summary(result: dict[str, Any]) -> list[Block]:
    """Return the result of `run` as a table of scores, a headline and the speed."""
    title = f"{result['model']}, step {result['step']}, {result['parameters']:,} parameters"
    speed = result["speed"]
    made = (
        f"one question {speed['latency_ms']:.1f} ms, {speed['questions_per_second']:,.0f} "
        f"questions per second ({speed['batch_size']} at a time); {result['seconds']:.1f} s on "
        f"{result['device']}; wrote {', '.join(result['written'])}"
    )
    return [Heading(title), score_table(result), Text(headline(result)), Text(made, "missing")]
