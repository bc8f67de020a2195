"""HRM recurrence: values in float64 NumPy, truncated gradients, masks, memory; TRM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.hrm import (
    HRM,
    HRMConfig,
    HRMState,
    call_schedule,
    calls_with_gradient,
)
from jaxmodels.errors import UserError
from jaxmodels.ops.masked_attention import masked_attention
from jaxmodels.testing.lab import quick_jit

B, T, C = 2, 5, 8
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((B, T, C)), jnp.float32)
START = HRMState(*jnp.asarray(RNG.standard_normal((2, B, T, C)), jnp.float32))
MASK = np.ones((B, T, T), bool)
MASK[1, :, 3:] = False
POSITIONS = np.tile(np.arange(T), (B, 1))


def make(**changes):
    small = {"head_size": 4, "high_layers": 1, "low_layers": 2, "mlp_multiple": 4}
    return HRM(HRMConfig(C, **small | changes), rngs=nnx.Rngs(0))


think = quick_jit(lambda cell, *args: cell.think(*args))


def reference(cell, state, x, mask):
    """Compute the equations of HRM and HRM-Text in float64."""
    c = cell.config

    def rms(z):
        return z / np.sqrt((z * z).mean(-1, keepdims=True) + c.norm_eps)

    def sigmoid(z):
        return 1.0 / (1.0 + np.exp(-z))

    def turned(z):
        half = c.head_size // 2
        angle = np.arange(T)[:, None] * c.rope_base ** (-np.arange(half) / half)
        cos, sin = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
        a, b = z[..., :half], z[..., half:]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def attend(h, qkv, output):
        parts = np.split(h @ qkv, 4 if c.head_gate else 3, -1)
        q, k, v = (p.reshape(B, T, -1, c.head_size) for p in parts[-3:])
        scores = np.einsum("btnd,bsnd->bnts", turned(q), turned(k)) / np.sqrt(c.head_size)
        scores = np.where(mask[:, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("bnts,bsnd->btnd", weights, v).reshape(B, T, C)
        return (sigmoid(parts[0]) * y if c.head_gate else y) @ output

    def mlp(h, up, down):
        gate, value = np.split(h @ up, 2, -1)
        return (gate * sigmoid(gate) * value) @ down

    def net(f, z):
        mixer = ("mix_up", "mix_down") if c.mixer == "tokens" else ("qkv", "output")
        kernels = [
            np.asarray(getattr(f.blocks, name).kernel[...], np.float64)
            for name in (*mixer, "up", "down")
        ]
        for qkv, output, up, down in zip(*kernels, strict=True):
            if c.mixer == "tokens":
                across = z.transpose(0, 2, 1)
                z = rms(across + mlp(across, qkv, output)).transpose(0, 2, 1)
                z = rms(z + mlp(z, up, down))
            elif c.norm == "post":
                z = rms(z + attend(z, qkv, output))
                z = rms(z + mlp(z, up, down))
            else:
                z = z + attend(rms(z), qkv, output)
                z = z + mlp(rms(z), up, down)
        return rms(z) if c.norm == "pre" else z

    x, high, low = (np.asarray(z, np.float64) for z in (x, state.high, state.low))
    for _ in range(c.high_cycles):
        for _ in range(c.low_cycles):
            low = net(cell.low, low + high + (x if c.inject else 0.0))
        high = net(cell.low if c.shared else cell.high, high + low)
    return high, low


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "pre", "head_gate": True, "inject": False, "high_cycles": 3, "grad_calls": 5},
        {"shared": True, "low_layers": 1, "low_cycles": 3, "grad_calls": 4},
        {"shared": True, "low_layers": 1, "grad_calls": 3, "mixer": "tokens", "seq_len": T},
    ],
    ids=("hrm", "hrm-text", "trm", "trm, mlp_t"),
)
def test_against_numpy(changes):
    cell = make(**changes)
    state = think(cell, START, X, MASK, POSITIONS)
    high, low = reference(cell, START, X, MASK)
    np.testing.assert_allclose(state.high, high, atol=2e-5)
    np.testing.assert_allclose(state.low, low, atol=2e-5)


def by_hand(cell, start, x, counts):
    """Run all calls in sequence, with gradients only through those flagged in `counts`."""
    state, stop = start, jax.lax.stop_gradient
    for name, count in zip(call_schedule(cell.config), counts, strict=True):
        used, given = (cell, x) if count else (stop(cell), stop(x))
        after = used._call(name, state, given, MASK, POSITIONS)
        state = jax.tree.map(
            lambda a, b, count=count: a if count or a is b else stop(a), after, state
        )
    return state


def gradients(run, cell):
    def loss(cell, start, x):
        return jnp.sum(run(cell, start, x).high * X[::-1]) + jnp.sum(run(cell, start, x).low * X)

    return quick_jit(jax.grad(loss, (0, 1, 2)))(cell, START, X)


def assert_same(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-6 + 1e-5 * np.abs(w).max())


def test_one_step_gradient_covers_last_two_calls():
    """docs/systems.md L-02: exactly the last two calls; the initial state has no gradient."""
    cell = make(high_cycles=3)
    got = gradients(lambda *a: a[0].think(*a[1:], MASK, POSITIONS), cell)
    assert_same(got, gradients(lambda *a: by_hand(*a, [False] * 7 + [True] * 2), cell))
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(got[1]))
    more = gradients(lambda *a: by_hand(*a, [False] * 6 + [True] * 3), cell)
    assert (
        np.abs(got[0].low.blocks.qkv.kernel[...] - more[0].low.blocks.qkv.kernel[...]).max() > 1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("rule", ("last", "per_module"))
def test_gradient_calls_may_be_traced(rule):
    """K = 2..5 in one program, as for the warm-up of HRM-Text."""
    shape = {"low_cycles": 3, "grad_calls": 5, "grad_rule": rule, "norm": "pre", "inject": False}
    cell = make(**shape)
    wants = {
        "last": ["00000011", "00000111", "00001111", "00011111"],
        # The last min(2, K - 1) calls of H, and the last calls of L, K in total.
        "per_module": ["00000011", "00010011", "00010111", "00011111"],
    }[rule]
    late = quick_jit(
        jax.grad(lambda cell, k: jnp.sum(cell.think(START, X, MASK, POSITIONS, k).high * X))
    )
    for k, want in zip((2, 3, 4, 5), wants, strict=True):
        counts = [flag == "1" for flag in want]
        assert calls_with_gradient(cell.config, k) == counts
        by_hand_grad = quick_jit(
            jax.grad(lambda cell, counts=counts: jnp.sum(by_hand(cell, START, X, counts).high * X))
        )
        assert_same(late(cell, jnp.int32(k)), by_hand_grad(cell))


def test_memory_is_independent_of_cycles():
    """The compiled gradient uses as much memory at 12 cycles as at 2."""

    def size(cycles):
        cell = make(high_cycles=cycles)
        grad = jax.jit(
            jax.grad(lambda cell, x: jnp.sum(cell.think(START, x, MASK, POSITIONS).high))
        )
        return grad.lower(cell, X).compile().memory_analysis().temp_size_in_bytes

    assert size(12) < 1.05 * size(2)


def test_remat_saves_memory_and_keeps_gradient():
    def compiled(remat):
        cell = make(remat=remat, low_layers=6)
        grad = jax.jit(
            jax.grad(lambda cell, x: jnp.sum(cell.think(START, x, MASK, POSITIONS).high ** 3))
        )
        made = grad.lower(cell, X).compile()
        return made(cell, X), made.memory_analysis().temp_size_in_bytes

    (kept, size), (again, less) = compiled(False), compiled(True)
    assert_same(again, kept)
    assert less < size


def test_masked_keys_have_no_effect():
    cell = make()
    other = X.at[1, 3:].set(jnp.nan)
    start = jax.tree.map(lambda z: z.at[1, 3:].set(jnp.nan), START)
    a, b = (think(cell, s, x, MASK, POSITIONS).high for s, x in ((START, X), (start, other)))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1, :3], b[1, :3])  # of the row with masked keys
    assert np.isnan(np.asarray(b[1, 3:])).all()


@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_a_key_reaches_only_those_who_see_it(value):
    """Also if other queries see it: no product of weight 0 and NaN. Gradients stay finite."""
    q, k, v = jnp.asarray(RNG.standard_normal((3, 1, T, 2, 4)), jnp.float32)
    causal = np.tril(np.ones((1, T, T), bool))

    def attend(v):
        return masked_attention(q, k, v, causal, jnp.float32)

    clean, broken = attend(v), attend(v.at[:, 3, 0, 1].set(value))
    np.testing.assert_array_equal(broken[:, :3], clean[:, :3])
    np.testing.assert_array_equal(broken[:, 3:, 1], clean[:, 3:, 1])  # the other head
    assert not np.isfinite(np.asarray(broken[:, 3:, 0])).any()
    early = jax.grad(lambda v: attend(v)[:, :3].sum())
    np.testing.assert_array_equal(early(v.at[:, 3, 0, 1].set(value)), early(v))


def test_fully_masked_row_is_zero_with_finite_gradient():
    q = jnp.ones((1, 2, 1, 4))
    mask = np.array([[[True, True], [False, False]]])

    def attend(q):
        return masked_attention(q, q, q, mask, jnp.float32)

    assert np.array_equal(attend(q)[0, 1], np.zeros((1, 4)))
    assert np.isfinite(jax.grad(lambda q: attend(q).sum())(q)).all()


def test_rows_that_tokens_are_not_mixed_in_are_refused():
    cell = make(mixer="tokens", seq_len=T + 1)
    with pytest.raises(UserError, match="mixes 6 positions, got 5; give whole rows"):
        cell.think(START, X, MASK, POSITIONS)


def test_hrm_parameter_count():
    """HRM for Sudoku has 27,275,266 parameters, with its embedding and heads."""
    config = HRMConfig(512)
    assert config.mlp_size == 1536
    cell = jax.eval_shape(lambda: HRM(config, rngs=nnx.Rngs(0)))
    core = sum(leaf.size for leaf in jax.tree.leaves(cell))
    # Besides: the tokens' table 11 x 512, the head 512 x 11, the Q-head 512 x 2 + 2.
    assert core + 2 * 11 * 512 + 2 * 512 + 2 == 27_275_266


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grad_calls": 7}, r"grad_calls must lie in 2\.\.6"),
        ({"shared": True}, "shared: requires low_layers and high_layers to be equal"),
        ({"norm": "none"}, "norm must be one of post, pre"),
        ({"head_size": 1}, "head_size must be even"),
        ({"mixer": "tokens", "seq_len": -3}, "seq_len must be a positive integer"),
    ],
)
def test_invalid_configs_are_rejected(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)
