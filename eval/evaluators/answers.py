"""Evaluator of runs on questions: scores on seen and unseen ones, ACT steps, speed."""

from __future__ import annotations

import argparse
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.evaluators.evaluation import Evaluation
from eval.evaluators.infer import Answerer, Answers
from eval.evaluators.scores import bleu_note, bleu_of, grid_scores, text_scores
from eval.log import device_description, versions
from eval.report.answers_page import headline, score_table
from eval.report.document import Block, Heading, Text
from eval.report.run_page import write_report
from eval.run import load_trained
from jaxmodels import count_parameters
from jaxmodels.cli import progress_counter, write_json
from jaxmodels.data.pairs.rows import Pair, evenly_spaced, that_fit
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.grid import NO_CELL
from jaxmodels.errors import UserError
from train.io.checkpoint import TrainedModel
from train.tasks.answers import pairs_of, read_other
from train.tasks.fields import ANSWER_FORMATS

NUM_EXAMPLES = 12
CONFIDENCE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.99)  # at which a model may stop thinking


def run(options: argparse.Namespace, command: str) -> Evaluation:
    """Evaluate a run on questions, for `answers.json` (with --data `answers_other.json`).

    Raises:
      UserError: a bad option, no such run, or missing pairs.
    """
    if options.max_bytes or options.whole_documents:
        raise UserError("--max-bytes and --whole-documents are options for runs on text")
    if options.columns and not options.data:
        raise UserError("--columns: names fields of other questions; add --data")
    if options.max_pairs < 0:
        raise UserError(f"--max-pairs={options.max_pairs}: give 1 or more, or 0 for all")
    if options.bleu_tokenizer != "13a":
        bleu_of(options.bleu_tokenizer)  # fail before the work, not after it
    result = _measure(options, command)

    def store() -> list[str]:
        name = "answers_other.json" if options.data else "answers.json"
        path = Path(options.workdir) / name
        write_json(path, result)
        return [str(path), *([] if options.data else [str(write_report(options.workdir))])]

    return Evaluation(result, store)


