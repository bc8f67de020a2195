"""What a cell or a model is given is checked, or it is used as it is meant."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels
from jaxmodels.cells import CELLS
from jaxmodels.errors import UserError

WIDTH = 16
MODELS = {
    "rwkv/4": {"width": 16, "num_layers": 2},
    "transformer": {"width": 16, "num_layers": 1},
    "stack/gru": {"width": 16, "num_layers": 1},
    "prernk": {
        "width": 8, "hidden_size": 8, "relation_size": 4, "symbol_slots": 2, "role_slots": 2,
        "abstraction_sizes": (8, 4),
    },
}  # fmt: skip


def cell_of(name):
    config, kind = CELLS[name]
    return kind(config(width=WIDTH), rngs=nnx.Rngs(0))


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


WRONG_RESETS = {
    "one for all tokens": jnp.zeros((2, 1), bool),
    "no batch": jnp.zeros((6,), bool),
    "one row": jnp.zeros((1, 6), bool),
    "a number": jnp.full((2, 6), 0.5),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_wrong_reset_is_refused(name):
    cell = cell_of(name)
    state, xs = cell.initial_state(2), noise(2, 6, WIDTH)
    for reset in WRONG_RESETS.values():
        for run in (cell, cell.scan):
            with pytest.raises(UserError, match=r"^reset must be bool \(2, 6\), got "):
                run(state, xs, reset)
            with pytest.raises(UserError, match=r"^reset must be bool"):
                jax.jit(run)(state, xs, reset)


@pytest.mark.parametrize("name", CELLS)
def test_wrong_tokens_and_states_are_refused(name):
    cell = cell_of(name)
    state, x = cell.initial_state(2), noise(2, WIDTH)
    for bad in (noise(2, 1), noise(2, WIDTH + 1), noise(WIDTH), noise(2, 3, WIDTH)):
        with pytest.raises(UserError, match=r"^x must have shape \(batch, 16\), got float32"):
            cell.step(state, bad)
    with pytest.raises(UserError, match=r"^x must be floating-point, got int32"):
        cell.step(state, jnp.zeros((2, WIDTH), jnp.int32))
    bfloat16 = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state)
    for run, xs in ((cell.step, x), (cell.scan, x[:, None]), (cell, x[:, None])):
        for bad in (cell.initial_state(1), cell.initial_state(3), bfloat16):
            with pytest.raises(UserError, match=r"^state.* must be float32 \(2, .*got "):
                run(bad, xs)
        with pytest.raises(UserError, match=r"^state must be what initial_state"):
            run((state, state), xs)


@pytest.mark.parametrize("name", ["gru", "rwkv4"])
def test_nothing_to_read_changes_nothing(name):
    """T = 0 or B = 0, as the last piece of a stream or an empty share of a batch.

    A promise of every cell, see `jaxmodels.testing`.
    """
    cell = cell_of(name)
    filled = jax.tree.map(lambda x: x + 1.0, cell.initial_state(2))
    y_width = jax.eval_shape(cell.step, filled, noise(2, WIDTH))[1].shape[-1]
    for run in (cell, cell.scan):
        reset = jnp.zeros((2, 0), bool)
        state, ys = run(filled, noise(2, 0, WIDTH), reset)
        chex.assert_trees_all_equal(state, filled)
        assert ys.shape == (2, 0, y_width)
        empty = cell.initial_state(0)
        state, ys = run(empty, noise(0, 5, WIDTH), jnp.zeros((0, 5), bool))
        chex.assert_trees_all_equal_shapes_and_dtypes(state, empty)
        assert ys.shape == (0, 5, y_width)
    state, y = cell.step(cell.initial_state(0), noise(0, WIDTH))
    assert y.shape == (0, y_width)


def test_gradients_of_nothing_are_those_of_the_state():
    cell = cell_of("rwkv4")
    state = jax.tree.map(lambda x: x + 1.0, cell.initial_state(2))

    def loss(cell, state):
        after, ys = cell(state, noise(2, 0, WIDTH))
        return after.shift.sum() + ys.sum()

    by_cell, by_state = jax.grad(loss, (0, 1))(cell, state)
    assert all(not np.any(x) for x in jax.tree.leaves(by_cell))
    assert np.all(by_state.shift == 1.0)


@pytest.mark.parametrize("name", ["attention", "mamba1"])
def test_arrays_of_the_host(name):
    """A state comes back from `jax.device_get` or a pickle as NumPy arrays."""
    cell, xs = cell_of(name), noise(2, 6, WIDTH)
    state = cell.initial_state(2)
    chex.assert_trees_all_equal(cell(jax.device_get(state), np.asarray(xs)), cell(state, xs))
    chex.assert_trees_all_equal(
        cell.step(jax.device_get(state), np.asarray(xs[:, 0])), cell.step(state, xs[:, 0])
    )


def test_further_arguments_are_checked():
    cell, xs = cell_of("mamba2"), noise(2, 6, WIDTH)
    state = cell.initial_state(2)
    with pytest.raises(UserError, match=r"^write must be floating \(2, 6\), got float32 \(2, 1\)"):
        cell(state, xs, write=jnp.ones((2, 1)))
    with pytest.raises(UserError, match=r"^lengths must be int \(2,\), got int32 \(3,\)"):
        cell(state, xs, lengths=jnp.array([1, 2, 3]))
    attention = cell_of("attention")
    with pytest.raises(UserError, match=r"^prefix must be bool \(2, 6\)"):
        attention(attention.initial_state(2), xs, prefix=jnp.ones((2, 1), bool))


@pytest.mark.parametrize("name", MODELS)
def test_models_check_tokens(name):
    model = jaxmodels.create(name, **MODELS[name], vocab_size=20)
    state, tokens = model.initial_state(2), jnp.zeros((2, 6), jnp.int32)
    for wrong, word in ((tokens.at[1, 2].set(300), "300"), (tokens.at[0, 0].set(-1), "-1")):
        message = rf"^tokens: id {word} is outside the vocabulary, 0 to 19$"
        with pytest.raises(UserError, match=message):
            model(state, wrong)
        with pytest.raises(UserError, match=f"^token: id {word} "):
            model.step(state, wrong[:, 2] if word == "300" else wrong[:, 0])
        # Compiled, nothing can be raised: no other token's embedding, but NaN.
        _, out = jax.jit(model)(state, wrong)
        row, at = (1, 2) if word == "300" else (0, 0)
        assert np.isnan(out.logits[row, at:]).all() and np.isfinite(out.logits[1 - row]).all()
    with pytest.raises(UserError, match=r"^tokens must be int \(batch, time\), got float32"):
        model(state, jnp.zeros((2, 6)))
    with pytest.raises(UserError, match=r"^reset must be bool \(2, 6\), got bool \(2, 1\)"):
        model(state, tokens, jnp.zeros((2, 1), bool))
    with pytest.raises(UserError, match=r"^state.*must be float32 \(2, "):
        model(model.initial_state(3), tokens)
    batch = {"inputs": tokens, "targets": tokens, "weights": jnp.ones((2, 6))}
    with pytest.raises(UserError, match=re.escape("batch['weights'] must be real (2, 6)")):
        model.loss_sums(state, batch | {"weights": jnp.ones((2, 1))})
    after, out = model(state, tokens[:, :0])
    chex.assert_trees_all_equal(after, state)
    assert out.logits.shape == (2, 0, 20)
