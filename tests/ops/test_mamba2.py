"""One-loop implementation of the Mamba-2 mixer against the default XLA implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.mamba2 import Mamba2Cell, Mamba2Config
from jaxmodels.errors import UserError
from jaxmodels.ops.mamba2 import mamba2_mixer
from jaxmodels.testing.lab import quick_jit, shaken

BATCH, WIDTH, CHUNK = 3, 8, 16
ROUNDING = 1e-5  # float32, sums of some hundred terms


def make(time, seed=0, **fields):
    """Return (cell, warm state, tokens, resets at and around chunk boundaries)."""
    fields = {"head_size": 4, "state_size": 6, "chunk_size": CHUNK} | fields
    cell = shaken(Mamba2Cell(Mamba2Config(WIDTH, **fields), rngs=nnx.Rngs(seed)), seed)
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    state = jax.tree.map(lambda x: normal(*x.shape), cell.initial_state(BATCH))
    reset = rng.random((BATCH, time)) < 0.05
    places = np.array([1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 2])
    reset[0, places[places < time]] = True
    reset[1, :1] = True
    return cell, state, normal(BATCH, time, WIDTH), reset


def call(implementation, cell, state, xs, reset, write=None):
    """Call the cell with this implementation of the mixer."""
    c = cell.config
    options = {"chunk_size": c.chunk_size, "norm_eps": c.norm_eps, "norm_groups": c.norm_groups}
    return mamba2_mixer(
        (state.conv, state.ssm), cell._project(xs), cell._vectors(), cell._read_out, reset, write,
        **options, dtype=c.dtype, implementation=implementation,
    )  # fmt: skip


def run(implementation, cell, state, xs, reset):
    """(outputs, gradients of cell, state and xs) for random cotangents."""

    def forward(cell, state, xs):
        return call(implementation, cell, state, xs, reset)

    def both(*arguments):
        out, back = jax.vjp(forward, *arguments)
        rng = np.random.default_rng(1)
        cotangents = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), out)
        return out, back(cotangents)

    return jax.device_get(quick_jit(both)(cell, state, xs))


def agree(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        assert np.abs(g - w).max() < ROUNDING * max(np.abs(w).max(), 1e-3)


@pytest.mark.parametrize("time", [1, 2, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_values_and_gradients(time):
    arguments = make(time)
    agree(run("xla_loop", *arguments), run("xla", *arguments))


def test_one_head_and_no_resets():
    cell, state, xs, _ = make(2 * CHUNK + 1, head_size=16)
    agree(run("xla_loop", cell, state, xs, None), run("xla", cell, state, xs, None))


def test_mixed_decays():
    """Weak and total decays together: small sums are accurate after large ones."""
    cell, *arguments = make(2 * CHUNK)
    cell.A_log[...] = jnp.log(jnp.array([1e-4, 1.0, 30.0, 1e4]))
    agree(run("xla_loop", cell, *arguments), run("xla", cell, *arguments))


def test_documents_are_isolated():
    """Bit for bit: nothing from before a reset, NaN in the state included, nor from the future."""
    cell, state, xs, reset = make(2 * CHUNK + 5)
    place = CHUNK + 7
    reset[:, place] = True

    def forward(state, xs):
        return call("xla_loop", cell, state, xs, reset)

    forward = quick_jit(forward)
    after, y = jax.device_get(forward(state, xs))
    other = np.concatenate([make(place, seed=1)[2], xs[:, place:]], 1)
    lost = jax.tree.map(lambda x: np.full_like(x, np.nan), state)
    after_other, y_other = jax.device_get(forward(lost, other))
    assert np.array_equal(y[:, place:], y_other[:, place:])
    for x, x_other in zip(jax.tree.leaves(after), jax.tree.leaves(after_other), strict=True):
        assert np.isfinite(x).all() and np.array_equal(x, x_other)
    later = xs.copy()
    later[:, place - 2 :] = 0.0
    assert np.array_equal(forward(state, later)[1][:, : place - 2], y[:, : place - 2])


@pytest.mark.parametrize(
    ("implementation", "needs"), [("xla_loop", "groups and norm_groups 1"), ("pallas", "groups 1")]
)
def test_groups_are_rejected(implementation, needs):
    with pytest.raises(UserError, match=f"implementation=.{implementation}. needs {needs}"):
        call(implementation, *make(2, groups=2))


def test_xla_loop_rejects_write_gate():
    cell, state, xs, reset = make(2)
    with pytest.raises(UserError, match="takes no `write`"):
        call("xla_loop", cell, state, xs, reset, write=xs[..., 0])
