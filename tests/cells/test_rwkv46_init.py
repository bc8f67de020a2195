"""Initialization of RWKV-4 and RWKV-6 as in RWKV-LM, and their mix conventions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.rwkv4 import RWKV4Cell, RWKV4Config
from jaxmodels.cells.rwkv6 import MIXED, RWKV6Cell, RWKV6Config
from jaxmodels.errors import UserError
from jaxmodels.testing.lab import quick_jit, shaken

C, LAYER, LAYERS = 128, 1, 4
RHO, R01 = 1.0 - LAYER / LAYERS, LAYER / (LAYERS - 1)
i = np.arange(C)
ramp = i / (C - 1)
zigzag = np.array([(n + 1) % 3 - 1 for n in i])


@pytest.fixture(scope="module")
def four():
    return RWKV4Cell(RWKV4Config(C), rngs=nnx.Rngs(0), layer=LAYER, num_layers=LAYERS)


@pytest.fixture(scope="module")
def six():
    config = RWKV6Config(C, head_size=32)
    return RWKV6Cell(config, rngs=nnx.Rngs(0), layer=LAYER, num_layers=LAYERS)


def same(parameter, want):
    np.testing.assert_allclose(parameter[...], np.broadcast_to(want, parameter.shape), atol=2e-6)


def test_rwkv4_vector_initialisation(four):
    same(four.mix, np.stack([(i / C) ** RHO, (i / C) ** RHO + 0.3 * R01, (i / C) ** (0.5 * RHO)]))
    same(four.decay, -5.0 + 8.0 * ramp ** (0.7 + 1.3 * R01))
    same(four.bonus, np.log(0.3) + 0.5 * zigzag)


def test_rwkv6_vector_initialisation(six):
    linear, root = 1.0 - (i / C) ** RHO, 1.0 - (i / C) ** (0.5 * RHO)
    same(six.mix_x, linear)
    assert MIXED == ("w", "k", "v", "r", "g")
    same(six.mix, np.stack([linear, linear, linear - 0.3 * R01, root, root]))
    same(six.decay, -6.0 + 5.0 * ramp ** (0.7 + 1.3 * R01))
    same(six.bonus, R01 * (1.0 - ramp) + 0.1 * zigzag)
    same(six.norm_scale, ((LAYER + 1) / LAYERS) ** 0.7)
    same(six.norm_bias, 0.0)


def test_matrix_initialisation(four, six):
    for linear in (four.receptance, four.key, four.output, six.output):
        assert not np.any(linear.kernel[...])
    gains = ((four.value, 1.0), (six.receptance, 1.0), (six.key, 0.1), (six.value, 1.0))
    for linear, gain in (*gains, (six.gate, 0.1)):
        kernel = np.asarray(linear.kernel[...])
        np.testing.assert_allclose(kernel @ kernel.T, gain**2 * np.eye(C), atol=2e-5 * gain)


def test_rwkv6_low_rank_initialisation(six):
    assert six.mix_down.shape == (C, 5 * 32) and six.mix_up.shape == (5, 32, C)
    assert six.decay_down.shape == (C, 64) and six.decay_up.shape == (64, C)
    assert not np.any(six.mix_down[...]) and not np.any(six.decay_down[...])
    for up in (six.mix_up, six.decay_up):
        up = np.asarray(up[...])
        assert 0.0099 < np.abs(up).max() < 0.01  # 8,192 draws or more
        assert abs(up.std() * 3**0.5 / 0.01 - 1.0) < 0.03
        assert abs(up.mean()) < 2e-4


def test_single_layer_is_finite():
    """No division by num_layers - 1 or width - 1."""
    for cell in (
        RWKV4Cell(RWKV4Config(1), rngs=nnx.Rngs(0)), RWKV6Cell(RWKV6Config(1), rngs=nnx.Rngs(0))
    ):  # fmt: skip
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(cell))


@pytest.mark.parametrize("cell_class, own", [(RWKV4Cell, 1.0), (RWKV6Cell, 0.0)])
def test_mix_convention(cell_class, own):
    """RWKV-4 stores the share of the token itself, RWKV-6 that of the token before it."""
    config = (RWKV4Config if cell_class is RWKV4Cell else RWKV6Config)(16)
    cell = shaken(cell_class(config, rngs=nnx.Rngs(0)), 0)
    if cell_class is RWKV6Cell:
        cell.mix_up[...] = jnp.zeros_like(cell.mix_up[...])  # what the data adds to the mixes
    state = cell.initial_state(2)
    before, x, other = np.random.default_rng(0).standard_normal((3, 2, 16), np.float32)
    step = quick_jit(lambda cell, before, x: cell.step(state.replace(shift=before), x)[1])

    def read(mix, *tokens):
        cell.mix[...] = jnp.full_like(cell.mix[...], mix)
        return np.asarray(step(cell, *tokens))

    # Close, not equal: x + (before - x) rounds.
    np.testing.assert_allclose(read(own, before, x), read(own, other, x), atol=1e-5)
    np.testing.assert_allclose(read(1 - own, before, x), read(1 - own, before, other), atol=1e-5)
    assert np.abs(read(own, before, x) - read(own, before, other)).max() > 0.01
    assert np.abs(read(1 - own, before, x) - read(1 - own, other, x)).max() > 0.01


@pytest.mark.parametrize(
    "config, fields, message",
    [
        (RWKV4Config, {"width": 0}, "width must be a positive integer, got 0"),
        (RWKV4Config, {"width": 8, "chunk_size": 0}, "chunk_size must be a positive integer"),
        (RWKV4Config, {"width": 8, "dtype": "half"}, "dtype must be one of float32, bfloat16"),
        (RWKV6Config, {"width": 96}, "head_size=64 must divide width=96"),
        (RWKV6Config, {"width": 8, "decay_rank": 0}, "decay_rank must be a positive integer"),
    ],
)
def test_invalid_configs_are_rejected(config, fields, message):
    with pytest.raises(UserError, match=message):
        config(**fields)
