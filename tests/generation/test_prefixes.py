"""The prefix cache: least recently used by bytes, never another prompt's state."""

import numpy as np

from jaxmodels.generation import prefixes
from jaxmodels.generation.prefixes import ROOT, Prefixes


def pieces(*starts):
    return [np.arange(start, start + 4, dtype=np.int32) for start in starts]


def add(cache, *starts):
    key = ROOT
    for count, piece in enumerate(pieces(*starts), 1):
        key = cache.add(key, piece, np.full(4, count, np.float32))


def test_the_longest_beginning_is_found():
    cache = Prefixes(10**4)
    add(cache, 0, 10, 20)
    count, _, state = cache.find(pieces(0, 10, 99))
    assert (count, state[0]) == (2, 2.0)
    assert cache.find(pieces(10, 20))[0] == 0  # the same piece elsewhere is another state
    assert cache.find([])[0] == 0
    assert (cache.hits, cache.misses) == (2, 3)


def test_the_least_recently_used_goes_first():
    cache = Prefixes(2 * 32)
    add(cache, 0)
    add(cache, 50)
    cache.find(pieces(0))
    add(cache, 90)
    assert len(cache) == 2 and cache.size == 64
    assert [cache.find(pieces(start))[0] for start in (0, 50, 90)] == [1, 0, 1]
    add(cache, 90)
    assert cache.size == 64
    big = Prefixes(31)
    add(big, 0)
    assert len(big) == 0


def test_equal_hashes_do_not_mix_prompts(monkeypatch):
    monkeypatch.setattr(prefixes, "_hash", lambda key, piece: b"same")
    cache = Prefixes(10**4)
    add(cache, 0)
    assert cache.find(pieces(0))[0] == 1
    assert cache.find(pieces(5))[0] == 0
