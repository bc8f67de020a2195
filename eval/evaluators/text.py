"""Evaluator of runs on text: every term of the loss, averaged over a split with carried state."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from eval.evaluators.evaluation import Evaluation
from eval.log import device_description, versions
from eval.markov import NAMES
from eval.report.document import Block, Heading, Table, Text
from eval.report.run_page import write_report
from eval.run import Run, load_run, markov_baselines
from jaxmodels import count_parameters
from jaxmodels.cli import progress_counter, write_json
from jaxmodels.data import Document, eval_stream, num_target_bytes, num_targets, subsample
from jaxmodels.errors import UserError
from jaxmodels.models.contract import target_counts
from train.io.steps import total_terms
from train.tasks.text import labeller_of


@dataclass(frozen=True)
class Scores:
    """Result of `evaluate`.

    Attributes:
        means: term -> mean over its targets (losses in nats); terms without targets are omitted.
            A next-token loss also gives `bits_per_byte` of text and `perplexity` per token.
        counts: term -> number of targets.
        num_bytes: bytes of text of the targets.
    """

    means: dict[str, float]
    counts: dict[str, float]
    num_bytes: int


def evaluate(
    model,
    documents: Sequence[Document],
    *,
    batch_size: int = 32,
    seq_len: int = 256,
    whole_documents: bool = False,
    labels=None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Read documents once, from initial states, and average `model.loss_sums`.

    Args:
        model: a model with the training methods of `jaxmodels.models.contract`.
        documents: every token but the first of each document is a target exactly once.
        batch_size: rows of the batch.
        seq_len: tokens per device call; affects speed and memory, not results, unless the model
            takes its auxiliary losses at every n-th position of a segment.
        whole_documents: False cuts the text into `batch_size` equal rows, so that up to
            batch_size - 1 documents lose some context; True cuts no document and takes longer.
        labels: a labeller for the stream, see `jaxmodels.data`.
        progress: called with (tokens read, total tokens) after every batch.

    Raises:
        UserError: the documents have no target.
    """
    total = num_targets(documents)
    if not total:
        raise UserError(
            "nothing to evaluate: every document of this split is shorter than 2 tokens"
        )
    longest = max(len(document) for document in documents)
    batch_size = min(batch_size, len(documents) if whole_documents else max(1, total // 8))
    seq_len = min(seq_len, longest if whole_documents else math.ceil(total / batch_size))
    stream = eval_stream(
        documents,
        batch_size=batch_size,
        seq_len=seq_len,
        whole_documents=whole_documents,
        labels=labels,
    )
    sums, counts = total_terms(_batches(model, batch_size, stream, total, progress))
    means = {term: sums[term] / counts[term] for term in sums if counts[term] > 0}
    num_bytes = num_target_bytes(documents)
    if "next_token" in means:
        bits = sums["next_token"] / math.log(2) / num_bytes
        perplexity = float(np.exp(means["next_token"]))
        means = {"bits_per_byte": bits, "perplexity": perplexity} | means
    return Scores(means, counts, num_bytes)


def _batches(model, batch_size: int, stream, total: int, progress):
    """Yield (sums, counts) of each batch, the state handed from batch to batch."""
    state, done = model.initial_state(batch_size), 0
    for batch in stream:
        state, *parts = _batch_sums(model, state, batch)
        yield parts
        done += int(batch["weights"].sum())
        if progress is not None:
            progress(done, total)


@jax.jit
def _batch_sums(model, state, batch):
    state, sums = model.loss_sums(state, batch, key=None)
    return state, sums, target_counts(model, batch)


def run(options: argparse.Namespace, command: str) -> Evaluation:
    """Evaluate a run on text, to be stored in `eval.json` (`eval_other.json` with --data).

    Splits without a target are left out with a note.

    Raises:
      UserError: a bad option, no run, no complete checkpoint, missing text, or no target at all.
    """
    if options.columns:
        raise UserError("--columns is an option for runs on questions")
    if options.batch_size < 1:
        raise UserError(f"--batch-size={options.batch_size}: give 1 or more")
    if options.max_bytes is not None and options.max_bytes < 2:
        raise UserError(f"--max-bytes={options.max_bytes}: give 2 or more")
    start = time.perf_counter()
    paths = tuple(options.data) if options.data else None
    which = {"checkpoint": options.checkpoint, "base": options.base}
    trained = load_run(options.workdir, paths=paths, **which)
    splits, notes = {}, list(trained.corpus.notes)
    if paths:
        notes.append(f"of the other text these splits are measured; {trained.corpus.split}")
    for split in options.split:
        if num_targets(getattr(trained.corpus, split)):
            splits[split] = _scores(trained, split, options)
        else:
            notes.append(f"{split} is left out: none of its documents has 2 tokens or more")
    if not splits:
        raise UserError(f"nothing to evaluate: {'; '.join(notes)}")
    markov, note = {}, None
    try:
        markov = markov_baselines(trained.corpus)
    except UserError as error:
        note = str(error)
    result = {
        "command": command,
        "model": trained.config.model,
        "step": trained.step,
        "averaged": trained.averaged,
        "parameters": count_parameters(trained.model),
        "corpus": trained.corpus.name,
        "corpus_split": trained.corpus.split,
        "whole_documents": options.whole_documents,
        "max_bytes": options.max_bytes,
        "splits": splits,
        "notes": notes,
        "baselines": markov,
        "baselines_note": note,
        "device": device_description(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 3),
    }

    def store() -> list[str]:
        path = Path(options.workdir) / ("eval.json" if paths is None else "eval_other.json")
        write_json(path, result)
        return [str(path), *([] if paths else [str(write_report(options.workdir, trained))])]

    return Evaluation(result, store)


def _scores(trained: Run, split: str, options: argparse.Namespace) -> dict[str, float]:
    scores = evaluate(
        trained.model,
        subsample(getattr(trained.corpus, split), options.max_bytes),
        batch_size=options.batch_size,
        whole_documents=options.whole_documents,
        labels=labeller_of(trained.config),
        progress=progress_counter(split, "tokens"),
    )
    return scores.means | {"bytes": scores.num_bytes}


def summary(result: dict) -> list[Block]:
    """Format the result of `run` as a table: one row per mean, one column per split."""
    splits = result["splits"]

    def row(title, name, results):
        values = [results.get(split, {}).get(name, "-") for split in splits]
        return [title, *(f"{v:,.4f}" if isinstance(v, float) else str(v) for v in values)]

    names = dict.fromkeys(name for scores in splits.values() for name in scores)
    rows = [row(name, name, splits) for name in names]
    styles = {i: "strong" for i, name in enumerate(names) if name == "bits_per_byte"}
    first, markov = len(rows), result["baselines"]
    rows += [row(f"byte-Markov, {name}", name, markov) for name in NAMES if markov]
    styles |= {i: "dim" for i in range(first, len(rows))}
    title = f"{result['model']}, step {result['step']}, {result['parameters']:,} parameters"
    table = Table(["mean over targets", *splits], rows, styles=styles, rules=(first,))
    end = f"{result['seconds']:.1f} s on {result['device']}"
    notes = [*result["notes"], result["baselines_note"], end]
    return [Heading(title), table, *(Text(note, "missing") for note in notes if note)]
