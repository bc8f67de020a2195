"""From an experiment config to its corpus, its training stream and its validation batches."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmodels.data import (
    Corpus,
    eval_stream,
    load_corpus,
    make_stream,
    num_target_bytes,
    num_targets,
    pieces,
    take,
)
from train.model import resolve_vocab

if TYPE_CHECKING:
    from jaxmodels.data.labels import RelationLabeller


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads.

    Attributes:
      corpus: documents of the three splits, and the tokenizer.
      train: endless Grain dataset of batches, this process's rows.
      valid: finite one over (a share of) the validation split, or None if there is no evaluation.
      valid_bytes: bytes of text behind the targets of `valid`.
      bytes_per_token: of the training split.
      fingerprint: SHA-256 of all tokens.
    """

    corpus: Corpus
    train: Any
    valid: Any
    valid_bytes: int
    bytes_per_token: float
    fingerprint: str

    def bits_per_byte(self, nats_per_token: float) -> dict[str, float]:
        """{"bits_per_byte": x} where a token is a byte, else {}: batches know no bytes."""
        if self.corpus.tokenizer.name != "byte":
            return {}
        return {"bits_per_byte": nats_per_token / math.log(2)}


def corpus_of(config: ConfigDict) -> Corpus:
    """The corpus of an experiment, split and tokenised; `load_corpus` says what it raises."""
    d = config.data
    return load_corpus(
        d.paths,
        d.tokenizer,
        format=d.format,
        valid_fraction=d.valid_fraction,
        test_fraction=d.test_fraction,
        max_tokens=d.max_tokens,
        min_freq=d.min_freq,
    )


def labeller_of(config: ConfigDict) -> RelationLabeller | None:
    """What derives an experiment's labels while batches are made; None without labels."""
    d = config.data
    if d.labels != "relations":
        return None
    from jaxmodels.data.labels import RelationLabeller  # its word lists are read on import

    return RelationLabeller(d.label_slots, d.label_roles, d.label_classes)


def open_data(config: ConfigDict) -> Data:
    """Read the corpus and make the streams; resolves `model_config.vocab_size` in place.

    Raises:
      UserError: whatever is wrong with the files or their fit to the config.
    """
    d = config.data
    corpus, labels = corpus_of(config), labeller_of(config)
    resolve_vocab(config, corpus.tokenizer.vocab_size)
    hosts = {"host_index": jax.process_index(), "host_count": jax.process_count()}
    sizes = {"batch_size": config.batch_size, "seq_len": config.seq_len}
    train = make_stream(
        pieces(corpus.train, d.piece_tokens or None),
        seed=config.seed,
        mode=d.mode,
        labels=labels,
        prefetch=d.prefetch,
        **sizes,
        **hosts,
    )
    valid, valid_bytes = None, 0
    if config.eval_every:
        documents = take(corpus.valid, d.eval_tokens or None)
        valid = eval_stream(documents, labels=labels, prefetch=d.prefetch, **sizes, **hosts)
        valid_bytes = num_target_bytes(documents)
    return Data(
        corpus=corpus,
        train=train,
        valid=valid,
        valid_bytes=valid_bytes,
        bytes_per_token=num_target_bytes(corpus.train) / max(num_targets(corpus.train), 1),
        fingerprint=corpus.fingerprint(),
    )


def my_rows(tree: Any, batch_size: int) -> Any:
    """This process's share of the rows of a NumPy pytree with leading axis `batch_size`."""
    rows = batch_size // jax.process_count()
    first = jax.process_index() * rows
    return jax.tree.map(lambda x: np.asarray(x)[first : first + rows], tree)
