"""GroundThink V3's time mixing against float64 NumPy, repaired and as written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.grounded_gla import GroundedGLACell, GroundedGLAConfig
from jaxmodels.errors import UserError
from jaxmodels.testing.lab import quick_jit, shaken

BATCH, TIME, C, N = 2, 21, 16, 8
RNG = np.random.default_rng(0)
XS = RNG.standard_normal((BATCH, TIME, C)).astype(np.float32)
AS_WRITTEN = {"decay_sign": "inverted", "grounding": False}


def make(**changes):
    return GroundedGLACell(GroundedGLAConfig(C, head_size=N, **changes), rngs=nnx.Rngs(0))


def reference(cell, state, xs, reset):
    """Compute the equations of `grounded_gla.py`, token by token, in float64."""
    c = cell.config
    p = {
        name: np.asarray(getattr(cell, name)[...], np.float64)
        for name in ("gate", "decay", "base_decay", "conv_taps", "grounding_scale")
    }
    kernels = {
        name: np.asarray(getattr(cell, name).kernel[...], np.float64)
        for name in ("receptance", "key", "value", "output")
    }
    initial = jax.tree.map(np.asarray, cell.initial_state(BATCH))
    conv, gla = (np.array(z, np.float64) for z in (state.conv, state.gla))
    clock, ys = np.zeros(BATCH), []
    for t in range(xs.shape[1]):
        x = xs[:, t].astype(np.float64)
        again = reset[:, t]
        conv, gla = np.where(again[:, None, None], 0.0, conv), gla.copy()
        gla[again], clock[again] = initial.gla[again], 0.0
        window = np.concatenate([conv, x[:, None]], 1)
        local = (window * p["conv_taps"].T).sum(1)
        conv = window[:, 1:]
        kept = c.alpha * np.exp(-p["base_decay"]) + (1 - c.alpha) * np.exp(-np.exp(x @ p["decay"]))
        kept = np.clip(kept, 0.01, 0.99)
        kept = kept if c.decay_sign == "correct" else 1.0 - kept + 1e-6
        rho = np.exp(np.log(kept).reshape(BATCH, -1, N).mean(-1))
        read = x + 0.1 * p["grounding_scale"] * local if c.grounding else x
        r = 1.0 / (1.0 + np.exp(-(read @ kernels["receptance"])))
        g = 1.0 / (1.0 + np.exp(-(x @ p["gate"] if not c.grounding else read @ p["gate"])))
        r, k, v = (
            z.reshape(BATCH, -1, N) for z in (r, read @ kernels["key"], read @ kernels["value"])
        )
        gla = rho[..., None, None] * gla + k[..., None] * v[..., None, :]
        y = np.einsum("bhk,bhkv->bhv", r / np.sqrt(N), gla).reshape(BATCH, -1)
        ys.append((g * y) @ kernels["output"])
        if c.state_norm != "none":
            clock += 1
            due = clock % c.norm_every == 0 if c.state_norm == "boundary" else clock > 0
            parts = gla.reshape(BATCH, -1, c.state_groups or N, N * N // (c.state_groups or N))
            unit = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + 1e-5)
            unit = unit.reshape(gla.shape)
            if c.state_groups:
                unit = unit * np.asarray(cell.state_gain[...]).reshape(N, N)
            gla = np.where(due[:, None, None, None], unit, gla)
    return gla, np.stack(ys, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        AS_WRITTEN,
        {"state_norm": "per_token", "state_groups": 0},
        AS_WRITTEN | {"state_norm": "boundary", "norm_every": 5, "learn_initial_state": True},
    ],
    ids=("repaired", "as written", "v0.2.0's norm", "V3's norm"),
)
def test_against_numpy(changes):
    cell = shaken(make(chunk_size=8, **changes), 0)
    reset = RNG.random((BATCH, TIME)) < 0.15
    warm = cell.initial_state(BATCH)
    warm = warm.replace(gla=warm.gla + 0.3, conv=warm.conv + 0.2)
    state, ys = quick_jit(lambda cell, *args: cell(*args))(cell, warm, XS, reset)
    want_state, want = reference(cell, warm, XS, reset)
    np.testing.assert_allclose(ys, want, atol=2e-5 * np.abs(want).max())
    np.testing.assert_allclose(state.gla, want_state, atol=2e-5 * np.abs(want_state).max())


def test_initial_retention():
    """As written 0.253 per token, 2.8e-10 after sixteen; repaired 0.747."""
    written, repaired = make(**AS_WRITTEN), make()
    np.testing.assert_allclose(written.retention(jnp.asarray(XS)), 0.2529, atol=1e-4)
    np.testing.assert_allclose(repaired.retention(jnp.asarray(XS)), 0.7471, atol=1e-4)
    assert 2.7e-10 < 0.25285**16 < 2.9e-10
    older = make(base_decay=1.0, **AS_WRITTEN)  # v0.2.0
    np.testing.assert_allclose(older.retention(jnp.asarray(XS)), 0.632, atol=1e-3)


@pytest.mark.parametrize("grounding", (True, False))
def test_convolution_has_gradient_only_with_grounding(grounding):
    cell = shaken(make(grounding=grounding), 0)
    grads = jax.grad(lambda cell: (cell(cell.initial_state(BATCH), XS)[1] ** 2).sum())(cell)
    for name in ("conv_taps", "grounding_scale"):
        assert (np.abs(getattr(grads, name)[...]).max() > 0.0) == grounding


def test_learned_initial_state_has_gradient_after_reset():
    cell = make(learn_initial_state=True)
    reset = np.zeros((BATCH, TIME), bool)
    reset[:, 3] = True

    def loss(cell, reset):
        state = jax.tree.map(jnp.zeros_like, make(learn_initial_state=True).initial_state(BATCH))
        return (cell(state, XS, reset)[1] ** 2).sum()

    grad = quick_jit(jax.grad(loss))
    assert np.abs(grad(cell, reset).h0[...]).max() > 0.0
    assert np.abs(grad(cell, np.zeros_like(reset)).h0[...]).max() == 0.0


def test_invalid_configs_are_rejected():
    with pytest.raises(UserError, match=r"state_groups=5 must divide head_size\^2 = 64"):
        make(state_groups=5)
    with pytest.raises(UserError, match="decay_sign must be one of correct, inverted"):
        make(decay_sign="other")
