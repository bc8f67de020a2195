"""Scores on text: each term of a model's loss averaged over a split, the state carried along."""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from eval.log import device_description, versions
from eval.report.document import Block, Heading, Table, Text
from eval.report.run_page import write_report
from eval.run import Run, load_run, markov_baselines
from jaxmodels import count_parameters
from jaxmodels.cli import progress_counter, write_atomically
from jaxmodels.data import Document, eval_stream, num_target_bytes, num_targets, subsample
from jaxmodels.errors import UserError
from jaxmodels.models.contract import target_counts
from train.io.steps import total_terms
from train.tasks.text import labeller_of


@dataclass(frozen=True)
class Scores:
    """What an evaluation measured.

    Attributes:
        means: term -> sum over its targets / number of them; a term without a target is left out.
            Losses are in nats.
        counts: term -> number of targets.
        bits_per_byte: of the next-token loss over the text's bytes, or None if the model has none.
        perplexity: exp of the mean next-token loss, a token, or None.
        num_bytes: bytes of text behind the targets.
    """

    means: dict[str, float]
    counts: dict[str, float]
    bits_per_byte: float | None
    perplexity: float | None
    num_bytes: int

    def flat(self) -> dict[str, float]:
        """One dict for JSON and tables: bits per byte and perplexity first, then every mean."""
        first = {"bits_per_byte": self.bits_per_byte, "perplexity": self.perplexity}
        return {name: value for name, value in first.items() if value is not None} | self.means


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
    """Reads documents once, from fresh states, and averages `model.loss_sums`.

    Args:
        model: keeps the training side of the contract of a model.
        documents: every token but the first of each is a target exactly once.
        batch_size: rows read side by side. With `whole_documents=False` the text is cut in as many
            equal rows, so that batch_size - 1 places start from a fresh state in mid-document: the
            cost is a few bytes' worth of context. With True no document is cut, which takes longer.
        seq_len: tokens a device call; changes speed and memory, not results, unless the model's own
            losses are taken at every n-th position of a segment.
        labels: a labeller for the stream, see `jaxmodels.data`.
        progress: called with (tokens read, tokens in all) after every batch.

    Raises:
        UserError: a split without a single target.
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
    bits = perplexity = None
    if "next_token" in means:
        bits = sums["next_token"] / math.log(2) / num_bytes
        perplexity = float(np.exp(means["next_token"]))
    return Scores(means, counts, bits, perplexity, num_bytes)


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


def run(options: argparse.Namespace, command: str) -> dict:
    """Evaluate a run on text; write `eval.json` (`eval_other.json` for other text) and the report.

    Raises:
      UserError: a bad option, no run, no whole checkpoint, or the text is gone.
    """
    if options.batch_size < 1:
        raise UserError(f"--batch-size={options.batch_size}: give 1 or more")
    if options.max_bytes is not None and options.max_bytes < 2:
        raise UserError(f"--max-bytes={options.max_bytes}: give 2 or more")
    start = time.perf_counter()
    paths = tuple(options.data) if options.data else None
    trained = load_run(options.workdir, checkpoint=options.checkpoint, paths=paths)
    levels, note = {}, None
    try:
        levels = markov_baselines(trained.corpus)
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
        "splits": {split: _scores(trained, split, options) for split in options.split},
        "baselines": levels,
        "baselines_note": note,
        "device": device_description(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 3),
    }
    path = Path(options.workdir) / ("eval.json" if paths is None else "eval_other.json")
    write_atomically(path, json.dumps(result, indent=2) + "\n")
    report = [] if paths else [str(write_report(options.workdir, trained))]
    return result | {"written": [str(path), *report]}


def _scores(trained: Run, split: str, options: argparse.Namespace) -> dict[str, float]:
    scores = evaluate(
        trained.model,
        subsample(getattr(trained.corpus, split), options.max_bytes),
        batch_size=options.batch_size,
        whole_documents=options.whole_documents,
        labels=labeller_of(trained.config),
        progress=progress_counter(split, "tokens"),
    )
    return scores.flat() | {"bytes": scores.num_bytes}


def summary(result: dict) -> list[Block]:
    """Return the result of `run` as a table: one row per mean, one column per split."""
    splits = result["splits"]

    def row(name, values):
        return [name, *(f"{v:,.4f}" if isinstance(v, float) else str(v) for v in values)]

    names = list(dict.fromkeys(name for scores in splits.values() for name in scores))
    rows = [row(name, [splits[split].get(name, "-") for split in splits]) for name in names]
    styles = {i: "strong" for i, name in enumerate(names) if name == "bits_per_byte"}
    first = len(rows)
    if result["baselines"]:
        for name in ("unigram", "order-1", "order-2"):
            levels = [result["baselines"].get(split, {}).get(name, "-") for split in splits]
            rows.append(row(f"byte-Markov, {name}", levels))
    styles |= {i: "dim" for i in range(first, len(rows))}
    title = f"{result['model']}, step {result['step']}, {result['parameters']:,} parameters"
    table = Table(["mean over targets", *splits], rows, styles=styles, rules=(first,))
    note = [Text(result["baselines_note"], "missing")] if result["baselines_note"] else []
    made = f"{result['seconds']:.1f} s on {result['device']}; wrote {', '.join(result['written'])}"
    return [Heading(title), table, *note, Text(made, "missing")]
