"""Attention as a cell against NumPy in float64: window, ring, resets, rotation, groups, prefix."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.attention import AttentionCell, AttentionConfig, AttentionState
from jaxmodels.errors import UserError
from jaxmodels.ops.attention import rotate
from jaxmodels.testing import check_cell
from jaxmodels.testing.lab import quick_jit

BATCH, WIDTH, SIZE, BASE = 2, 16, 4, 30.0  # a base so small that some tokens turn every pair
ROUNDING = 1e-5  # float32: sums of some dozen terms


def make(window, chunk_size=8, **fields):
    config = AttentionConfig(
        WIDTH, head_size=SIZE, kv_heads=2, window=window, rope_base=BASE, chunk_size=chunk_size,
        **fields,
    )  # fmt: skip
    cell = AttentionCell(config, rngs=nnx.Rngs(0))
    return jax.tree.map(lambda x: 20.0 * x, cell)  # scores that prefer some tokens


def tokens(time, seed=0):
    return np.random.default_rng(seed).standard_normal((BATCH, time, WIDTH), np.float32)


@functools.cache
def jitted(form):
    return quick_jit(lambda cell, *args, **kw: getattr(cell, form)(*args, **kw))


def run(cell, xs, reset=None, state=None, form="__call__", **arguments):
    state = cell.initial_state(BATCH) if state is None else state
    return jax.device_get(jitted(form)(cell, state, xs, reset, **arguments))


def in_numpy(cell, xs, reset, prefix=None):
    """Compute attention from empty rings, by a mask over all pairs of tokens."""
    c = cell.config
    kernels = (cell.query, cell.key, cell.value, cell.output)
    wq, wk, wv, wo = (np.asarray(linear.kernel[...], np.float64) for linear in kernels)
    xs = np.asarray(xs, np.float64)
    ys = np.empty_like(xs)
    prefix = np.zeros_like(reset) if prefix is None else prefix
    for row, t in np.ndindex(*xs.shape[:2]):
        document = np.cumsum(reset[row])
        start = np.flatnonzero(document == document[t])[0]
        heads = []
        for head in range(WIDTH // SIZE):
            group = head // (WIDTH // SIZE // c.kv_heads)
            own, shared = (slice(SIZE * h, SIZE * (h + 1)) for h in (head, group))
            scores = np.full(xs.shape[1], -np.inf)
            for i in range(xs.shape[1]):
                seen = i <= t or (prefix[row, i] and prefix[row, t])
                if document[i] == document[t] and abs(t - i) < c.window and seen:
                    q = turned(xs[row, t] @ wq[:, own], t - start)
                    k = turned(xs[row, i] @ wk[:, shared], i - start)
                    scores[i] = (q @ k.conj()).real / SIZE**0.5
            weights = np.exp(scores - scores.max())
            heads.append(weights / weights.sum() @ (xs[row] @ wv[:, shared]))
        ys[row, t] = np.concatenate(heads) @ wo
    return ys


def turned(x, position):
    """Complex numbers of the pairs (i, i + N / 2)."""
    half = x.shape[-1] // 2
    return (x[:half] + 1j * x[half:]) * np.exp(1j * position * BASE ** (-np.arange(half) / half))


def resets(time, *places):
    reset = np.zeros((BATCH, time), bool)
    for row, place in places:
        reset[row, place] = True
    return reset


def error(got, want):
    return np.abs(got - want).max() / np.abs(want).max()


@pytest.mark.parametrize("window", [1, 5, 8, 9, 20, 64])
def test_against_numpy(window):
    """Windows within a block, of a block, over blocks, longer than all; the ring goes round."""
    cell, xs = make(window), tokens(37)
    reset = resets(37, (0, 11), (0, 12), (1, 0), (1, 29))
    want = in_numpy(cell, xs, reset)
    last, ys = run(cell, xs, reset)
    assert error(ys, want) < ROUNDING
    stepped, ys = run(cell, xs, reset, form="scan")
    assert error(ys, want) < ROUNDING
    assert (last.position == [25, 8]).all() and (stepped.position == [25, 8]).all()
    for got, want in zip(jax.tree.leaves(last), jax.tree.leaves(stepped), strict=True):
        np.testing.assert_allclose(got, want, atol=ROUNDING * np.abs(want).max())


@pytest.mark.parametrize("boundaries", [(3, 30), (8, 17), (20, 21)])
def test_ring_continues_across_calls(boundaries):
    """Three calls, of lengths below and above the window, are one."""
    cell, xs = make(11), tokens(37)
    reset = resets(37, (0, 9), (1, 21))
    state, parts = None, []
    for begin, end in zip((0, *boundaries), (*boundaries, 37), strict=True):
        state, ys = run(cell, xs[:, begin:end], reset[:, begin:end], state)
        parts.append(ys)
    assert error(np.concatenate(parts, 1), in_numpy(cell, xs, reset)) < ROUNDING


def test_gradients_equal_plain_softmax():
    """Through blocks, maxima and checkpoints: as JAX differentiates a masked softmax."""
    cell, xs = make(11), tokens(37)
    reset = resets(37, (0, 11), (1, 30))
    ids, t = np.cumsum(reset, 1), np.arange(37)
    start = np.maximum.accumulate(np.where(reset, t, 0), 1)
    near = (t[:, None] >= t) & (t[:, None] - t < 11)
    seen = (ids[:, :, None] == ids[:, None]) & near

    def plain(cell, xs):
        def heads(linear):
            return linear(xs).reshape(BATCH, 37, -1, SIZE)

        q, k = (rotate(heads(linear), t[None] - start, BASE) for linear in (cell.query, cell.key))
        k, v = (jnp.repeat(x, 2, 2) for x in (k, heads(cell.value)))
        scores = jnp.einsum("bthn,bshn->bhts", q, k) / SIZE**0.5
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30), -1)
        out = jnp.einsum("bhts,bshn->bthn", weights, v)
        return cell.output(out.reshape(BATCH, 37, WIDTH))

    def blocks(cell, xs):
        return cell(cell.initial_state(BATCH), xs, reset)[1]

    weights = tokens(37, seed=1)
    got, want = (
        quick_jit(jax.grad(lambda *args, f=f: jnp.sum(weights * f(*args)), (0, 1)))(cell, xs)
        for f in (blocks, plain)
    )
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert error(g, w) < ROUNDING


def test_rotary_positions():
    """Only the distance counts, lengths stay, and the position 0 turns nothing."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 5, 3, 8), np.float32)
    q_at, k_at = np.arange(5), np.array([4, 0, 9, 2, 2])
    want = np.sum(rotate(q, q_at, 1e4) * rotate(k, k_at, 1e4), -1)
    for shift in (1, 100, 1000):
        got = np.sum(rotate(q, q_at + shift, 1e4) * rotate(k, k_at + shift, 1e4), -1)
        np.testing.assert_allclose(got, want, atol=1e-3)  # angles of 1000 keep 6e-5
    lengths = [np.linalg.norm(x, axis=-1) for x in (rotate(q, q_at, 1e4), q)]
    np.testing.assert_allclose(*lengths, rtol=1e-6)
    assert (rotate(q, np.zeros(5, int), 1e4) == q).all()
    turn = rotate(q, q_at, BASE)[3, 1]
    want = q[3, 1, :4] + 1j * q[3, 1, 4:]
    want = want * np.exp(3j * BASE ** (-np.arange(4) / 4))
    np.testing.assert_allclose(turn, np.concatenate([want.real, want.imag]), atol=1e-6)


