"""Tasks: corpus, training stream and validation batches of an experiment.

A task is text (`text.py`) or questions with answers (`answers.py`), as `task_class_of` selects; all
other code uses the protocol `Task`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from ml_collections import ConfigDict

from train.tasks.answers import AnswerTask
from train.tasks.text import TextTask


class Task(Protocol):
    """The opened data of a run.

    Attributes:
      kind: "text" or "answers", which selects the evaluator.
      config: the experiment's config, vocabulary size resolved.
      corpus: the splits train, valid, test and the tokenizer.
      train: endless Grain dataset of batches, this process's rows.
      valid: finite dataset over (part of) the validation split; None without evaluation.
      valid_bytes: bytes of text behind the targets of `valid`.
      bytes_per_token: bytes of text per token of the training split.
      fingerprint: SHA-256 of the data; a run is not resumed on other data.
    """

    kind: ClassVar[str]
    config: ConfigDict
    corpus: Any
    train: Any
    valid: Any
    valid_bytes: int
    bytes_per_token: float
    fingerprint: str

    @classmethod
    def load_corpus(cls, config: ConfigDict) -> Any:
        """Read or generate the corpus alone; raise UserError if it is invalid."""

    @classmethod
    def open(cls, config: ConfigDict) -> Task:
        """Read the corpus and make the streams; raise UserError for invalid data."""

    def label_classes(self) -> dict[str, int]:
        """Return the number of classes of each label field of the corpus."""

    def steps_per_epoch(self) -> float:
        """Return the steps per pass over the training split."""

    def bits_per_byte(self, nats_per_token: float) -> dict[str, float]:
        """Return {"bits_per_byte": x} if the training loss converts to it, else {}."""


def task_class_of(config: ConfigDict) -> type[Task]:
    """Return the task class of an experiment."""
    return AnswerTask if AnswerTask.reads(config.data.format) else TextTask


def open_task(config: ConfigDict) -> Task:
    """Open the task of an experiment; raise UserError for invalid data."""
    return task_class_of(config).open(config)
