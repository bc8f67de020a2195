"""Rows of different lengths in one call equal each row alone: values, states and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.mamba1 import Mamba1Cell, Mamba1Config
from jaxmodels.cells.mamba2 import Mamba2Cell, Mamba2Config
from jaxmodels.testing.lab import quick_jit, shaken

WIDTH, TIME = 16, 13
LENGTHS = np.array([13, 0, 1, 2, 7], np.int32)
CELLS = {
    "mamba1": (Mamba1Cell, Mamba1Config(WIDTH, state_size=4, chunk_size=4)),
    "mamba2": (Mamba2Cell, Mamba2Config(WIDTH, state_size=4, chunk_size=4, head_size=8)),
}


@pytest.mark.parametrize("name", CELLS)
def test_ragged_rows_equal_the_rows_alone(name):
    cell_class, config = CELLS[name]
    cell = shaken(cell_class(config, rngs=nnx.Rngs(0)), 0)
    rng = np.random.default_rng(0)
    batch = len(LENGTHS)
    xs = rng.normal(size=(batch, TIME, WIDTH)).astype(np.float32)
    reset = rng.random((batch, TIME)) < 0.15
    weights = rng.normal(size=(batch, TIME, WIDTH)).astype(np.float32)
    weights *= (np.arange(TIME)[None] < LENGTHS[:, None])[..., None]
    state, _ = cell(cell.initial_state(batch), jnp.asarray(xs[:, ::-1]))  # not the initial one

    def loss(run):
        def value(cell, state, xs):
            last, ys = run(cell, state, xs)
            return jnp.sum(weights * ys) + sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(last))

        return quick_jit(jax.value_and_grad(value, (0, 1, 2)))

    def ragged(cell, state, xs):
        return cell(state, xs, reset, lengths=LENGTHS)

    def alone(cell, state, xs):
        lasts, ys = [], []
        for row, length in enumerate(LENGTHS):
            last, y = jax.tree.map(lambda x, row=row: x[row : row + 1], state), xs[:1, :0]
            if length:
                part = slice(row, row + 1), slice(0, int(length))
                last, y = cell.scan(last, xs[part], reset[part])
            lasts.append(last)
            ys.append(jnp.pad(y, [(0, 0), (0, TIME - int(length)), (0, 0)]))
        return jax.tree.map(lambda *x: jnp.concatenate(x), *lasts), jnp.concatenate(ys)

    got, want = (loss(run)(cell, state, xs) for run in (ragged, alone))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5 * max(1.0, float(jnp.abs(b).max())))
