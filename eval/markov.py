"""Byte-Markov baselines: bits per byte of n-gram counts of order 0 to 2.

All orders are smoothed by a Dirichlet prior centred on the order below:

    p_k(b | c) = (count(c b) + STRENGTH * p_{k-1}(b | c')) / (count(c) + STRENGTH),   p_{-1} = 1/256

where `c` is the last k bytes and `c'` the last k-1, so every context's row sums to one without a
zero. A document's first bytes are predicted by the order that their context allows. STRENGTH = 10
was the best of 1, 5, 10, 20 at order 2, by 0.001 bits.

On the packaged State of the Union corpus, valid = 2000-2009 (264,156 bytes), orders 0, 1, 2 give
4.43, 3.55, 2.91 bits per byte if fitted on all years before 2000 (11.3 MB), and 4.42, 3.51, 2.82 if
fitted on the last megabyte of it, whose English is closer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxmodels.errors import UserError

STRENGTH = 10.0
MAX_ORDER = 2  # a table of order 3 has 2^32 entries
NAMES = ("unigram", "order-1", "order-2")


@dataclass(frozen=True)
class ByteMarkov:
    """Counts of one order, linked to the model of the order below.

    Attributes:
        order: number of bytes of context.
        counts: int32 (256**order, 256), context (most recent byte last) x next byte.
        totals: int64 (256**order,), count of each context.
        lower: the model of the order below; None for the unigram.
    """

    order: int
    counts: np.ndarray
    totals: np.ndarray
    lower: "ByteMarkov | None"

    def probability(self, contexts: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return p(target | context) as float64 (n,).

        contexts: int (n, order or more), the preceding bytes, oldest first; target: int (n,).
        """
        code = _code(contexts[:, contexts.shape[1] - self.order :])
        prior = 1 / 256 if self.lower is None else self.lower.probability(contexts, target)
        return (self.counts[code, target] + STRENGTH * prior) / (self.totals[code] + STRENGTH)

    def bits_per_byte(self, documents: Sequence[np.ndarray]) -> float:
        """Return the mean of -log2 p over every byte of the documents."""
        bits, count = 0.0, 0
        for document in documents:
            document = _as_bytes(document)
            model = self
            while model is not None:
                # The full order predicts all bytes but the first `order`; byte k of those has only
                # k bytes of context and is predicted by order k.
                last = None if model is self else model.order + 1
                target = document[model.order : last]
                starts = np.arange(len(target))[:, None] + np.arange(model.order)[None, :]
                bits -= np.log2(model.probability(document[starts], target)).sum()
                model = model.lower
            count += len(document)
        if not count:
            raise UserError("no bytes to score: the documents are empty; give at least one byte")
        return float(bits / count)


def fit_markov(documents: Sequence[np.ndarray], order: int) -> ByteMarkov:
    """Count contexts of 0..order bytes, never across document boundaries.

    Args:
        documents: integer arrays (length,) with values 0..255.
        order: 0, 1 or 2.

    Raises:
        UserError: unsupported order, values that are not bytes, or no bytes.
    """
    if not 0 <= order <= MAX_ORDER:
        raise UserError(f"order={order}: the byte-Markov baselines have orders 0 to {MAX_ORDER}")
    documents = [_as_bytes(document) for document in documents]
    if not sum(map(len, documents)):
        raise UserError("no bytes to fit a baseline on: the training documents are empty")
    model = None
    for k in range(order + 1):
        windows = np.lib.stride_tricks.sliding_window_view
        codes = [_code(windows(document, k + 1)) for document in documents if len(document) > k]
        flat = np.concatenate(codes) if codes else np.zeros(0, np.int64)
        counts = np.bincount(flat, minlength=256 ** (k + 1)).reshape(256**k, 256).astype(np.int32)
        model = ByteMarkov(k, counts, counts.sum(axis=1, dtype=np.int64), model)
    return model


def baselines(train: Sequence[np.ndarray], held_out: Sequence[np.ndarray]) -> dict[str, float]:
    """Return bits per byte on `held_out` of the models of order 0 to 2 fitted on `train`."""
    model, result = fit_markov(train, MAX_ORDER), {}
    while model is not None:
        result[NAMES[model.order]] = model.bits_per_byte(held_out)
        model = model.lower
    return dict(sorted(result.items(), key=lambda item: NAMES.index(item[0])))


def _as_bytes(document: np.ndarray) -> np.ndarray:
    document = np.asarray(document)
    if document.size and (document.min() < 0 or document.max() > 255):
        raise UserError(
            f"a byte-Markov baseline reads bytes 0..255, got token {document.max()}: "
            "decode the tokens to text and encode that as UTF-8"
        )
    return document.astype(np.int64)


def _code(windows: np.ndarray) -> np.ndarray:
    """Encode rows of bytes (n, width) as integers (n,), the oldest byte most significant."""
    code = np.zeros(len(windows), np.int64)
    for column in range(windows.shape[1]):
        code = code * 256 + windows[:, column]
    return code
