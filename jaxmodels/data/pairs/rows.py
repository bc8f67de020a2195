"""Question-answer pairs, their rows for HRLM, and batches of rows.

A batch is a dict of arrays with leading axis `batch_size // host_count`: inputs and targets int32
(rows, seq_len), weights float32 (rows, seq_len), identifiers int32 (rows,). The layout of a row is
defined in `data/pairs/layout.py`.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from jaxmodels.data.loading import grain_dataset, rows_of_host
from jaxmodels.data.pairs.layout import lay_out
from jaxmodels.data.random import epoch_items, random_order, random_words
from jaxmodels.data.text.documents import Corpus
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.errors import UserError

if TYPE_CHECKING:
    import grain


@dataclass(frozen=True)
class Pair:
    """A question and its answer.

    Attributes:
      question, answer: text; in a grid, one symbol per cell.
      task: kind of question, for reports.
      combination: slot values of a template, by which splits are made; for a puzzle, its number of
        blanks or another measure of difficulty.
      identifier: index of a puzzle's learned embedding; 0 = none.
    """

    question: str
    answer: str
    task: str = ""
    combination: tuple[str, ...] = ()
    identifier: int = 0


@dataclass(frozen=True)
class PairCorpus(Corpus):
    """A corpus whose splits hold pairs."""

    train: tuple[Pair, ...]
    valid: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def fingerprint(self) -> str:
        """Return the SHA-256 over all pairs and the tokenizer."""
        digest = hashlib.sha256(self.tokenizer.to_json().encode())
        for part in (self.train, self.valid, self.test):
            digest.update(f"split:{len(part)};".encode())
            for pair in part:
                suffix = f"{pair.identifier}\0" if pair.identifier else ""
                digest.update(f"{pair.question}\0{pair.answer}\0{suffix}".encode())
        return digest.hexdigest()


class Rows(NamedTuple):
    """Rows of many pairs; see `layout.Row`.

    Attributes:
      inputs, targets: int32 (n, seq_len); weights: float32 (n, seq_len).
      identifiers: int32 (n,).
      kept: int64 (n,), index of the pair of each row; pairs that are too long are left out.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    identifiers: np.ndarray
    kept: np.ndarray

    def batch(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Return a batch of copies of the rows at these indices; -1 is padding, with weight 0."""
        fields = ("inputs", "targets", "weights", "identifiers")
        batch = {name: getattr(self, name)[chosen] for name in fields}
        batch["weights"][chosen < 0] = 0.0
        return batch


def composed(text: str) -> str:
    """Return a text in composed characters (NFC)."""
    return unicodedata.normalize("NFC", text)


def normalized(text: str) -> str:
    """Return a question as models read it: composed characters, no surrounding space."""
    return composed(text).strip()


def prefixed(question: str, prefix: str) -> str:
    """Return a question as models read it behind a prefix, as `read_all` puts it there.

    The prefix, with the space around it, is not repeated if the question begins with it.
    """
    question, prefix = normalized(question), composed(prefix)
    return prefix + question.removeprefix(prefix.lstrip()).strip()


def texts_of(pairs: Sequence[Pair]) -> list[str]:
    """Return each question followed by its answer, e.g. to fit a tokenizer."""
    return [text for pair in pairs for text in (pair.question, pair.answer)]


def lay_out_pairs(
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    mode: str,
    seq_len: int,
    limits: tuple[int | None, int | None] = (None, None),
    *,
    skip_long: bool = False,
    answered: bool = True,
) -> Rows:
    """Lay out all pairs as rows.

    Args:
      mode, seq_len: see `lay_out`.
      limits: most tokens of a question and of an answer; None = what fits in a row.
      skip_long: leave out pairs that do not fit; otherwise they raise a UserError.
      answered: False returns prompts for inference; answers are not read.
    """
    rows, kept = [], []
    for number, pair in enumerate(pairs):
        question = tokenizer.encode(pair.question)
        answer = tokenizer.encode(pair.answer) if answered else None
        try:
            _check_limits(question, answer, limits)
            rows.append(lay_out(question, answer, mode, seq_len))
        except UserError as error:
            if skip_long:
                continue
            raise UserError(f"{error} (pair {number}: {pair.question[:40]!r})") from error
        kept.append(number)
    if not rows:
        raise UserError(
            f"seq_len: none of {len(pairs)} pairs fits in a row of {seq_len}"
            if pairs
            else "no pairs: this split is empty; give more examples or larger fractions"
        )
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    identifiers = np.array([pairs[number].identifier for number in kept], np.int32)
    return Rows(*columns, identifiers, np.array(kept))


def _check_limits(question, answer, limits: tuple[int | None, int | None]) -> None:
    for name, ids, limit in zip(("input", "output"), (question, answer), limits, strict=True):
        if ids is not None and limit is not None and len(ids) > limit:
            raise UserError(f"max_{name}_length: {len(ids)} tokens, at most {limit}")


def that_fit(
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    mode: str,
    seq_len: int,
    limits: tuple[int | None, int | None] = (None, None),
) -> list[Pair]:
    """Return the pairs that fit in a row with their answer; raise UserError if none does."""
    kept = lay_out_pairs(pairs, tokenizer, mode, seq_len, limits, skip_long=True).kept
    return [pairs[number] for number in kept]


def evenly_spaced(items: Sequence, limit: int | None) -> list:
    """Return at most `limit` items, evenly spaced, so that every file or task keeps some."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]


def split_by_key(
    pairs: Sequence[Pair], keys: Sequence[str], held_out: float, seed: int, use: int
) -> tuple[list[Pair], list[Pair]]:
    """Return (train, unseen); pairs with the same key stay together.

    Args:
      keys: one key per pair.
      held_out: fraction of the distinct keys to hold out.
      seed, use: determine the keys; another `use` is another draw of the same seed.
    """
    if not 0.0 <= held_out < 1.0:
        raise UserError(f"held_out: must be in [0, 1), got {held_out}")
    distinct = sorted(set(keys))
    order = random_order(seed, use, len(distinct))
    unseen = {distinct[i] for i in order[: round(len(distinct) * held_out)]}
    sides = ([], [])
    for pair, key in zip(pairs, keys, strict=True):
        sides[key in unseen].append(pair)
    return sides


@dataclass(frozen=True)
class Augmentation:
    """A random symmetry of a grid and its answer.

    Attributes:
      apply: (random uint64 (words,), question ids, answer ids) -> (question ids, answer ids).
      words: number of random words that `apply` reads.
    """

    apply: Callable
    words: int


class Batches(Protocol):
    """Rows of a split, however they are laid out."""

    inputs: np.ndarray

    def batch(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Return a batch of copies of the rows at these indices; -1 is padding, no target."""
        ...


def row_stream(
    rows: Batches,
    *,
    batch_size: int,
    seed: int,
    host_index: int = 0,
    host_count: int = 1,
    augmentation: Augmentation | None = None,
    prefetch: int = 2,
) -> grain.IterDataset:
    """Return endless training batches; every epoch reshuffles and re-augments all rows.

    As in `data/text/streams.py`, the state of an iterator is its step.
    """
    mine, count = rows_of_host(batch_size, host_index, host_count), len(rows.inputs)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return random_order(seed, epoch, count)

    def batch(step: int) -> dict[str, np.ndarray]:
        numbers = step * batch_size + mine
        chosen = rows.batch(epoch_items(order, count, numbers))
        if augmentation is not None:
            inputs, targets = chosen["inputs"], chosen["targets"]
            for row, number in enumerate(numbers):
                # Block 1, so that the order of an epoch and an augmentation share no words.
                words = random_words(seed, int(number), augmentation.words, block=1)
                inputs[row], targets[row] = augmentation.apply(words, inputs[row], targets[row])
        return chosen

    return grain_dataset(batch, prefetch)


def row_eval_stream(
    rows: Batches, *, batch_size: int, host_index: int = 0, host_count: int = 1, prefetch: int = 2
) -> grain.IterDataset:
    """Return finite batches: every row once, in order; padding in the last batch has weight 0."""
    mine, count = rows_of_host(batch_size, host_index, host_count), len(rows.inputs)

    def batch(step: int) -> dict[str, np.ndarray]:
        numbers = step * batch_size + mine
        return rows.batch(np.where(numbers < count, numbers, -1))

    return grain_dataset(batch, prefetch, -(-count // batch_size))
