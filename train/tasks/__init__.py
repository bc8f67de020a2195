"""Tasks: from a config to a corpus, a training stream and validation batches.

A task is text (`text.py`) or questions with answers (`answers.py`). `of` is the only place that
tells them apart; everything else uses the protocol below.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from ml_collections import ConfigDict

from train.tasks.answers import AnswerTask
from train.tasks.text import TextTask


class Task(Protocol):
    """The data of a run, opened.

    Attributes:
      kind: "text" or "answers", by which evaluation chooses its evaluator.
      config: of the experiment, its vocabulary size resolved.
      corpus: the three splits (train, valid, test) and the tokenizer.
      train: endless Grain dataset of batches, this process's rows.
      valid: finite one over (a share of) the validation split, or None if there is no evaluation.
      valid_bytes: bytes of text behind the targets of `valid`.
      bytes_per_token: of the training split.
      fingerprint: SHA-256 of all that is read; a run is not resumed on other data.
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
        """Read or generate the corpus alone; raises UserError."""
        ...

    @classmethod
    def open(cls, config: ConfigDict) -> Task:
        """Read the corpus and make the streams; raises UserError for whatever is wrong."""
        ...

    def label_classes(self) -> dict[str, int]:
        """Return the number of classes of each label field of the corpus."""
        ...

    def steps_per_epoch(self) -> float:
        """Return the steps in which as much is read as the training split holds."""
        ...

    def bits_per_byte(self, nats_per_token: float) -> dict[str, float]:
        """Return {"bits_per_byte": x} where a training loss can be told in bits, else {}."""
        ...


def of(config: ConfigDict) -> type[Task]:
    """Return the kind of task that an experiment is about."""
    return AnswerTask if AnswerTask.reads(config.data.format) else TextTask


def open_task(config: ConfigDict) -> Task:
    """Open the task of an experiment.

    Raises:
      UserError: whatever is wrong with the data or their fit to the config.
    """
    return of(config).open(config)
