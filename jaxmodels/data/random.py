"""Random numbers of the data path: every stream is a function of integers alone.

Shuffles and draws use raw Philox words, a stream that NumPy guarantees not to change, so runs are
reproducible across NumPy versions. Only the tasks of `synthetic` use NumPy's default generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def random_words(seed: int, stream: int, count: int, *, block: int = 0) -> np.ndarray:
    """Return (count,) uniform uint64, a function of the arguments alone.

    Args:
      seed, stream: any integers, taken modulo 2^64; together they are the Philox key.
      count: number of words.
      block: top word of the Philox counter; blocks of one key never overlap.
    """
    key = np.array([seed % 2**64, stream % 2**64], np.uint64)
    counter = np.array([0, 0, 0, block], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def random_order(seed: int, stream: int, count: int) -> np.ndarray:
    """Return a permutation of range(count), int64: the stable argsort of `random_words`."""
    return np.argsort(random_words(seed, stream, count), kind="stable")


def epoch_items(
    shuffled: Callable[[int], np.ndarray], per_epoch: int, numbers: np.ndarray
) -> np.ndarray:
    """Return items number (n,), int64, of an endless sequence of shuffled epochs.

    Args:
      shuffled: epoch -> its items in order, (per_epoch,).
      per_epoch: number of items of an epoch.
      numbers: (n,) integers; they may span epochs.
    """
    epochs, within = np.divmod(numbers, per_epoch)
    items = np.empty(numbers.shape, np.int64)
    for epoch in np.unique(epochs):
        items[epochs == epoch] = shuffled(int(epoch))[within[epochs == epoch]]
    return items
