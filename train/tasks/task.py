"""The opened data of a run, whatever the kind of its task."""

from dataclasses import dataclass, field
from typing import Any

import jax
from ml_collections import ConfigDict


@dataclass(frozen=True)
class Task:
    """The opened data of a run.

    Attributes:
      config: the experiment's config, vocabulary size resolved.
      corpus: the splits train, valid, test and the tokenizer.
      train: endless Grain dataset of batches, this process's rows.
      valid: finite dataset over (part of) the validation split; None without evaluation.
      valid_bytes: bytes of text (of answers) behind the targets of `valid`.
      bytes_per_token: bytes of text per token of the training split; of questions and answers per
        row position.
      steps_per_epoch: steps per pass over the training split.
      fingerprint: SHA-256 of the data; a run is not resumed on other data.
      label_classes: number of classes of each label field of the corpus.
      notes: lines on what of the input is not used, or not known to the tokenizer.
    """

    config: ConfigDict
    corpus: Any
    train: Any
    valid: Any
    valid_bytes: int
    bytes_per_token: float
    steps_per_epoch: float
    fingerprint: str
    label_classes: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """Return what was read, for `data.json` in the run's folder."""
        splits = ("train", "valid", "test")
        sizes = {split: len(getattr(self.corpus, split)) for split in splits}
        return {
            "corpus": self.corpus.name,
            "split": self.corpus.split,
            "sizes": sizes,
            "notes": list(self.notes),
        }


def stream_arguments(config: ConfigDict) -> dict[str, int]:
    """Return the arguments that all streams of batches share; a process reads its own rows."""
    return {
        "batch_size": config.batch_size,
        "prefetch": config.data.prefetch,
        "host_index": jax.process_index(),
        "host_count": jax.process_count(),
    }
