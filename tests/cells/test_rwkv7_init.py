"""Initialization of RWKV-7 as in RWKV-LM, and its value residual."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.base import where_reset
from jaxmodels.cells.rwkv7 import RWKV7Cell, RWKV7Config
from jaxmodels.ops.common.token_shift import token_shift
from jaxmodels.testing.lab import names, quick_jit, shaken

C, N, LAYER, LAYERS = 128, 32, 1, 4
RHO, R01 = 1.0 - LAYER / LAYERS, LAYER / (LAYERS - 1)
i = np.arange(C)
lin = i / (C - 1) - 0.5
z = (i % N - (N - 1) / 2) / ((N - 1) / 2)
zz = z * np.abs(z)


@pytest.fixture(scope="module")
def cell():
    config = RWKV7Config(C, head_size=N, value_residual=True)
    return RWKV7Cell(config, rngs=nnx.Rngs(0), layer=LAYER, num_layers=LAYERS)


def same(parameter, want):
    np.testing.assert_allclose(parameter[...], np.broadcast_to(want, parameter.shape), atol=2e-6)


def test_vector_initialisation(cell):
    for row, power in zip(cell.mix[...], (0.2, 0.9, 0.7, 0.7, 0.9, 0.2), strict=True):  # rwkvag
        np.testing.assert_allclose(row, 1.0 - (i / C) ** (power * RHO), atol=2e-6)
    same(cell.decay.bias, -6.0 + 6.0 * (i / (C - 1)) ** (1.0 + R01**0.3) + 0.5 + 2.5 * zz)
    same(cell.rate.bias, -0.19 + 0.3 * zz + 0.4 * lin)
    same(cell.residual.bias, 0.73 - 0.4 * lin)
    same(cell.removal_scale, 0.71 - 0.1 * lin)
    same(cell.key_scale, 1.02)
    same(cell.bonus, -0.04)
    same(cell.norm_scale, ((LAYER + 1) / LAYERS) ** 0.7)
    same(cell.norm_bias, 0.0)
    assert cell.gate.bias is None


def test_matrix_initialisation(cell):
    for linear, bound in (
        (cell.receptance, 0.5 / C**0.5), (cell.value, 0.5 / C**0.5), (cell.key, 0.05 / C**0.5)
    ):  # fmt: skip
        kernel = np.asarray(linear.kernel[...])
        assert 0.99 * bound < np.abs(kernel).max() < bound  # 16,384 draws
        assert abs(kernel.std() * 3**0.5 / bound - 1.0) < 0.02
        assert abs(kernel.mean()) < 0.02 * bound
    assert not np.any(cell.output.kernel[...])


def test_low_rank_initialisation(cell):
    assert cell.config.ranks == (32, 32, 32, 64)  # max(32, 32 round(f sqrt(128) / 32))
    assert RWKV7Config(2048).ranks == (128, 128, 64, 224)
    maps = (cell.decay, cell.rate, cell.residual, cell.gate)
    for layer, rank in zip(maps, cell.config.ranks, strict=True):
        assert layer.down.shape == (C, rank) and not np.any(layer.down[...])
        up = np.asarray(layer.up[...])
        np.testing.assert_allclose(up @ up.T, 0.01 * np.eye(rank), atol=1e-6)


def test_the_first_layer_has_no_value_before_it_to_mix_in(cell):
    first = RWKV7Cell(RWKV7Config(C, head_size=N), rngs=nnx.Rngs(0), num_layers=LAYERS)
    assert set(names(cell)) - set(names(first)) == {f"residual.{n}" for n in ("bias", "down", "up")}


def test_initial_output_is_zero(cell):
    xs = np.random.default_rng(0).standard_normal((2, 5, C), np.float32)
    run = quick_jit(lambda cell, xs: cell(cell.initial_state(2), xs, None, None, xs))
    _, ys = run(cell, xs)
    assert not np.any(ys)


@pytest.fixture(scope="module")
def mixing():
    """A small cell with the residual, noise in place of zeros, and its inputs."""
    config = RWKV7Config(16, head_size=8, ranks=(4,) * 4, value_residual=True, chunk_size=8)
    cell = shaken(RWKV7Cell(config, rngs=nnx.Rngs(0), layer=1, num_layers=2), 0)
    xs, v_first = np.random.default_rng(0).standard_normal((2, 2, 19, 16), np.float32)
    reset = np.zeros((2, 19), bool)
    reset[0, 9] = reset[1, [0, 8]] = True
    return cell, cell.initial_state(2), xs, reset, v_first


def test_value_residual_in_every_implementation(mixing):
    """Values, and gradients, the one to the first layer's values included."""
    cell, state, xs, reset, v_first = mixing
    weights = np.random.default_rng(1).standard_normal(xs.shape, np.float32)

    def loss(form, cell, xs, v_first):
        last, ys = form(cell, state, xs, reset, None, v_first)
        return jnp.sum(weights * ys) + jnp.sum(jnp.sin(last.wkv)), (last, ys)

    got, want = (
        quick_jit(jax.value_and_grad(functools.partial(loss, form), (0, 1, 2), has_aux=True))(
            cell, xs, v_first
        )
        for form in (RWKV7Cell.__call__, RWKV7Cell.scan)
    )
    same_trees(got, want)
    assert all(np.any(g) for g in jax.tree.leaves(want[1]))  # of v_first and residual.*, too

    step = quick_jit(
        lambda cell, state, x, reset, v: cell.step(
            where_reset(reset, cell.initial_state(2), state), x, None, v
        )
    )
    ys = []
    for t in range(xs.shape[1]):
        state, y = step(cell, state, xs[:, t], reset[:, t], v_first[:, t])
        ys.append(y)
    same_trees((state, jnp.stack(ys, 1)), want[0][1])


def same_trees(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5 * np.abs(w).max())  # float32, 19 tokens


def test_value_residual_mixes_towards_the_first_layer(mixing):
    """v + (v_first - v) sigma(.): all of v_first for a large bias, none of it for a small one."""
    cell, state, xs, reset, v_first = mixing
    run = quick_jit(lambda cell, v_first: cell(state, xs, reset, None, v_first)[1])

    def with_bias(value):
        other = jax.tree.map(jnp.copy, cell)
        other.residual.bias[...] = jnp.full((16,), value)
        return other

    all_first, none = with_bias(30.0), with_bias(-30.0)
    own = cell.values(xs, token_shift(xs, state.shift, reset))
    # A layer that is given its own values mixes nothing new into them.
    np.testing.assert_allclose(run(all_first, own), run(none, v_first), atol=1e-5)
    np.testing.assert_allclose(run(cell, own), run(none, v_first), atol=1e-5)
    assert np.abs(run(all_first, v_first) - run(none, v_first)).max() > 0.01
