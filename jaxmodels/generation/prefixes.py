"""States after the beginnings of prompts that were read before.

A prompt is read in pieces of the same size from its first token on, so that the state after a piece
is a function of the tokens up to there: one that is kept equals one that is computed again, bit for
bit. A key chains the hashes of the pieces, and the tokens themselves are compared.
"""

import hashlib
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import numpy as np


class _Entry(NamedTuple):
    before: bytes
    tokens: bytes
    state: Any
    size: int


ROOT = b""


class Prefixes:
    """Cache of states, the least recently used dropped first.

    Attributes:
      limit: bytes of states and tokens to keep; 0 = none.
      size: bytes kept.
      hits, misses: pieces of prompts that were found and not found.
    """

    def __init__(self, limit: int):
        self.limit, self.size, self.hits, self.misses = limit, 0, 0, 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, pieces: list[np.ndarray]) -> tuple[int, bytes, Any]:
        """Return (number of leading pieces that were read before, their key, state after them).

        The state is None if there are none.
        """
        key, state, count = ROOT, None, 0
        for piece in pieces:
            following = _hash(key, piece)
            entry = self._entries.get(following)
            if entry is None or entry.before != key or entry.tokens != piece.tobytes():
                break
            self._entries.move_to_end(following)
            key, state, count = following, entry.state, count + 1
        self.hits += count
        self.misses += len(pieces) - count
        return count, key, state

    def add(self, key: bytes, piece: np.ndarray, state) -> bytes:
        """Keep the state after the pieces of `key` and another; return the key of all of them."""
        following = _hash(key, piece)
        size = piece.nbytes + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if size > self.limit:
            return following
        if old := self._entries.pop(following, None):
            self.size -= old.size
        self._entries[following] = _Entry(key, piece.tobytes(), state, size)
        self.size += size
        while self.size > self.limit:
            self.size -= self._entries.popitem(last=False)[1].size
        return following


def _hash(key: bytes, piece: np.ndarray) -> bytes:
    return hashlib.blake2b(piece.tobytes(), key=key, digest_size=32).digest()
