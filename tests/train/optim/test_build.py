"""Optimizers: what decays, schedules at their corners, float32 moments, every name trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels.tree import flatten, unflatten
from tests.train.toy import create, toy_config
from train.optim.build import make_optimizer, make_schedule
from train.optim.weight_decay import decay_factors


@pytest.fixture(scope="module")
def model():
    return create(width=4, vocab_size=8)


def test_names_are_attribute_paths(model):
    assert sorted(flatten(model)) == [
        "cell/bias",
        "cell/kernel",
        "embedding",
        "head/bias",
        "head/kernel",
    ]
    doubled = unflatten(model, {name: 2 * leaf for name, leaf in flatten(model).items()})
    np.testing.assert_array_equal(doubled.cell.kernel[...], 2 * model.cell.kernel[...])
    assert doubled.config == model.config


def test_only_kernels_decay(model):
    params = flatten(model)
    factors = decay_factors(model)
    assert factors == {name: float(name.endswith("/kernel")) for name in params}
    config = toy_config(
        optimizer__schedule="constant", optimizer__warmup_steps=0, optimizer__weight_decay=0.5
    )
    for name in ("adamw", "lion", "muon"):
        config.optimizer.name = name
        optimizer = make_optimizer(config, factors)
        still = jax.tree.map(jnp.zeros_like, params)  # no gradient: whatever moves has decayed
        updates, _ = jax.jit(optimizer.update)(still, optimizer.init(params), params)
        for leaf, update in updates.items():
            expected = -1e-2 * 0.5 * params[leaf] if leaf.endswith("kernel") else 0.0 * params[leaf]
            np.testing.assert_allclose(update, expected, rtol=1e-5, err_msg=f"{name} {leaf}")


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_every_optimizer_descends_and_keeps_float32(name):
    config = toy_config(optimizer__name=name, optimizer__weight_decay=0.0)
    params = {"a/kernel": jnp.ones((2, 4, 4)), "a/bias": jnp.ones(4)}  # two stacked layers
    optimizer = make_optimizer(config, decay_factors(params))
    state = optimizer.init(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {jnp.dtype("float32")}

    def loss(params):
        return sum(jnp.sum(jnp.square(p)) for p in params.values())

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    before = {name: float(jnp.sum(p**2)) for name, p in params.items()}
    for _ in range(5):
        params, state = step(params, state)
    for leaf, p in params.items():
        assert float(jnp.sum(p**2)) < before[leaf], leaf


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 0.25, 3: 1.0, 4: 1.0, 99: 1.0}),
        ("linear", {0: 0.25, 3: 1.0, 4: 1.0, 52: 0.55, 100: 0.1}),
        ("cosine", {0: 0.25, 3: 1.0, 4: 1.0, 52: 0.55, 100: 0.1}),
        ("wsd", {0: 0.25, 3: 1.0, 79: 1.0, 80: 1.0, 90: 0.55, 100: 0.1}),
    ],
)
def test_schedule_boundary_values(schedule, expected):
    config = toy_config(
        steps=100,
        optimizer__learning_rate=1.0,
        optimizer__schedule=schedule,
        optimizer__warmup_steps=4,
        optimizer__final_fraction=0.1,
    )
    rate = make_schedule(config)
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5), step


def test_one_warmup_step_equals_no_warmup():
    config = toy_config(optimizer__warmup_steps=1, optimizer__schedule="constant")
    assert float(make_schedule(config)(0)) == pytest.approx(1e-2)