@pytest.mark.parametrize("form", ["scan", "__call__"])
def test_empty_slots_are_never_read(form):
    """NaN in slots that are empty by position reaches no output and no gradient."""
    cell, xs = make(11), tokens(14)
    state, _ = run(cell, tokens(4, seed=1))
    empty = (np.arange(11) >= 4)[None, :, None, None]
    reset = resets(14, (1, 6))
    nan = AttentionState(
        *(np.where(empty, np.nan, x) for x in (state.keys, state.values)), state.position
    )

    def loss(cell, xs, state):
        return jnp.sum(jnp.sin(getattr(cell, form)(state, xs, reset)[1]))

    gradient = quick_jit(jax.value_and_grad(loss, (0, 1)))
    clean, dirty = gradient(cell, xs, state), gradient(cell, xs, nan)
    for got, want in zip(jax.tree.leaves(dirty), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(got, want)


def test_prefix_attention():
    """Tokens of a prefix see each other both ways: over blocks, within document and window."""
    cell, xs = make(15), tokens(37)
    reset = resets(37, (0, 0), (0, 20), (1, 12))
    prefix = np.zeros((BATCH, 37), bool)
    prefix[0, :19] = prefix[0, 20:23] = prefix[1, 12:30] = True
    _, ys = run(cell, xs, reset, prefix=prefix)
    assert error(ys, in_numpy(cell, xs, reset, prefix)) < ROUNDING
    _, none = run(cell, xs, reset, prefix=np.zeros_like(prefix))
    _, causal = run(cell, xs, reset)
    np.testing.assert_allclose(none, causal, atol=ROUNDING)
    assert np.abs(ys[0, 0] - causal[0, 0]).max() > 0.1
    with pytest.raises(UserError, match="prefix"):
        cell.scan(cell.initial_state(BATCH), xs, prefix=prefix)


def test_memory_is_linear_in_time():
    """Cost per token is flat from the window on."""

    def largest(time):
        cell = make(32, chunk_size=16)
        jaxpr = jax.make_jaxpr(jax.grad(lambda xs: cell(cell.initial_state(BATCH), xs)[1].sum()))
        return max(sizes(jaxpr(jnp.zeros((BATCH, time, WIDTH))).jaxpr))

    assert largest(2048) <= 2 * largest(1024)


def sizes(jaxpr):
    """Numbers in each array that a program makes."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)


@pytest.mark.slow
def test_variant_with_groups_norms_and_wrapping_ring_conforms():
    config = AttentionConfig(
        WIDTH, head_size=SIZE, kv_heads=2, window=11, qk_norm=True, chunk_size=8
    )
    check_cell("attention", config)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"head_size": 1}, "head_size must be even"),
        ({"head_size": 4, "kv_heads": 3}, "kv_heads=3 must divide the 4 heads"),
        ({"window": 0}, "window must be a positive integer"),
        ({"rope_base": 0.5}, "rope_base must be more than 1"),
        ({"dtype": "float16"}, "dtype must be one of"),
    ],
)
def test_invalid_configs_are_rejected(fields, message):
    with pytest.raises(UserError, match=message):
        AttentionConfig(WIDTH, **fields)
