"""Initialization of Mamba-1 and Mamba-2 as in state-spaces/mamba; config errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.mamba1 import Mamba1Cell, Mamba1Config
from jaxmodels.cells.mamba2 import Mamba2Cell, Mamba2Config
from jaxmodels.errors import UserError
from jaxmodels.testing.lab import quick_jit

WIDTH, LAYERS = 256, 6


@pytest.fixture(scope="module")
def cells():
    def make():
        one = Mamba1Cell(Mamba1Config(WIDTH), rngs=nnx.Rngs(0), num_layers=LAYERS)
        two = Mamba2Cell(Mamba2Config(WIDTH, head_size=8), rngs=nnx.Rngs(0), num_layers=LAYERS)
        return one, two

    return jax.device_get(quick_jit(make)())


def uniform(values, bound):
    """Spread evenly over (-bound, bound): limits, mean and variance of thousands of draws."""
    values = np.asarray(values)
    assert np.abs(values).max() <= bound
    few = 5.0 / values.size**0.5
    assert np.abs(values).max() > (1.0 - few) * bound
    assert abs(values.mean()) < few * bound
    np.testing.assert_allclose(values.var(), bound**2 / 3.0, rtol=2.0 * few)


def time_steps(bias, minimum=1e-3, maximum=0.1):
    """softplus(bias) is log-uniform between the limits."""
    steps = np.log1p(np.exp(np.asarray(bias, np.float64)))
    rounding = 1e-5
    assert steps.min() >= minimum * (1.0 - rounding) and steps.max() <= maximum * (1.0 + rounding)
    logs = (np.log(steps) - np.log(minimum)) / (np.log(maximum) - np.log(minimum))
    uniform(2.0 * logs.clip(0.0, 1.0) - 1.0, 1.0)


def test_mamba1_initialisation(cells):
    cell, _ = cells
    inner, rank, size = 2 * WIDTH, 16, 16
    assert sum(x.size for x in jax.tree.leaves(cell)) == 437_760  # 438,016 less the block's norm
    uniform(cell.in_proj.kernel[...], WIDTH**-0.5)
    uniform(cell.x_proj.kernel[...], inner**-0.5)
    uniform(cell.dt_proj.kernel[...], rank**-0.5)
    uniform(cell.out_proj.kernel[...], (inner * LAYERS) ** -0.5)
    uniform(cell.conv_taps[...], 0.5)
    uniform(cell.conv_bias[...], 0.5)
    time_steps(cell.dt_proj.bias[...])
    rates = np.exp(np.asarray(cell.A_log[...]))
    np.testing.assert_allclose(rates, np.arange(1.0, size + 1)[:, None].repeat(inner, 1), rtol=1e-6)
    assert (np.asarray(cell.D[...]) == 1.0).all()
    assert all(layer.bias is None for layer in (cell.in_proj, cell.x_proj, cell.out_proj))


def test_mamba2_initialisation(cells):
    _, cell = cells
    inner, heads = 2 * WIDTH, 2 * WIDTH // 8
    assert cell.in_proj.kernel.shape == (WIDTH, 2 * inner + 2 * 128 + heads)
    uniform(cell.in_proj.kernel[...], WIDTH**-0.5)
    uniform(cell.out_proj.kernel[...], (inner * LAYERS) ** -0.5)
    uniform(cell.conv_taps[...], 0.5)
    uniform(cell.conv_bias[...], 0.5)
    time_steps(cell.dt_bias[...])
    rates = np.exp(np.asarray(cell.A_log[...]))
    assert rates.shape == (heads,)
    uniform((rates - 8.5).clip(-7.5, 7.5), 7.5)
    assert (np.asarray(cell.D[...]) == 1.0).all()
    assert (np.asarray(cell.norm_scale[...]) == 1.0).all()


def test_only_projections_are_named_kernel(cells):
    for cell in cells:
        paths = jax.tree_util.tree_flatten_with_path(cell)[0]
        names = {jax.tree_util.keystr(p, simple=True, separator=".") for p, _ in paths}
        kernels = {n.removesuffix(".value") for n in names if "kernel" in n}
        assert kernels <= {f"{p}_proj.kernel" for p in ("in", "x", "dt", "out")}


def test_bfloat16_cell_has_float32_parameters():
    for cell, config in ((Mamba1Cell, Mamba1Config), (Mamba2Cell, Mamba2Config)):
        made = jax.eval_shape(lambda c=cell, k=config: c(k(32, dtype="bfloat16"), rngs=nnx.Rngs(0)))
        assert {x.dtype for x in jax.tree.leaves(made)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (Mamba1Config, {"width": 0}, "width must be a positive integer, got 0"),
        (Mamba1Config, {"dt_rank": 0}, "dt_rank must be a positive integer, got 0"),
        (Mamba1Config, {"dtype": "float16"}, "dtype must be one of float32, bfloat16"),
        (Mamba2Config, {"head_size": 48}, "head_size=48 must divide expand * width = 64"),
        (Mamba2Config, {"head_size": 16, "groups": 3}, "groups=3 must divide the number of heads"),
        (Mamba2Config, {"norm_groups": 5}, "norm_groups=5 must divide expand * width = 64"),
        (Mamba2Config, {"chunk_size": 512}, "chunk_size must be at most 256, got 512"),
        (Mamba2Config, {"norm_eps": 0.0}, "norm_eps must be positive, got 0.0"),
    ],
)
def test_invalid_configs_are_rejected(config, fields, message):
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        config(**{"width": 32, **fields})
