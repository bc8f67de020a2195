"""Evaluator of runs on synthetic tasks: every term of the loss on test rows, and whole rows."""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from eval.evaluators.evaluation import Evaluation
from eval.log import device_description, versions
from eval.report.document import Block, Heading, Text
from eval.report.run_page import write_report
from eval.report.task_page import headline, score_table
from eval.run import load_trained
from jaxmodels import count_parameters
from jaxmodels.cli import progress_counter, write_json
from jaxmodels.errors import UserError
from jaxmodels.models.contract import target_counts
from train.io.steps import total_terms
from train.tasks.fields import SYNTHETIC_FORMAT
from train.tasks.synthetic import TEST_SEED, SyntheticCorpus, synthetic_of


def run(options: argparse.Namespace, command: str) -> Evaluation:
    """Evaluate a run on a synthetic task, for `task.json`.

    Raises:
      UserError: an option for another kind of run, no such run, or a batch size below 1.
    """
    others = {
        "--data": options.data,
        "--columns": options.columns,
        "--max-bytes": options.max_bytes,
    }
    for option, value in (others | {"--whole-documents": options.whole_documents}).items():
        if value:
            raise UserError(f"{option}: an option for runs on other data than a synthetic task")
    if options.batch_size < 1:
        raise UserError(f"--batch-size={options.batch_size}: give 1 or more")
    start = time.perf_counter()
    trained, _ = load_trained(options.workdir, options.checkpoint, options.base)
    config = trained.config
    if config.data.format != SYNTHETIC_FORMAT:
        raise UserError(f"--workdir={options.workdir}: not a run on a synthetic task")
    corpus = synthetic_of(config)
    scores = evaluate(trained.model, corpus, options.batch_size)
    state = jax.tree.leaves(jax.eval_shape(lambda: trained.model.initial_state(1)))
    result = {
        "command": command,
        "model": config.model,
        "task": corpus.name,
        "fields": {k: v for k, v in vars(corpus.task).items() if isinstance(v, int | float | str)},
        "chance": corpus.task.chance,
        "rows": len(corpus.test),
        "scores": scores,
        "parameters": count_parameters(trained.model),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in state),
        "step": trained.step,
        "seed": config.seed,
        "device": device_description(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 3),
    }

    def store() -> list[str]:
        path = Path(options.workdir) / "task.json"
        write_json(path, result)
        return [str(path), str(write_report(options.workdir))]

    return Evaluation(result, store)


def evaluate(model: Any, corpus: SyntheticCorpus, batch_size: int) -> dict[str, float]:
    """Return the mean of each term over the targets of the test rows, and `whole_rows`.

    `whole_rows` is the fraction of rows of which every scored token is right, of a model with an
    accuracy. Terms without targets are left out. The rows are the same whatever `batch_size`, by
    which they are read.
    """
    count, rows = len(corpus.test), corpus.batch(TEST_SEED, 0, len(corpus.test))
    progress = progress_counter("test", "rows")

    def parts():
        for start in range(0, count, batch_size):
            batch = {name: x[start : start + batch_size] for name, x in rows.items()}
            yield _batch_sums(model, batch)
            if progress is not None:
                progress(min(start + batch_size, count), count)

    sums, counts = total_terms(parts())
    return {name: sums[name] / counts[name] for name in sums if counts[name] > 0}


@jax.jit
def _batch_sums(model, batch):
    rows = batch["inputs"].shape[0]
    _, sums = model.loss_sums(model.initial_state(rows), batch)
    counts = target_counts(model, batch)
    if "accuracy" not in sums:  # numbers were learned, no classes
        return sums, counts
    _, out = model(model.initial_state(rows), batch["inputs"], batch["reset"])
    right = (jnp.argmax(out.logits, -1) == batch["targets"]) | (batch["weights"] == 0.0)
    sums["whole_rows"] = jnp.sum(right.all(-1), dtype=jnp.float32)
    counts["whole_rows"] = jnp.float32(rows)
    return sums, counts


def summary(result: dict) -> list[Block]:
    """Format the result of `run`."""
    title = f"{result['model']}, step {result['step']}, {result['parameters']:,} parameters"
    end = f"{result['seconds']:.1f} s on {result['device']}"
    return [Heading(title), Text(headline(result)), score_table(result), Text(end, "missing")]