def _measure(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Score the pairs of `_parts`; the last part gives groups, examples and speed as well."""
    start = time.perf_counter()
    trained, tokenizer = load_trained(options.workdir, options.checkpoint, options.base)
    config, model = trained.config, trained.model
    if config.data.format not in ANSWER_FORMATS:
        raise UserError(f"--workdir={options.workdir}: a run on text; use python -m eval")
    parts, facts = _parts(options, trained, tokenizer)
    sizes = {"batch_size": options.batch_size, "max_steps": options.max_steps}
    answerer = Answerer(model, tokenizer, **sizes)
    sizes_of_rows = model.config.mode, model.config.seq_len, model.config.limits
    splits, left_out, timed, grid = {}, {}, [], model.config.mode == "grid"
    for name, pairs in parts.items():
        fits = that_fit(pairs, tokenizer, *sizes_of_rows)
        left_out[name] = len(pairs) - len(fits)
        sample = evenly_spaced(fits, options.max_pairs or None)
        questions, ids = [p.question for p in sample], [p.identifier for p in sample]
        answers = answerer.ask(questions, progress_counter(name, "questions"), ids)
        if grid:
            answers = _mask_missing_cells(answers, sample)
        texts = answerer.select(answers)
        splits[name] = _split(sample, answers, texts, options.bleu_tokenizer, grid=grid)
        timed = timed or questions[: options.batch_size]
    triples = list(zip(sample, texts, answers.rounds, strict=True))
    examples = [
        {"question": p.question, "expected": p.answer, "answer": a, "rounds": int(r)}
        for p, a, r in evenly_spaced(triples, NUM_EXAMPLES)
    ]
    if not grid:
        facts["notes"] += bleu_note([p.answer for p in sample], options.bleu_tokenizer)
    if not options.data:
        facts["training_pairs"] -= left_out["seen"]
    return {
        "command": command,
        "model": config.model,
        "mode": model.config.mode,
        "parameters": count_parameters(model),
        "step": trained.step,
        "steps": config.steps,
        "averaged": trained.averaged,
        "seed": config.seed,
        **facts,
        "left_out": left_out,  # pairs too long for a row
        "rounds": answerer.rounds,
        "halt": answerer.halt,
        "checkpoint": options.checkpoint,
        "max_pairs": options.max_pairs or None,
        "bleu_tokenizer": None if grid else options.bleu_tokenizer,
        "splits": splits,
        **_groups(sample, answers, texts, grid=grid),
        "examples": examples,
        "speed": speed(answerer, timed),
        "device": device_description(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 3),
    }


def _parts(options: argparse.Namespace, trained: TrainedModel, tokenizer: Tokenizer):
    """Return (name -> pairs, facts about them for the result).

    They are "seen" and "unseen", the training split and the test or else the validation split, or
    with --data "other".
    """
    config = trained.config
    if options.data:
        pairs, notes = read_other(config, options.data, tokenizer, options.columns or ())
        facts = {"pairs": ", ".join(options.data), "split": None, "unseen_is": None}
        return {"other": pairs}, facts | {"training_pairs": None, "notes": list(notes)}
    corpus = pairs_of(config)
    if corpus.fingerprint() != trained.data:
        raise UserError(
            f"config.data: not the pairs that {options.workdir} was trained on; name those to "
            "evaluate on with --data"
        )
    held = "test" if corpus.test else "valid"
    facts = {"pairs": corpus.name, "split": corpus.split, "unseen_is": held}
    facts |= {"training_pairs": len(corpus.train), "notes": list(corpus.notes)}
    return {"seen": corpus.train, "unseen": getattr(corpus, held)}, facts


def _mask_missing_cells(answers: Answers, pairs: Sequence[Pair]) -> Answers:
    """Replace predictions at positions outside the expected grid, so that they do not count."""

    def mask(text, pair):
        cells = zip(text, pair.answer, strict=True)
        return "".join(NO_CELL if truth == NO_CELL else symbol for symbol, truth in cells)

    by_round = [list(map(mask, texts, pairs)) for texts in answers.by_round]
    return Answers(by_round, answers.rounds, answers.sure)


def _split(
    pairs: Sequence[Pair],
    answers: Answers,
    selected: Sequence[str],
    bleu_tokenizer: str = "13a",
    *,
    grid: bool,
) -> dict[str, Any]:
    """Return scores of the selected answers, and exact matches after every ACT step."""
    expected = [pair.answer for pair in pairs]

    def exact(texts):
        return float(np.mean([a == e for a, e in zip(texts, expected, strict=True)]))

    if grid:
        scores = grid_scores(selected, expected, [pair.question for pair in pairs])
    else:
        scores = text_scores(selected, expected, bleu_tokenizer)
    if len(answers.by_round) > 1 and answers.sure is not None:
        asked = {p: answers.rounds_of(p) for p in CONFIDENCE}
        scores["by_confidence"] = {
            f"{p:g}": {"exact": exact(answers.after(rounds)), "rounds": float(rounds.mean())}
            for p, rounds in asked.items()
        }
    return scores | {
        "pairs": len(pairs),
        "exact_by_round": [exact(texts) for texts in answers.by_round],
        "exact_last": exact(answers.last),
        "exact_adaptive": exact(answers.adaptive),
        "rounds_adaptive": float(answers.rounds.mean()),
    }


def _groups(
    pairs: Sequence[Pair], answers: Answers, selected: Sequence[str], *, grid: bool
) -> dict[str, Any]:
    """Return exact matches, mean ACT steps and grid scores by task and by difficulty."""
    right = np.array([a == p.answer for a, p in zip(selected, pairs, strict=True)])
    difficulties = list(map(difficulty, pairs))
    label = _bins(len(pairs[0].question)) if grid else _quantiles(difficulties)
    labels = {
        "by_task": [pair.task or "-" for pair in pairs],
        "by_difficulty": list(map(label, difficulties)),
    }

    def summarize(members):
        scores = {
            "pairs": len(members),
            "exact": float(right[members].mean()),
            "rounds": float(answers.rounds[members].mean()),
            "difficulty": float(np.mean([difficulties[i] for i in members])),
        }
        if grid:
            texts = [(selected[i], pairs[i].answer, pairs[i].question) for i in members]
            scores |= grid_scores(*zip(*texts, strict=True))
        return scores

    groups = {}
    for name, keys in labels.items():
        ascending = sorted(dict.fromkeys(keys), key=lambda key: difficulties[keys.index(key)])
        groups[name] = {
            key: summarize([i for i, other in enumerate(keys) if other == key]) for key in ascending
        }
    return groups | {"rounds_against_difficulty": _correlation(difficulties, answers.rounds)}


def _bins(cells: int) -> Callable[[float], str]:
    """Return a function from the difficulty of a grid to its bin, independent of the sample."""
    width = max(cells // 20, 1)

    def label(number):
        low = int(number // width * width)
        return str(low) if width == 1 else f"{low} to {low + width - 1}"

    return label


def _quantiles(numbers: Sequence[float]) -> Callable[[float], str]:
    """Return a function from a difficulty to its quantile bin, one of six."""
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, 7)))

    def label(number):
        index = max(int(np.searchsorted(edges, number, side="left")), 1)
        return f"{edges[index - 1]:g} to {edges[min(index, len(edges) - 1)]:g}"

    return label


def difficulty(pair: Pair) -> float:
    """Return the number of blanks of a puzzle, or else the length of the answer."""
    blanks = pair.combination[0] if len(pair.combination) == 1 else ""
    return float(blanks) if blanks.isdecimal() else float(len(pair.answer))


def _correlation(difficulties, rounds) -> float | None:
    """Return Spearman's rank correlation of difficulty and ACT steps; None if one is constant."""
    from scipy.stats import spearmanr

    if len(set(difficulties)) < 2 or len(set(rounds.tolist())) < 2:
        return None
    return float(spearmanr(difficulties, rounds).statistic)


def speed(answerer: Answerer, questions: Sequence[str], repeats: int = 7) -> dict[str, float]:
    """Measure latency (ms) and batched questions per second, without compilation (L-75)."""
    sizes = {"batch_size": 1, "max_steps": answerer.rounds}
    single = Answerer(answerer.model, answerer.tokenizer, halt=answerer.halt, **sizes)

    def seconds(answerer, texts):
        answerer.answer(texts)
        return statistics.median(
            timeit.repeat(lambda: answerer.answer(texts), repeat=repeats, number=1)
        )

    batch = list(questions)
    return {
        "latency_ms": 1000.0 * seconds(single, batch[:1]),
        "questions_per_second": len(batch) / seconds(answerer, batch),
        "batch_size": answerer.batch_size,
        "repeats": repeats,
    }


def summary(result: dict[str, Any]) -> list[Block]:
    """Format the result of `run` as a table of scores, a headline and the speed."""
    title = f"{result['model']}, step {result['step']}, {result['parameters']:,} parameters"
    speed = result["speed"]
    end = (
        f"one question {speed['latency_ms']:.1f} ms, {speed['questions_per_second']:,.0f} "
        f"questions per second (batch size {speed['batch_size']}); {result['seconds']:.1f} s on "
        f"{result['device']}"
    )
    notes = (Text(note, "missing") for note in (*result["notes"], end))
    return [Heading(title), score_table(result), Text(headline(result)), *notes]
