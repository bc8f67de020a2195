"""A state that does not fit is refused in words, before anything of it is made."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.errors import UserError
from train.devices.memory import check_memory
from train.optim.weight_decay import decay_factors


@pytest.mark.parametrize(("spec", "copies"), [(P(), 2), (P("data"), 1)])
def test_what_all_devices_hold_is_counted(spec, copies):
    """Copies on the devices of a CPU share its memory; parts of one array add up to it."""
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    sharding = NamedSharding(mesh, spec)
    check_memory({"x": jax.ShapeDtypeStruct((2, 3), jnp.float32, sharding=sharding)})
    huge = jax.ShapeDtypeStruct((2**10, 2**38), jnp.float32, sharding=sharding)
    with pytest.raises(UserError, match=f"carried state take {copies * 2**20:,}.0 GiB, this mach"):
        check_memory({"x": huge})


def test_shapes_alone_take_no_memory():
    kernel = nnx.Param(jax.ShapeDtypeStruct((2, 2**50), jnp.float32))
    assert decay_factors({"kernel": kernel, "bias": kernel}) == {"kernel": 1.0, "bias": 0.0}
