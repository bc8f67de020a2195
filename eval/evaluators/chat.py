"""Evaluator of runs on conversations: bits per byte of responses, and what the model's heads say.

    bits per byte    of the response and its end, each of which is one byte
    intent           accuracy, against that of the most frequent class, and the confusion matrix
    answerable       area under the ROC curve, and expected calibration error
    stop             does the response end in this chunk: area under the ROC curve,
                     calibration error, precision, recall and F1 above 0.5, and the best F1
    arithmetic       responses exactly right, of questions of the corpus of that name
    panel            replies to prompts of the last split, and distinct-1 and -2 of them; bytes only

The heads are those of RNK; other models have the first only. Labels are those of the data, most of
them by rule (`jaxmodels/data/chat/labels.py`).
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eval.chat.conversation import Options, check_model
from eval.chat.panel import distinct, panel
from eval.evaluators.arithmetic import arithmetic_scores
from eval.evaluators.evaluation import Evaluation
from eval.evaluators.plans import describe_plans
from eval.log import device_description, versions
from eval.report.chat_page import (
    arithmetic_table,
    confusion_table,
    headline,
    panel_table,
    score_table,
)
from eval.report.document import Block, Heading, Text
from eval.report.run_page import write_report
from eval.run import load_trained
from jaxmodels import count_parameters
from jaxmodels.cli import progress_counter, write_json
from jaxmodels.data.chat.exchange import ChatRows, Exchange
from jaxmodels.data.pairs.rows import evenly_spaced, row_eval_stream
from jaxmodels.errors import UserError
from jaxmodels.models.rnk.terms import stop_targets
from jaxmodels.ops import losses
from train.tasks.chat import chat_of, rows_of
from train.tasks.fields import CHAT_FORMAT

LONGEST = 256  # bytes of a reply
BINS = 10  # of the expected calibration error


def run(options: argparse.Namespace, command: str) -> Evaluation:
    """Evaluate a run on conversations, to be stored in `chat.json`.

    Raises:
      UserError: a bad option, no such run, or other conversations than those of training.
    """
    names = ("data", "columns", "max_bytes", "whole_documents", "max_steps")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]:
        raise UserError(f"{given[0]} is no option for runs on conversations")
    if min(options.max_pairs, options.replies) < 0 or options.batch_size < 1:
        raise UserError(
            "--max-pairs and --replies must be 0 or more, --batch-size 1 or more, got "
            f"{options.max_pairs}, {options.replies} and {options.batch_size}"
        )
    start = time.perf_counter()
    trained, tokenizer = load_trained(options.workdir, options.checkpoint, options.base)
    config, model = trained.config, trained.model
    if config.data.format != CHAT_FORMAT:
        raise UserError(f"--workdir={options.workdir}: not a run on conversations")
    corpus = chat_of(config)
    if corpus.fingerprint() != trained.data:
        raise UserError(f"config.data: not the conversations that {options.workdir} learned from")
    splits, left_out, shown, plans, notes = {}, {}, [], None, list(corpus.notes)
    for split in options.split:
        if not (exchanges := getattr(corpus, split)):
            notes.append(f"{split} is left out: it has no exchanges")
            continue
        rows = rows_of(config, exchanges, corpus.tokenizer)
        left_out[split] = len(exchanges) - len(rows.kept)
        shown = [exchanges[i] for i in evenly_spaced(rows.kept, options.replies)]
        chosen = evenly_spaced(range(len(rows.kept)), options.max_pairs or None)
        rows = ChatRows(*(column[np.array(chosen)] for column in rows))
        progress = progress_counter(split, "exchanges")
        splits[split] = evaluate(model, rows, options.batch_size, progress, exchanges)
        if tokenizer.name == "byte":  # it counts bits per byte by tokens
            plans = describe_plans(model, rows, options.batch_size)  # of the last split
    if not splits:
        raise UserError(f"nothing to evaluate: {'; '.join(notes)}")
    read_tokens = trained.step * config.batch_size * config.seq_len
    note, replies = "not asked for: --replies=0", []
    try:
        check_model(model, options.workdir, tokenizer)
        if options.replies:
            replies = panel(model, shown, Options(seed=config.seed, tokens=LONGEST))
    except UserError as error:  # e.g. an ablation that cannot stream
        note = str(error)
    result = {
        "command": command,
        "model": config.model,
        "parameters": count_parameters(model),
        "step": trained.step,
        "steps": config.steps,
        "averaged": trained.averaged,
        "seed": config.seed,
        "tokenizer": tokenizer.name,
        "corpus": corpus.name,
        "split": corpus.split,
        "training_exchanges": len(corpus.train),
        "left_out": left_out,
        "notes": notes,
        "max_pairs": options.max_pairs or None,
        "splits": splits,
        "plans": plans,
        "trained_bytes": None if tokenizer.name != "byte" else read_tokens,
        "panel": replies,
        "panel_note": "" if replies else note,
        "distinct": {str(n): distinct([row["reply"] for row in replies], n) for n in (1, 2)},
        "device": device_description(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 3),
    }

    def store() -> list[str]:
        path = Path(options.workdir) / "chat.json"
        write_json(path, result)
        return [str(path), str(write_report(options.workdir))]

    return Evaluation(result, store)


def evaluate(
    model,
    rows: ChatRows,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    exchanges: Sequence[Exchange] = (),
) -> dict[str, Any]:
    """Return the scores of a model on rows, each read from the initial state.

    Args:
      model: a left-to-right model.
      rows: the rows; the model's class names give those of their intents, if it has any.
      batch_size: rows read at once.
      progress: called with (rows read, all rows) after every batch.
      exchanges: of the split, of which `rows.kept` are indices; their arithmetic is scored.
    """
    total, read = len(rows.kept), []
    for batch in row_eval_stream(rows, batch_size=min(batch_size, total), prefetch=0):
        read.append(jax.device_get(_read(model, batch)))
        if progress is not None:
            progress(min(len(read) * batch_size, total), total)
    found = {name: np.concatenate([part[name] for part in read])[:total] for name in read[0]}
    targets, size = float(rows.weights.sum()), int(rows.sizes[:, 1].sum())
    scores: dict[str, Any] = {
        "exchanges": total,
        "targets": int(targets),
        "bits_per_byte": float(found["nats"].sum(dtype=np.float64)) / math.log(2) / size,
        "accuracy": float(found["correct"].sum()) / targets,
    }
    if "intent" in found:
        scores["intent"] = intent_scores(found["intent"], rows.intent, model.config.intents)
    if "answerable" in found:
        scores["answerable"] = chance_scores(found["answerable"], rows.answerable)
    if "stops" in found:
        asked = ~np.isnan(found["stops"])
        scores["stop"] = stop_scores(found["stops"][asked], found["last"][asked])
    if exchanges:
        laid_out = [exchanges[i] for i in rows.kept]
        scores["arithmetic"] = arithmetic_scores(laid_out, found["exact"])
    return {name: value for name, value in scores.items() if value is not None}


@jax.jit
def _read(model, batch):
    """Return sums of each row (B,), and what the heads say of it."""
    state = model.initial_state(len(batch["inputs"]))
    _, out = model(state, batch["inputs"], batch["reset"])
    weights, targets = batch["weights"], batch["targets"]
    right = out.logits.argmax(-1) == targets
    found = {
        "nats": (weights * losses.token_nll(out.logits, targets)).sum(1),
        "correct": (weights * right).sum(1),
        # Each token is the most likely one after the right ones before it: so greedy decoding
        # writes this response. Other tokens with the same text do not count.
        "exact": (right | (weights == 0)).all(1),
    }
    heads = getattr(out, "label_logits", {})
    if "intent" in heads:
        found["intent"] = heads["intent"].argmax(-1)
    if "answerable" in heads:
        found["answerable"] = jax.nn.softmax(heads["answerable"], -1)[:, 1]
    if hasattr(out, "stop"):
        asked = (weights > 0) & out.ends.closes  # the next byte starts a chunk
        found["stops"] = jax.numpy.where(asked, jax.nn.sigmoid(out.stop), jax.numpy.nan)
        found["last"] = stop_targets(model.config, out.ends, batch) > 0
    return found


def intent_scores(
    predicted: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> dict[str, Any] | None:
    """Return accuracy, that of the most frequent class, and the confusion matrix.

    Args:
      predicted, labels: int (n,); rows with label -1 do not count.
      names: names of the classes.

    Returns:
      labelled, accuracy, majority, and confusion: label -> prediction -> number, for the labels
      that occur; None without labels.
    """
    known = labels >= 0
    if not known.any():
        return None
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels[known], predicted[known]), 1)
    return {
        "labelled": int(known.sum()),
        "accuracy": float(np.trace(counts) / counts.sum()),
        "majority": float(counts.sum(1).max() / counts.sum()),
        "confusion": {
            name: dict(zip(names, row.tolist(), strict=True))
            for name, row in zip(names, counts, strict=True)
            if row.any()
        },
    }


def chance_scores(chances: np.ndarray, labels: np.ndarray) -> dict[str, Any] | None:
    """Return how well chances (n,) tell labels 0 and 1 (n,) apart; label -1 does not count.

    Returns:
      labelled; share of label 1; auroc, None without both labels; ece, the expected calibration
      error over `BINS` equal bins; None without labels.
    """
    from scipy.stats import rankdata

    known = labels >= 0
    if not known.any():
        return None
    chances, true = chances[known].astype(np.float64), labels[known] == 1
    positive, negative = int(true.sum()), int((~true).sum())
    auroc = None
    if positive and negative:
        ranks = rankdata(chances)[true].sum()
        auroc = float((ranks - positive * (positive + 1) / 2) / (positive * negative))
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, chances - true, BINS)
    return {
        "labelled": len(true),
        "share": float(true.mean()),
        "auroc": auroc,
        "ece": float(np.abs(gaps).sum() / len(true)),
    }


def stop_scores(chances: np.ndarray, last: np.ndarray) -> dict[str, Any] | None:
    """Return how well chances (n,) tell the last chunks of responses, bool (n,), from the others.

    Returns:
      chunks; precision, recall and f1 of chances above 0.5; best_f1, above the best `threshold`;
      always_f1, of stopping at every chunk, which best_f1 cannot fall below; auroc, share and ece
      as in `chance_scores`; None without chunks.
    """
    ranking = chance_scores(chances, last.astype(int))
    if ranking is None:
        return None
    order = np.argsort(-chances, kind="stable")
    said, hits = np.arange(1, len(order) + 1), np.cumsum(last[order])
    f1 = 2 * hits / (said + max(hits[-1], 1))
    f1[:-1][np.diff(chances[order]) == 0] = 0  # equal chances fall on the same side
    best, above = int(f1.argmax()), chances > 0.5
    right = int((above & last).sum())
    return {
        "chunks": len(last),
        "precision": right / max(int(above.sum()), 1),
        "recall": right / max(int(last.sum()), 1),
        "f1": 2 * right / max(int(above.sum() + last.sum()), 1),
        "best_f1": float(f1[best]),
        "threshold": float(chances[order][best]),
        "always_f1": float(f1[-1]),
        **{name: ranking[name] for name in ("share", "auroc", "ece")},
    }


def summary(result: dict[str, Any]) -> list[Block]:
    """Format the result of `run` as tables."""
    title = f"{result['model']}, step {result['step']}, {result['parameters']:,} parameters"
    notes = [*result["notes"], f"{result['seconds']:.1f} s on {result['device']}"]
    blocks = [Heading(title), Text(headline(result)), score_table(result)]
    blocks += [*arithmetic_table(result), *confusion_table(result), *panel_table(result)]
    return [*blocks, *(Text(note, "missing") for note in notes)]
