"""Synthetic tasks: rows that are generated while they are read, for every left-to-right model.

    data.format "synthetic"   one of `jaxmodels.data.synthetic.TASKS`, named in `data.tasks`
    data.task_fields          fields of the task, e.g. --config.data.task_fields.pairs=4
    data.tokenizer "ids"      the rows are numbers, not text
    data.labels "relations"   with the task `relations`: its labels, in `data.label_slots` slots and
                              `data.label_roles` roles

Training rows are those of the seed of the run, and never come twice; validation and test rows are
of seeds that no run can have. Every row starts at the initial state.
"""

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.data.loading import grain_dataset, rows_of_host
from jaxmodels.data.synthetic import TASKS, make_task
from jaxmodels.data.tokenizers.grid import IdTokenizer
from jaxmodels.errors import UserError
from train.model import resolve_vocab
from train.tasks.task import Task

VALID_SEED, TEST_SEED = 2**32 + 1, 2**32 + 2  # a run's seed is below 2^32
TEST_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class SyntheticCorpus:
    """A task in the place of a corpus.

    Attributes:
      name: of the task.
      task: the task, whose `batch` makes rows.
      labels: further fields of a batch -> number of classes.
      tokenizer: of its tokens.
      train, valid, test: numbers of the rows of each split.
      split: what tells the splits apart.
      notes: none; nothing is read.
    """

    name: str
    task: Any
    labels: dict[str, int]
    tokenizer: IdTokenizer
    train: range
    valid: range
    test: range
    split: str = "by seed"
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return the SHA-256 of what determines the rows."""
        return hashlib.sha256(f"{self.name} {self.task} {sorted(self.labels)}".encode()).hexdigest()

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return batch `index` of a seed, with the labels that were asked for."""
        batch = self.task.batch(seed, index, batch_size)
        kept = {"inputs", "targets", "weights", "reset", *self.labels}
        return {name: values for name, values in batch.items() if name in kept}


def open_synthetic(config: ConfigDict) -> Task:
    """Make the streams of a task; raise UserError if invalid."""
    corpus = synthetic_of(config)
    config = resolve_vocab(config, corpus.tokenizer.vocab_size)
    valid = None
    if config.eval_every:
        count = -(-len(corpus.valid) // config.batch_size)
        valid = _stream(config, corpus, VALID_SEED, count)
    return Task(
        config=config,
        corpus=corpus,
        train=_stream(config, corpus, config.seed),
        valid=valid,
        valid_bytes=0,
        bytes_per_token=1.0,
        steps_per_epoch=float(config.steps),
        fingerprint=corpus.fingerprint(),
        label_classes=corpus.labels,
    )


def synthetic_of(config: ConfigDict) -> SyntheticCorpus:
    """Return the task of an experiment; raise UserError if invalid."""
    d = config.data
    _check_fit(config)
    if len(d.tasks) != 1:
        names = ", ".join(d.tasks) or "none"
        raise UserError(f"config.data.tasks: must name one of {', '.join(TASKS)}, got {names}")
    (name,), labelled = d.tasks, d.labels == "relations"
    fields = d.task_fields.to_dict()
    if name == "relations":
        fields = {"slots": d.label_slots, "roles": d.label_roles} | fields
    try:
        task = make_task(name, config.seq_len, fields)
    except UserError as error:
        raise UserError(f"config.data: {error}") from error
    labels = dict(getattr(task, "labels", {}))
    if not labelled:
        labels.pop("relation_labels", None)
    elif "relation_labels" not in labels:
        raise UserError(f"config.data.labels: task {name!r} has no relations; set it to 'none'")
    rows = max(d.eval_tokens // config.seq_len, 1) if d.eval_tokens else TEST_ROWS
    training = range(config.steps * config.batch_size)
    tokenizer = IdTokenizer(task.vocab_size)
    return SyntheticCorpus(name, task, labels, tokenizer, training, range(rows), range(TEST_ROWS))


def _stream(config, corpus: SyntheticCorpus, seed: int, count: int | None = None) -> Any:
    rows = rows_of_host(config.batch_size, jax.process_index(), jax.process_count())

    def batch(index: int) -> dict[str, np.ndarray]:
        whole = corpus.batch(seed, index, config.batch_size)
        return {name: values[rows] for name, values in whole.items()}

    length = () if count is None else (count,)
    return grain_dataset(batch, config.data.prefetch, *length)


def _check_fit(config: ConfigDict) -> None:
    """Reject config values that do not apply to generated rows."""
    d = config.data
    wrong = (
        (d.tokenizer != "ids", "data.tokenizer: rows of numbers need 'ids'"),
        (len(d.paths), "data.paths: rows are generated; leave it out"),
        (len(d.mixture), "data.mixture: rows are of one task; leave it out"),
        (config.curriculum, "curriculum: rows have a fixed length; leave it out"),
        (config.control.watch, "control.watch: needs running text; set it to false"),
    )
    for is_wrong, message in wrong:
        if is_wrong:
            raise UserError(f"config.{message}")
    if ":" not in config.model and hasattr(jaxmodels.make_config(config.model), "mode"):
        raise UserError(
            f"config.data.format: model {config.model!r} does not read 'synthetic', but "
            "left-to-right models do, such as mamba and rwkv"
        )
