"""The unified cell against float64 NumPy: values, and gradients by differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels
from jaxmodels.cells.unified import UnifiedCell, UnifiedConfig
from jaxmodels.testing.lab import names, quick_jit
from tests.cells import unified_numpy

BATCH, TIME = 2, 7
SIZES = {"hidden_size": 10, "symbol_slots": 4, "role_slots": 3, "relation_size": 6}
VARIANTS = {
    "default": {},
    "rwkv4": {"core": "rwkv4"},
    "lower_triangular": {"gating": "lower_triangular", "activation": "silu"},
    "diagonal": {"gating": "diagonal"},
    "attention pooling": {"pooling": "attention"},
    "double softmax": {"double_softmax": True, "activation": "relu"},
    "as written": {
        "gating": "diagonal",
        "double_softmax": True,
        "topdown": False,
        "exact_gelu": True,
    },
    "debug": {"debug_mode": True},
    "one level, rwkv4": {"abstraction_sizes": (10,), "core": "rwkv4", "topdown": False},
}
# float32 against float64, relative to the largest entry: rounding of 6e-8 through the four
# LayerNorms of each of 7 tokens; the norm over 6 entries multiplies it by 1 / its deviation.
VALUES = 2e-5
# The same, backwards; and the differences themselves are good to 1e-7.
SLOPES = 1e-3


@functools.cache
def setting(variant):
    """(cell with every parameter off its initial value, warm state, inputs, resets)."""
    config = UnifiedConfig(
        5, **dict({"abstraction_sizes": (10, 6, 3)}, **SIZES, **VARIANTS[variant])
    )
    rng = np.random.default_rng(0)

    @quick_jit
    def make(noise):
        cell = UnifiedCell(config, rngs=nnx.Rngs(0))
        return jax.tree.map(lambda p, n: p + 0.2 * n, cell, noise)

    shapes = jax.eval_shape(lambda: UnifiedCell(config, rngs=nnx.Rngs(0)))
    cell = make(jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes))
    xs = rng.standard_normal((BATCH, 9, 5)).astype(np.float32)
    warm, _ = quick_jit(lambda cell, xs: cell.scan(cell.initial_state(BATCH), xs))(cell, xs)
    reset = np.zeros((BATCH, TIME), bool)
    reset[0, 3] = reset[1, 0] = True
    return cell, warm, xs[:, :TIME] + 0.5, reset


def parameters(cell):
    return {
        name: np.asarray(leaf, np.float64)
        for name, leaf in zip(names(cell), jax.tree.leaves(cell), strict=True)
    }


def assert_close(got, want):
    for name in want:
        if name == "abstractions":
            assert_close(dict(enumerate(got[name])), dict(enumerate(want[name])))
        else:
            error = np.abs(got[name] - want[name]).max() / max(np.abs(want[name]).max(), 1e-6)
            assert error < VALUES, f"{name}: {error:.1e}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_values(variant):
    """P-06 to P-08: scan and the fused form, from a warm state, with resets."""
    cell, state, xs, reset = setting(variant)
    run = quick_jit(lambda *args: (cell.scan(*args), cell(*args)))
    last, ys, _ = unified_numpy.run(
        cell.config, parameters(cell), unified_numpy.from_jax(state), xs, reset
    )
    for got, got_ys in run(state, xs, reset):
        assert_close({"ys": np.asarray(got_ys)}, {"ys": ys})
        assert_close(unified_numpy.from_jax(got), last)


def test_exact_gelu_equals_source():
    """torch's nn.GELU is x Phi(x): 0.8413447 at 1, where the tanh form has 0.8411920."""
    assert jaxmodels.make_config("prernk/as_written").exact_gelu
    closed, one = jnp.full((1, 10), -100.0), jnp.ones((1, 10))
    zeros = jnp.zeros((1, 10))
    for exact, want in ((True, 0.8413447), (False, 0.8411920)):
        cell = UnifiedCell(UnifiedConfig(4, **SIZES, exact_gelu=exact), rngs=nnx.Rngs(0))
        found = cell.reduce.layers[0].gate(jnp.concatenate([closed, closed, one], -1), zeros)
        np.testing.assert_allclose(found, want, rtol=3e-7)
        found, _, _ = cell.rwkv.gate(
            jnp.concatenate([closed, -closed, one], -1), zeros, zeros, None
        )
        mix = jax.nn.sigmoid(cell.rwkv.mix_logit[...])[None]
        np.testing.assert_allclose(found / mix, want, rtol=3e-7)


@pytest.mark.parametrize("variant", ["default", "rwkv4", "attention pooling", "as written"])
def test_gradients(variant):
    """Fused gradients, per parameter, against finite differences of the float64 reference."""
    cell, state, xs, reset = setting(variant)
    rng = np.random.default_rng(1)
    mix_ys = rng.standard_normal((BATCH, TIME, cell.config.hidden_size))
    mix_relations = rng.standard_normal(state.relations.shape)

    def loss(cell):
        last, ys = cell(state, xs, reset)
        top = last.abstractions[-1]
        parts = (ys * jnp.float32(mix_ys), last.relations * jnp.float32(mix_relations), top**3)
        return sum(part.sum() for part in parts)

    def loss_in_numpy(p):
        start = unified_numpy.from_jax(state)
        last, ys, _ = unified_numpy.run(cell.config, p, start, xs.astype(np.float64), reset)
        top = last["abstractions"][-1]
        return (ys * mix_ys).sum() + (last["relations"] * mix_relations).sum() + (top**3).sum()

    gradient = parameters(quick_jit(jax.grad(loss))(cell))
    known = parameters(cell)
    # A direction's slope is a sum with cancellation: measured against the gradient's length.
    for name, value in known.items():
        direction = rng.standard_normal(value.shape)
        direction /= np.linalg.norm(direction)
        up, down = (
            loss_in_numpy(dict(known, **{name: value + step * direction})) for step in (1e-5, -1e-5)
        )
        slope = (gradient[name] * direction).sum()
        length = max(np.linalg.norm(gradient[name]), 1e-3)
        assert abs((up - down) / 2e-5 - slope) < SLOPES * length, name


def test_debug_equals_reference():
    """P-10: h_mid and context token by token."""
    cell, state, xs, reset = setting("debug")
    _, _, inner = quick_jit(lambda *args: cell.debug(*args))(state, xs, reset)
    start = unified_numpy.from_jax(state)
    _, _, want = unified_numpy.run(cell.config, parameters(cell), start, xs, reset)
    for name in ("h_mid", "context"):
        values = np.stack([token[name] for token in want], 1)
        assert_close({name: np.asarray(inner[name])}, {name: values})
