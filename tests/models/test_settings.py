"""Losses of whole models in a process that computes in float64, or forbids implicit promotion."""

import jax
import jax.numpy as jnp
import pytest

import jaxmodels
from jaxmodels.testing.models import small_config
from tests.train.toy import toy_config
from train.devices.placement import Placement

SETTINGS = {
    "x64": lambda: jax.enable_x64(True),
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
}
CASES = [(name, setting) for name in ("prernk", "hrlm", "rnk") for setting in SETTINGS]


def traced(name):
    """Return (model, what a loss and one step give), of shapes and dtypes alone."""
    model = jaxmodels.create(small_config(name))
    time = getattr(model.config, "seq_len", 12)
    tokens = jnp.ones((2, time), jnp.int32)
    weights = jnp.ones((2, time), jnp.float32)
    batch = {"inputs": tokens, "targets": tokens, "weights": weights}
    given = model.initial_state(2), batch, jax.random.key(0), jnp.float32(0.5)
    found = [jax.eval_shape(lambda model, *given: model.loss_sums(*given), model, *given)]
    if hasattr(model, "step"):
        found.append(jax.eval_shape(lambda m, *x: m.step(*x), model, given[0], tokens[:, 0]))
    return model, found


@pytest.mark.parametrize(("name", "setting"), [*CASES, ("hft", "x64")])
def test_dtypes_are_stated(name, setting):
    """HFT computes in float16 as well."""
    with SETTINGS[setting]():
        leaves = jax.tree.leaves(traced(name))
    assert not {str(x.dtype) for x in leaves} & {"float64", "int64", "uint64"}


@pytest.mark.parametrize("optimizer", ["adamw", "adam_atan2", "lion", "muon"])
def test_a_training_step_under_strict_promotion(optimizer):
    """Optax is not written for it."""
    with jax.numpy_dtype_promotion("strict"):
        config = toy_config(
            optimizer__name=optimizer, optimizer__schedule="cosine", optimizer__ema_decay=0.9
        )
        placement = Placement(config, jax.devices()[:1])
        state, batch = placement.abstract_train_state(), placement.abstract_batch()
        after, _ = jax.eval_shape(placement.step, state, batch)
    assert {x.dtype for x in jax.tree.leaves(after.model)} == {jnp.dtype("float32")}
