"""Derivatives of whole models beyond the first, and inside `jax.shard_map`."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxmodels
from jaxmodels.testing.models import small_config

SIZES = {"width": 16, "num_layers": 2, "vocab_size": 20}
UNIFIED = {
    "width": 8, "hidden_size": 8, "relation_size": 4, "symbol_slots": 2, "role_slots": 2,
    "abstraction_sizes": (8, 4), "vocab_size": 20,
}  # fmt: skip
MODELS = {
    "rwkv/4": SIZES,
    "rwkv/7": SIZES,
    "mamba/1": SIZES,
    "mamba/2": SIZES,
    "stack/gated_delta": SIZES,
    "stack/gru": SIZES,
    "prernk": UNIFIED,
}
slow = pytest.mark.slow


def model_and_batch(name):
    rng = np.random.default_rng(0)
    model = jaxmodels.create(name, **MODELS[name])

    def noise(x):
        return jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32)

    model = jax.tree.map(lambda x: x if np.any(x) else noise(x), model)
    # Embeddings of size one: small ones before a norm make derivatives too large to be measured.
    model.embed.table[...] = 10.0 * noise(model.embed.table[...])
    tokens = jnp.asarray(rng.integers(0, 20, (4, 21)), jnp.int32)
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": jnp.ones((4, 20), jnp.float32),
        "reset": jnp.asarray(rng.random((4, 20)) < 0.1),
    }
    return model, batch


def loss(batch, model):
    state = model.initial_state(len(batch["inputs"]))
    return model.loss_sums(state, batch)[1]["next_token"] / 80.0  # all targets, also of a shard


def penalty(batch, structure, leaves):
    """Return the squared norm of the gradient of the loss by the model's leaves."""
    gradients = jax.grad(functools.partial(loss, batch))(structure.unflatten(leaves))
    return sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["mamba/2", "rwkv/4", "stack/gated_delta"])
def test_a_gradient_of_a_gradient_is_traced(name):
    """Through the loop over layers, too, where JAX cuts unused parts out of backward passes."""
    model, batch = model_and_batch(name)
    leaves, structure = jax.tree.flatten(model)
    jax.eval_shape(jax.grad(functools.partial(penalty, batch, structure)), leaves)


@slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "prernk"])
def test_a_gradient_of_a_gradient_is_its_finite_difference(name):
    """Not of PRERNK: norms of an empty state have second derivatives too large for differences.

    The promises of its cell compare them with those of the definition.
    """
    model, batch = model_and_batch(name)
    leaves, structure = jax.tree.flatten(model)
    rng = np.random.default_rng(1)
    along = [x * jnp.asarray(rng.standard_normal(x.shape), jnp.float32) for x in leaves]

    measure = functools.partial(penalty, batch, structure)
    exact = jax.jit(jax.grad(measure))(leaves)
    measure = jax.jit(measure)
    exact = float(sum(jnp.vdot(a, b) for a, b in zip(exact, along, strict=True)))

    def slope(step):
        moved = ([x + s * v for x, v in zip(leaves, along, strict=True)] for s in (-step, step))
        before, after = map(float, map(measure, moved))
        return (after - before) / (2 * step)

    measured = (4 * slope(2e-3) - slope(4e-3)) / 3  # Richardson's, without the cubic term
    np.testing.assert_allclose(measured, exact, rtol=2e-2)


@pytest.mark.parametrize(
    "name", ["rwkv/4", *(pytest.param(n, marks=slow) for n in MODELS if n != "rwkv/4")]
)
def test_gradients_inside_shard_map(name):
    """Under `check_vma`, the default of `jax.shard_map`."""
    model, batch = model_and_batch(name)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def inside(model, batch):
        return jax.grad(lambda model: jax.lax.psum(loss(batch, model), "data"))(model)

    sharded = jax.shard_map(inside, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    got = jax.jit(sharded)(model, batch)
    want = jax.jit(jax.grad(functools.partial(loss, batch)))(model)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("name", ["hrm", "hrlm"])
def test_gradients_of_thoughts_inside_shard_map_are_traced(name):
    """A fresh state is the same on all devices, what is thought of each row is not."""
    model = jaxmodels.create(small_config(name))
    tokens = jnp.ones((2, model.config.seq_len), jnp.int32)
    batch = {"inputs": tokens, "targets": tokens, "weights": jnp.ones(tokens.shape, jnp.float32)}
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def inside(model, batch):
        def loss(model):
            given = model.initial_state(1), batch, jax.random.key(0), jnp.float32(0.5)
            sums = model.loss_sums(*given)[1]
            return jax.lax.psum(sum(sums.values()), "data")

        return jax.grad(loss)(model)

    sharded = jax.shard_map(inside, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(sharded, model, batch), model)
