"""Cells under `jax.export`, and in a process with other settings of JAX."""

import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells import CELLS
from jaxmodels.errors import UserError

WIDTH = 16


def cell_of(name):
    config, kind = CELLS[name]
    return kind(config(width=WIDTH), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "name",
    ["mamba1", "rwkv7"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in CELLS if n not in ("mamba1", "rwkv7")],
)
def test_export_with_a_symbolic_batch_and_time(name):
    """The definition runs, since chunks need a number of tokens; with only the batch, the call."""
    cell, rng = cell_of(name), np.random.default_rng(0)
    state, batch, time = cell.initial_state(2), 2, 37
    xs = jnp.asarray(rng.standard_normal((batch, time, WIDTH)), jnp.float32)
    given, structure = jax.tree.flatten((state, xs, jnp.asarray(rng.random(xs.shape[:2]) < 0.1)))

    def run(*leaves):
        return jax.tree.leaves(cell(*structure.unflatten(leaves)))

    want = run(*given)
    for sizes in ("b, 37", "b, t"):
        b, t = jax.export.symbolic_shape(sizes)
        state, xs, reset = structure.unflatten(
            [jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype) for x in given]
        )
        leads = [jax.ShapeDtypeStruct((b, t, *x.shape[2:]), x.dtype) for x in (xs, reset)]
        exported = jax.export.export(jax.jit(run))(*jax.tree.leaves((state, leads)))
        chex.assert_trees_all_close(list(exported.call(*given)), want, rtol=1e-4, atol=1e-5)


def test_what_a_scan_cannot_take_is_named():
    cell = cell_of("mamba2")
    (t,) = jax.export.symbolic_shape("t")
    xs = jax.ShapeDtypeStruct((2, t, WIDTH), jnp.float32)
    with pytest.raises(UserError, match=r"^write: __call__ runs scan for a symbolic number of"):
        jax.eval_shape(lambda xs: cell(cell.initial_state(2), xs, write=xs[..., 0]), xs)


SETTINGS = """
import jax, jax.numpy as jnp
from flax import nnx
import jaxmodels
from jaxmodels.cells import CELLS

def check(name, *trees):
    for leaf in jax.tree.leaves(trees):
        assert leaf.dtype == jnp.float32 or not jnp.issubdtype(leaf.dtype, jnp.floating), (
            name, leaf.shape, leaf.dtype)

for name, (config, kind) in CELLS.items():
    cell = kind(config(width=16), rngs=nnx.Rngs(0))
    state, xs = cell.initial_state(2), jnp.ones((2, 5, 16), jnp.float32)
    reset = jnp.zeros((2, 5), bool)
    check(name, cell, state)
    for run in ("__call__", "scan"):
        traced = jax.eval_shape(lambda cell: getattr(cell, run)(state, xs, reset), cell)
        check(name, traced)
        loss = lambda cell: sum(map(jnp.sum, jax.tree.leaves(getattr(cell, run)(state, xs, reset))))
        check(name, jax.eval_shape(jax.grad(loss), cell))
    check(name, jax.eval_shape(lambda cell: cell.step(state, xs[:, 0]), cell))
SMALL = {"width": 16, "vocab_size": 20, "num_layers": 2}
UNIFIED = {"width": 16, "vocab_size": 20, "hidden_size": 16, "abstraction_sizes": (16, 4)}
RNK = {"width": 16, "hidden_size": 16, "num_layers": 1}
names = "rwkv/4 rwkv/6 rwkv/7 mamba/1 mamba/2 transformer stack groundthink".split()
MODELS = dict.fromkeys(names, SMALL) | {"prernk": UNIFIED, "rnk": RNK}
for name, fields in MODELS.items():
    model = jaxmodels.create(name, **fields)
    state, tokens = model.initial_state(2), jnp.zeros((2, 12), jnp.int32)
    batch = {"inputs": tokens, "targets": tokens, "weights": jnp.ones((2, 12), jnp.float32)}
    check(name, model, state)
    loss = lambda model: sum(model.loss_sums(state, batch)[1].values())
    check(name, jax.eval_shape(jax.grad(loss), model))
print("all float32")
"""


@pytest.mark.parametrize("name", CELLS)
def test_float32_under_other_defaults(name):
    """Traced only; the processes below differentiate, and take models as well."""
    for setting in (jax.enable_x64(True), jax.numpy_dtype_promotion("strict")):
        with setting:
            cell = cell_of(name)
            state, xs = cell.initial_state(2), jnp.ones((2, 5, WIDTH), jnp.float32)
            made = cell, state, jax.eval_shape(cell, state, xs, jnp.zeros((2, 5), bool))
            kinds = {leaf.dtype for leaf in jax.tree.leaves(made)}
            assert kinds == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["JAX_ENABLE_X64=1", "JAX_NUMPY_DTYPE_PROMOTION=strict"])
def test_float32_whatever_the_defaults_are(setting):
    name, value = setting.split("=")
    command = [sys.executable, "-c", SETTINGS]
    run = subprocess.run(command, env=os.environ | {name: value}, capture_output=True, text=True)
    assert run.stdout == "all float32\n", run.stderr[-2000:]
