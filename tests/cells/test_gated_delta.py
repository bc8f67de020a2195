"""Gated DeltaNet cell: initialization, layout, options."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.gated_delta import GatedDeltaCell, GatedDeltaConfig
from jaxmodels.errors import UserError
from jaxmodels.testing import check_cell
from jaxmodels.testing.lab import names

C = 256


@pytest.fixture(scope="module")
def cell():
    config = GatedDeltaConfig(C, head_size=4)  # 48 heads, for statistics
    return GatedDeltaCell(config, rngs=nnx.Rngs(0), layer=1, num_layers=4)


def test_decay_initialisation_equals_mamba2(cell):
    """A is uniform on (1, 16), softplus(dt_bias) log-uniform on (1e-3, 0.1)."""
    A, dt = np.exp(cell.A_log[...]), np.logaddexp(0.0, cell.dt_bias[...])
    for x, low, high in ((A, 1.0, 16.0), (np.log(dt), np.log(1e-3), np.log(0.1))):
        x = (np.asarray(x) - low) / (high - low)
        assert -1e-4 < x.min() < 0.1 and 0.9 < x.max() < 1.0001
        assert abs(x.mean() - 0.5) < 0.15 and abs(x.std() * 12**0.5 - 1.0) < 0.2  # of 48


def test_matrix_initialisation(cell):
    values = 48 * 8
    for array, bound in (
        (cell.inputs.kernel, C**-0.5), (cell.decay.kernel, C**-0.5), (cell.rate.kernel, C**-0.5),
        (cell.gate.kernel, C**-0.5), (cell.output.kernel, 0.5 * values**-0.5), (cell.taps, 0.5),
    ):  # fmt: skip
        array = np.asarray(array[...])
        assert 0.99 * bound < np.abs(array).max() < bound
        assert abs(array.std() * 3**0.5 / bound - 1.0) < 0.03
    assert (cell.norm_scale[...] == 1.0).all()
    kernels = {name for name in names(cell) if name.endswith("kernel")}
    assert kernels == {f"{n}.kernel" for n in ("inputs", "decay", "rate", "gate", "output")}


def test_default_layout_equals_source():
    """Keys take three quarters of the width, values twice that: about 6 C^2 parameters."""
    cell = GatedDeltaCell(GatedDeltaConfig(C), rngs=nnx.Rngs(0))
    assert (cell.config.num_heads, cell.config.head_size, cell.config.value_size) == (3, 64, 128)
    count = sum(x.size for x in jax.tree.leaves(cell))
    assert count == 6 * C * C + 4 * 768 + 2 * 3 * C + 2 * 3 + 128
    state = cell.initial_state(2)
    assert state.memory.shape == (2, 3, 64, 128) and state.conv.shape == (2, 3, 768)


def test_negative_eigenvalues_reach_parity():
    """I - beta k k^T has the eigenvalue 1 - beta, negative only if beta exceeds 1."""
    xs = np.random.default_rng(0).standard_normal((2, 50, C), np.float32)
    for negative, most in ((False, 1.0), (True, 2.0)):
        config = GatedDeltaConfig(C, negative_eigenvalues=negative)
        cell = GatedDeltaCell(config, rngs=nnx.Rngs(0))
        _, beta = cell._gates(10.0 * xs)
        assert 0.95 * most < beta.max() <= most and 0.0 <= beta.min() < 0.05


@pytest.mark.slow
def test_variant_conforms():
    config = GatedDeltaConfig(
        16, head_size=8, value_size=4, num_heads=3, conv_size=3, chunk_size=16,
        negative_eigenvalues=True,
    )  # fmt: skip
    check_cell("gated_delta", config)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"head_size": 0}, "head_size must be a positive integer"),
        ({"num_heads": 1.5}, "num_heads must be a positive integer"),
        ({"conv_size": 1}, "conv_size must be at least 2"),
        ({"dtype": "half"}, "dtype must be one of"),
    ],
)
def test_invalid_configs_are_rejected(fields, message):
    with pytest.raises(UserError, match=message):
        GatedDeltaConfig(32, **fields)
