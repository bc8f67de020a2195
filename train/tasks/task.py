"""The opened data of a run, whatever the kind of its task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxmodels.errors import UserError


@dataclass(frozen=True)
class Task:
    """The opened data of a run.

    Attributes:
      config: the experiment's config, vocabulary size resolved.
      corpus: the splits train, valid, test and the tokenizer.
      train: endless Grain dataset of batches, this process's rows.
      valid: finite dataset over (part of) the validation split; None without evaluation.
      valid_bytes: bytes of text (of answers) behind the targets of `valid`; 0 of tokens that are
        no text.
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


def check_labels(task: Task, label_fields: Sequence[tuple[str, str]]) -> None:
    """Raise UserError if the data lack a label that a loss is trained on.

    label_fields: pairs (loss, batch field), see `jaxmodels.models.contract.Traits`.
    """
    found = {name for name, classes in task.label_classes.items() if classes}
    if task.config.data.get("labels") == "relations":
        found.add("relation_labels")
    for loss, field_name in label_fields:
        if field_name not in found:
            labels = ", ".join(sorted(found)) or "none"
            raise UserError(
                f"config.data: this text has no {field_name}, on which {loss} is trained; its "
                f"labels: {labels}; choose another data.format or data.labels, or another "
                "model_config"
            )


def stream_arguments(config: ConfigDict) -> dict[str, int]:
    """Return the arguments that all streams of batches share; a process reads its own rows."""
    return {
        "batch_size": config.batch_size,
        "prefetch": config.data.prefetch,
        "host_index": jax.process_index(),
        "host_count": jax.process_count(),
    }
