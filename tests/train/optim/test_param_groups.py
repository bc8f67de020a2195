"""Groups of parameters: each labelled once, each with its own rate, clipping and start."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.tree import flatten
from tests.train.test_step import batches
from tests.train.toy import Toy, ToyConfig, create, toy_config
from train.config import apply_overrides, complete_config, from_json, to_json
from train.devices.placement import Placement
from train.optim.build import make_optimizer
from train.optim.fields import suggested_warmup
from train.optim.param_groups import (
    check_rules,
    components,
    frozen_until,
    multipliers,
    parameter_labels,
    with_groups,
)
from train.optim.weight_decay import decay_factors

LABELS = {
    "a/kernel": "rwkv/matrix",
    "a/decay": "rwkv/dynamics",
    "b/kernel": "mamba/matrix",
    "b/rate": "mamba/dynamics",
    "head/kernel": "head/matrix",
}


def config_with(**rules):
    config = toy_config(
        optimizer__schedule="constant",
        optimizer__warmup_steps=0,
        optimizer__weight_decay=0.0,
        optimizer__clip_norm=0.0,
    )
    for rule, fields in rules.items():
        config.optimizer[rule] = type(config)(fields)
    return config


@pytest.fixture(scope="module")
def params():
    rng = np.random.RandomState(0)
    return {name: jnp.asarray(rng.randn(4, 4), jnp.float32) for name in LABELS}


def updates_of(config, params, steps=1, grads=None):
    optimizer = make_optimizer(config, decay_factors(params), LABELS)
    state = optimizer.init(params)
    grads = {name: 0.1 * p for name, p in params.items()} if grads is None else grads
    update, all_of_them = jax.jit(optimizer.update), []
    for _ in range(steps):
        updates, state = update(grads, state, params)
        all_of_them.append(jax.device_get(updates))
    return all_of_them


def test_every_parameter_has_one_label():
    for name in ("prernk", "mamba", "rwkv", "groundthink"):
        model = jax.eval_shape(lambda name=name: jaxmodels.create(name, seed=0))
        names = set(flatten(model))
        labels = parameter_labels(model, names)
        assert set(labels) == names
        by_component = components(labels)
        assert sorted(n for members in by_component.values() for n in members) == sorted(names)
        if name != "groundthink":
            continue
        for leaf, factor in decay_factors(model).items():
            role = labels[leaf].split("/")[1]
            assert role == "matrix" or not np.any(factor), leaf
            assert role in ("gate", "dynamics") or np.any(factor) or "kernel" not in leaf, leaf
    assert {"rwkv", "mamba"} <= set(by_component)  # of the last, the hybrid


def test_default_and_invalid_labels():
    model = create(width=4, vocab_size=8)
    labels = parameter_labels(model, flatten(model))
    assert labels["cell/kernel"] == "model/matrix"
    assert labels["cell/bias"] == labels["embedding"] == "model/other"

    class Wrong:
        def parameter_label(self, name):
            return name

    with pytest.raises(ValueError, match="expected 'component/role'"):
        parameter_labels(Wrong(), ["mamba"])


def test_multipliers_multiply(params):
    config = config_with(groups={"dynamics": 0.1, "mamba": 2.0, "head/matrix": 0.5})
    assert multipliers(config, LABELS) == pytest.approx(
        {
            "head/matrix": 0.5,
            "mamba/dynamics": 0.2,
            "mamba/matrix": 2.0,
            "rwkv/dynamics": 0.1,
            "rwkv/matrix": 1.0,
        }
    )
    plain = updates_of(config_with(), params, 3)[-1]
    scaled = updates_of(config, params, 3)[-1]
    for name, label in LABELS.items():
        expected = multipliers(config, LABELS)[label] * plain[name]
        np.testing.assert_allclose(scaled[name], expected, rtol=1e-6, err_msg=name)
        assert np.abs(plain[name]).max() > 0


def test_no_rules_gives_the_plain_optimizer(params):
    state = make_optimizer(config_with(), decay_factors(params), LABELS).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(
        make_optimizer(config_with(), decay_factors(params)).init(params)
    )
    ones = config_with(groups={name: 1.0 for name in ("rwkv", "mamba", "head")})
    runs = updates_of(ones, params, 3), updates_of(config_with(), params, 3)
    for got, want in zip(*runs, strict=True):
        for name in params:
            np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_clipping_by_component(params):
    """Plain descent at rate 1 shows the clipped gradients themselves."""
    config = config_with(group_clip={"rwkv": 0.5, "mamba": 1e9})
    grads = {name: p + 1.0 for name, p in params.items()}
    sgd = with_groups(config, LABELS, lambda start: optax.sgd(1.0), optax.identity())
    updates, _ = sgd.update(grads, sgd.init(params), params)

    def norm(tree, component):
        names = components(LABELS)[component]
        return float(jnp.sqrt(sum(jnp.sum(jnp.square(tree[name])) for name in names)))

    assert norm(grads, "rwkv") > 0.5
    assert norm(updates, "rwkv") == pytest.approx(0.5, rel=1e-5)
    for component in ("mamba", "head"):
        assert norm(updates, component) == pytest.approx(norm(grads, component), rel=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_group_is_frozen_until_its_step(params, name):
    config = config_with(freeze={"mamba": 2, "head": -1})
    config.optimizer.name = name
    config.optimizer.weight_decay = 0.1
    steps = updates_of(config, params, 4)
    for number, updates in enumerate(steps):
        for leaf, label in LABELS.items():
            learns = {"rwkv": True, "mamba": number >= 2, "head": False}[label.split("/")[0]]
            assert (np.abs(updates[leaf]).max() > 0) == learns, (leaf, number)
    # Thawed, a group begins as the others did: with fresh moments.
    unfrozen = config_with()
    unfrozen.optimizer.name, unfrozen.optimizer.weight_decay = name, 0.1
    fresh = updates_of(unfrozen, params, 2)
    for leaf in ("b/kernel", "b/rate"):
        for thawed, first in zip(steps[2:], fresh, strict=True):
            np.testing.assert_allclose(thawed[leaf], first[leaf], rtol=1e-5, atol=1e-8)


def test_unfrozen_group_uses_the_schedule_of_the_run(params):
    config = config_with(freeze={"mamba": 10})
    config.optimizer.schedule, config.steps = "linear", 20
    steps = updates_of(config, params, 12)
    first = np.abs(steps[0]["a/kernel"]).mean()  # Adam's first step is the rate itself
    assert np.abs(steps[10]["b/kernel"]).mean() == pytest.approx(0.5 * first, rel=1e-3)


def test_frozen_gradients_are_excluded_from_the_global_norm(params):
    config = config_with(freeze={"mamba": 5})
    config.optimizer.clip_norm = 1.0
    huge = {n: 1e3 * p if LABELS[n].startswith("mamba") else 0.01 * p for n, p in params.items()}
    small = {n: 0 * p if LABELS[n].startswith("mamba") else 0.01 * p for n, p in params.items()}
    got, want = (updates_of(config, params, 1, grads)[0] for grads in (huge, small))
    np.testing.assert_array_equal(got["a/kernel"], want["a/kernel"])


def test_latest_freeze_step_wins():
    config = config_with(freeze={"mamba": 5, "dynamics": 9, "head/matrix": -1})
    assert frozen_until(config, LABELS) == {
        "a/kernel": 0.0,
        "a/decay": 9.0,
        "b/kernel": 5.0,
        "b/rate": 9.0,
        "head/kernel": float("inf"),
    }


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"groups": {"mamda": 2.0}},
            "no such group; did you mean 'mamba'? choose from: dynamics, head",
        ),
        ({"groups": {"mamba": -1.0}}, "config.optimizer.groups.mamba: must not be negative"),
        ({"groups": {"mamba": "fast"}}, "config.optimizer.groups.mamba: expected a number"),
        ({"group_clip": {"mamba": 0}}, "config.optimizer.group_clip.mamba: must be positive"),
        ({"freeze": {"mamba": 1.5}}, "config.optimizer.freeze.mamba: must be a step, or -1"),
        ({"freeze": {"rwkv": -1, "mamba": -1, "head": -1}}, "all parameters are frozen"),
    ],
)
def test_invalid_rules_are_rejected(rules, message):
    with pytest.raises(UserError) as error:
        check_rules(config_with(**rules), LABELS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_rules_are_set_by_file_and_command_line():
    config = complete_config({"model": "x:y", "optimizer": {"groups": {"mamba/dynamics": 0.1}}})
    apply_overrides(config, ["--config.optimizer.groups.mamba=2", "--config.optimizer.freeze.x=-1"])
    assert config.optimizer.groups.to_dict() == {"mamba/dynamics": 0.1, "mamba": 2}
    assert from_json(to_json(config)).to_dict() == config.to_dict()
    with pytest.raises(UserError, match=r"unknown field 'optimizer.group'; did you mean"):
        complete_config({"model": "x:y", "optimizer": {"group": {}}})


@pytest.mark.parametrize(
    ("devices", "fields"),
    [
        (2, {}),
        pytest.param(4, {"parallel": "shard_map", "mesh__fsdp": 2}, marks=pytest.mark.slow),
    ],
)
def test_training_step_keeps_frozen_parameters(devices, fields):
    """Matrices stand still for one step and then move; also where parameters are split."""
    config = toy_config(**fields)
    config.optimizer.freeze = type(config)({"matrix": 1})
    config.optimizer.groups = type(config)({"other": 0.5})
    placement = Placement(config, jax.devices()[:devices])
    state = placement.fresh_state()
    seen = [jax.device_get(flatten(state.model))]
    for batch in batches()[:2]:
        state, _ = placement.step(state, placement.put_rows(batch))
        seen.append(jax.device_get(flatten(state.model)))
    for name in seen[0]:
        moved = [not np.array_equal(a[name], b[name]) for a, b in itertools.pairwise(seen)]
        assert moved == [not name.endswith("kernel"), True], name


def test_suggested_warmup():
    assert suggested_warmup(125_000_000, 100_000) == 2001
    assert suggested_warmup(11_000_000, 10_000) == pytest.approx(594, abs=2)
    assert suggested_warmup(11_000_000, 10_000, factor=2.0) == pytest.approx(396, abs=2)
    assert suggested_warmup(125_000_000, 1000) == 100
    assert suggested_warmup(10, 5) == 1


def test_gradient_norms_by_component():
    config = toy_config(model="tests.train.optim.test_param_groups:create_labelled")
    placement = Placement(config, jax.devices()[:1])
    _, metrics = placement.step(placement.fresh_state(), placement.put_rows(batches()[0]))
    parts = {n: float(v) for n, v in metrics.items() if n.startswith("grad_norm/")}
    assert set(parts) == {"grad_norm/mamba", "grad_norm/head"}
    whole = float(metrics["grad_norm"])
    assert whole == pytest.approx(sum(x**2 for x in parts.values()) ** 0.5, rel=1e-5)


class Labelled(Toy):
    def parameter_label(self, name):
        component = "head" if name.startswith("head") else "mamba"
        return f"{component}/{'matrix' if name.endswith('kernel') else 'bias'}"


def create_labelled(*, seed=0, dtype="float32", **fields):
    return Labelled(ToyConfig(dtype=dtype, **fields), nnx.Rngs(seed))
