"""Generation in a process that computes in float64 elsewhere, or forbids implicit promotion."""

import jax
import jax.numpy as jnp
import pytest

import jaxmodels
from jaxmodels.generation.programs import Orders, decode, look, start
from jaxmodels.generation.watching import watch
from jaxmodels.testing.models import small_config

SETTINGS = {
    "x64": lambda: jax.enable_x64(True),
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["rwkv", "prernk"])
def test_decoding_under_other_defaults(name, setting):
    """Traced only: the carry of its loop must have the same types before and after a step."""
    with SETTINGS[setting]():
        model = jaxmodels.create(small_config(name))
        pool = jax.eval_shape(lambda model: start(model, slots=2), model)
        orders = Orders.none(2, 4)
        run = jax.eval_shape(lambda *given: decode(*given, most=4), model, pool, orders)
        told = jax.eval_shape(lambda *given: look(*given, watch=watch), model, pool, orders, run[1])
        leaves = jax.tree.leaves((pool, run, told))
    kinds = {x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}
    assert kinds == {jnp.dtype("float32")}
