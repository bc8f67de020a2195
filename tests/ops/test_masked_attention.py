"""A mask of a few numbers a position, and blocks of queries that equal all of them at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.masked_attention import Visibility, attend, masked_attention
from jaxmodels.testing.lab import quick_jit

B, T, N, D = 2, 37, 2, 4
RNG = np.random.default_rng(0)
Q, K, V, G = (jnp.asarray(RNG.standard_normal((B, T, N, D)), jnp.float32) for _ in range(4))


def visibility(front=0, window=None, *, rows=B, time=T, seed=0):
    rng = np.random.default_rng(seed)
    prefix = jnp.arange(time)[None] < jnp.asarray([[time // 3], [time]])[:rows]
    return Visibility(prefix, jnp.asarray(rng.random((rows, time)) < 0.8), front, window)


@pytest.mark.parametrize("front", [0, 2])
@pytest.mark.parametrize("window", [None, 1, 5])
def test_who_sees_whom(front, window):
    seen, mask = visibility(front, window), visibility(front, window).dense()
    prefix, real = np.asarray(seen.prefix), np.asarray(seen.real)
    for b in range(B):
        for i in range(T):
            for j in range(T):
                near = window is None or abs(i - j) < window
                inner = (j <= i or (prefix[b, i] and prefix[b, j])) and near
                expected = (inner or i < front or j < front) and real[b, j]
                assert mask[b, i, j] == expected, (b, i, j)


@pytest.mark.parametrize("front", [0, 3])
@pytest.mark.parametrize("window", [None, 1, 7, 30])
def test_blocks_equal_all_at_once(window, front):
    """Values and gradients, with rows that do not fill the last block and keys that are hidden."""
    seen = visibility(front, window)

    def both(size):
        def run(q, k, v):
            return attend(q, k, v, seen, block_size=size, dtype=jnp.float32)

        value, pullback = jax.vjp(run, Q, K, V)
        return value, pullback(G)

    def definition(q, k, v):
        mask = np.asarray(seen.dense())[:, None]
        scores = np.einsum("btnd,bsnd->bnts", *(np.asarray(x, float) for x in (q, k))) / D**0.5
        weights = np.where(mask, np.exp(scores - scores.max()), 0.0)
        weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
        return np.einsum("bnts,bsnd->btnd", weights, np.asarray(v, float))

    whole = quick_jit(functools.partial(both, T))()
    np.testing.assert_allclose(whole[0], definition(Q, K, V), atol=2e-6)
    for size in (8, 5):
        parts = quick_jit(functools.partial(both, size))()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), parts, whole)


@pytest.mark.parametrize("window", [None, 4])
def test_a_hidden_key_reaches_nobody(window):
    """Neither values nor gradients, though it is NaN and others see it."""
    seen = Visibility(jnp.zeros((1, T), bool), jnp.ones((1, T), bool), 0, window)
    k, v = K[:1].at[:, 20].set(jnp.nan), V[:1].at[:, 20].set(jnp.nan)

    def run(k, v):
        return attend(Q[:1], k, v, seen, block_size=8, dtype=jnp.float32)

    after, before = run(k, v), run(K[:1], V[:1])
    np.testing.assert_array_equal(after[:, :20], before[:, :20])
    last = 24 if window else T
    assert np.isnan(np.asarray(after[:, 20:last])).all()
    np.testing.assert_array_equal(after[:, last:], before[:, last:])


@pytest.mark.parametrize("window", [None, 16])
def test_no_array_of_all_pairs_and_linear_memory_under_a_window(window):
    def program(time):
        seen = Visibility(jnp.zeros((1, time), bool), jnp.ones((1, time), bool), 1, window)
        x = jnp.zeros((1, time, 1, 8))

        def loss(q, k, v):
            return attend(q, k, v, seen, block_size=32, dtype=jnp.float32).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()

    sizes = []
    for time in (1024, 2048):
        compiled = program(time)
        assert f"{time},{time}" not in compiled.as_text()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < (2.1 if window else 2.6) * sizes[0]


def test_dense_below_a_block():
    seen = visibility()
    run = quick_jit(lambda q, k, v: attend(q, k, v, seen, block_size=T, dtype=jnp.float32))
    dense = quick_jit(lambda q, k, v: masked_attention(q, k, v, seen.dense(), jnp.float32))
    np.testing.assert_array_equal(run(Q, K, V), dense(Q, K, V))
