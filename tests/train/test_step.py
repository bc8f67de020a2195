"""The step: the same numbers however it is spread, and no update from a number that is none."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import train.devices.placement
from jaxmodels.errors import UserError
from jaxmodels.tree import flatten
from tests.train.toy import Toy, ToyConfig, to_host, toy_config
from train.devices.placement import Placement
from train.model import build_model
from train.step import component_names, init_train_state

ROWS, TIME = 8, 16
# Sums over rows in another order differ by float32 ulps, which grow over a few updates.
ROUNDING = 1e-5


@functools.cache
def batches():
    """Rows with very different numbers of targets: the first has one in ten, the last all."""
    rng = np.random.default_rng(0)
    share = np.linspace(0.1, 1.0, ROWS)[:, None]
    result = []
    for _ in range(5):
        tokens = rng.integers(0, 256, (ROWS, TIME + 1), np.int32)
        result.append(
            {
                "inputs": tokens[:, :-1],
                "targets": tokens[:, 1:],
                "weights": (rng.random((ROWS, TIME)) < share).astype(np.float32),
                "reset": rng.random((ROWS, TIME)) < 0.1,
            }
        )
    return result


def start(devices, config):
    placement = Placement(config, jax.devices()[:devices])
    return placement, placement.put_state(init_train_state(build_model(config), config))


def steps(placement, state, count):
    """Metrics of each step, and the last state in global form."""
    metrics = []
    with jax.transfer_guard("disallow"):
        for batch in batches()[:count]:
            state, values = placement.step(state, placement.put_rows(batch))
            metrics.append(jax.device_get(values))
    return metrics, to_host(placement, state)


def curve(devices=1, count=5, **changes):
    return steps(*start(devices, toy_config(**changes)), count)


@pytest.fixture(scope="module")
def one_device():
    return curve()


def assert_same_run(run, reference):
    for (step, got), want in zip(enumerate(run[0]), reference[0], strict=True):
        for name in want:
            np.testing.assert_allclose(
                got[name], want[name], rtol=ROUNDING, atol=1e-6, err_msg=f"{name}, step {step}"
            )
    for name, leaf in flatten(run[1].model).items():
        # Adam divides by the root of a tiny second moment, which amplifies rounding in parameters.
        np.testing.assert_allclose(leaf, flatten(reference[1].model)[name], atol=2e-4, err_msg=name)
    np.testing.assert_allclose(run[1].carry.h, reference[1].carry.h, atol=1e-4)


@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (2, {}),
        (4, {}),
        (8, {}),
        (2, {"optimizer__accumulate": 4}),
        (8, {"parallel": "shard_map"}),
        (8, {"parallel": "shard_map", "mesh__fsdp": 2, "mesh__tensor": 2}),
        pytest.param(4, {"parallel": "shard_map", "mesh__fsdp": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_curve_is_independent_of_placement(one_device, devices, changes):
    assert_same_run(curve(devices, **changes), one_device)


def test_evaluation_is_equal_with_sharded_parameters():
    sums = []
    for devices, changes in ((1, {}), (4, {"parallel": "shard_map", "mesh__fsdp": 2})):
        placement, state = start(devices, toy_config(**changes))
        carry = placement.put_rows(jax.device_get(build_model(toy_config()).initial_state(ROWS)))
        batch = placement.put_rows(batches()[0])
        sums.append(jax.device_get(placement.eval_step(state.model, carry, batch)[1:]))
    chex.assert_trees_all_close(*sums, rtol=ROUNDING)


def test_curve_matches_plain_jax(one_device):
    """Loss and gradient of the first step by the definition: sum over rows / number of targets."""
    config = toy_config()
    model, batch = build_model(config), jax.tree.map(jnp.asarray, batches()[0])

    def loss(model):
        _, sums = model.loss_sums(model.initial_state(ROWS), batch)
        return sums["next_token"] / batch["weights"].sum()

    value, grads = jax.jit(jax.value_and_grad(loss))(model)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
    first = one_device[0][0]
    assert first["loss"] == pytest.approx(float(value), rel=1e-6)
    assert first["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert first["targets"] == batches()[0]["weights"].sum()


def test_mean_of_means_differs(one_device):
    """The masks are uneven enough for the test above to tell the two apart."""
    config = toy_config()
    model, batch = build_model(config), jax.tree.map(jnp.asarray, batches()[0])

    def row_means(model):
        _, out = model(model.initial_state(ROWS), batch["inputs"], batch["reset"])
        log_p = jax.nn.log_softmax(out.logits)
        nats = -jnp.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
        weights = batch["weights"]
        return ((nats * weights).sum(1) / jnp.maximum(weights.sum(1), 1)).mean()

    grads = jax.jit(jax.grad(row_means))(model)
    norm = float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))))
    assert abs(norm - one_device[0][0]["grad_norm"]) > 0.02 * norm


def test_step_compiles_once(monkeypatch):
    make = train.devices.placement.make_train_step
    traced = chex.assert_max_traces(n=1)
    monkeypatch.setattr(
        train.devices.placement, "make_train_step", lambda *args: traced(make(*args))
    )
    chex.clear_trace_counter()
    placement, state = start(2, toy_config())
    steps(placement, state, 3)
    # Donation: there is never a second copy of parameters and moments.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.model, state.opt_state)))


def test_random_numbers_depend_on_seed_and_step():
    config = toy_config(
        model_config__dropout=0.5, optimizer__learning_rate=0.0, data__carry_state=False
    )
    placement, _ = start(2, config)

    def losses(seed):
        state = init_train_state(build_model(config), config)
        state = placement.put_state(state.replace(key=jax.random.key_data(jax.random.key(seed))))
        batch = {name: np.repeat(x[:1], ROWS, 0) for name, x in batches()[-1].items()}
        found = []
        for _ in range(3):
            state, metrics = placement.step(state, placement.put_rows(batch))
            found.append(float(metrics["next_token"]))
        return found

    assert losses(0) == losses(0)
    assert len(set(losses(0) + losses(1))) == 6


def test_step_lowers_without_data():
    for parallel in ("pmap", "shard_map"):
        placement = Placement(toy_config(parallel=parallel), jax.devices()[:2])
        lowered = placement.step.lower(placement.abstract_train_state(), placement.abstract_batch())
        assert "all_reduce" in lowered.as_text()


def test_without_carry_each_segment_starts_fresh(one_device):
    metrics, state = curve(data__carry_state=False)
    assert state.carry == ()
    assert metrics[0]["loss"] == one_device[0][0]["loss"]
    assert metrics[1]["loss"] != one_device[0][1]["loss"]


def test_clipping_affects_the_step_not_the_metric(one_device):
    metrics, clipped = curve(optimizer__clip_norm=1e-30, optimizer__weight_decay=0.0, count=1)
    assert metrics[0]["grad_norm"] == one_device[0][0]["grad_norm"] > 1e-3
    before = flatten(build_model(toy_config()))
    for name, leaf in flatten(clipped.model).items():  # eps of Adam is far above what is left
        np.testing.assert_allclose(leaf, before[name], atol=1e-9, err_msg=name)


def test_ema_follows_the_parameters():
    _, state = curve(optimizer__ema_decay=0.9, count=1)
    new, old = flatten(state.model), flatten(build_model(toy_config()))
    for name, average in state.ema.items():
        np.testing.assert_allclose(
            average, 0.1 * old[name] + 0.9 * new[name], atol=1e-6, err_msg=name
        )


def test_bfloat16_keeps_masters_moments_and_carry_in_float32(one_device):
    metrics, state = curve(dtype="bfloat16")
    leaves = jax.tree.leaves((state.model, state.opt_state, state.carry))
    assert {leaf.dtype for leaf in leaves if leaf.ndim} == {np.dtype("float32")}
    losses = [m["loss"] for m in metrics]
    assert losses != [m["loss"] for m in one_device[0]]
    # bfloat16 has 8 bits: logits of size 1 are off by 2^-9, their mean loss by less.
    np.testing.assert_allclose(losses, [m["loss"] for m in one_device[0]], atol=5e-3)


def test_state_is_frozen_after_a_nonfinite_value():
    """Step 3 meets a NaN; it and later steps leave the state of step 2, and the cause is named."""
    config = toy_config(model_config__poison_step=100, steps=20)
    placement, state = start(4, config)
    _, good = steps(placement, state, 2)
    _, state = start(4, config)
    metrics, state = steps(placement, state, 5)
    assert [int(m["halted"]) >= 0 for m in metrics] == [False, False, True, True, True]
    assert component_names(state)[metrics[2]["halted"]] == "gradient of cell/bias"
    assert int(state.step) == 2
    chex.assert_trees_all_equal(state.replace(halted=0), good.replace(halted=0))


def test_halted_names_the_first_cause():
    placement, state = start(1, toy_config())
    model = build_model(toy_config())
    for leaf, value, cause in (
        (model.head.bias, np.inf, "loss term next_token"),  # infinite logits, finite state
        (model.cell.bias, np.nan, "loss term activity"),
    ):
        leaf[...] = leaf[...].at[3].set(value)
        state = placement.put_state(init_train_state(model, toy_config()))
        _, metrics = placement.step(state, placement.put_rows(batches()[0]))
        assert component_names(state)[int(metrics["halted"])] == cause


class Local(Toy):
    """Learns without gradients: counts bytes into the bias of its head."""

    def local_update(self, state, batch, *, key, axis_name):
        state, sums = self.loss_sums(state, batch)
        seen = (
            jax.nn.one_hot(batch["targets"], self.config.vocab_size) * batch["weights"][..., None]
        )
        counts = jax.lax.psum(seen.sum((0, 1)), axis_name)
        leaves, tree = jax.tree.flatten(self)
        model = jax.tree.unflatten(tree, leaves)
        model.head.bias[...] = self.head.bias[...] + 0.01 * counts
        return model, state, sums


def create_local(*, seed=0, dtype="float32", **fields):
    return Local(ToyConfig(dtype=dtype, **fields), nnx.Rngs(seed))


def test_model_with_local_updates():
    runs = [curve(n, model="tests.train.test_step:create_local", count=3) for n in (1, 4)]
    counts = np.zeros(256)
    for batch in batches()[:3]:
        np.add.at(counts, batch["targets"][batch["weights"] > 0], 0.01)
    for metrics, state in runs:
        np.testing.assert_allclose(state.model.head.bias[...], counts, atol=1e-6)
        assert int(state.step) == len(metrics) == 3
        # There is neither; a rate in the log would seem to have an effect.
        assert metrics[0].keys().isdisjoint({"grad_norm", "learning_rate"})
    np.testing.assert_allclose(
        [m["loss"] for m in runs[0][0]], [m["loss"] for m in runs[1][0]], rtol=ROUNDING
    )


class LocalToInf(Local):
    """Makes a parameter infinite by an update whose losses are finite."""

    def local_update(self, state, batch, *, key, axis_name):
        model, state, sums = super().local_update(state, batch, key=key, axis_name=axis_name)
        model.head.bias[...] = jnp.inf * model.head.bias[...]
        return model, state, sums


def create_local_to_inf(*, seed=0, dtype="float32", **fields):
    return LocalToInf(ToyConfig(dtype=dtype, **fields), nnx.Rngs(seed))


def test_a_broken_local_update_is_not_kept():
    (metrics,), state = curve(1, model="tests.train.test_step:create_local_to_inf", count=1)
    assert component_names(state)[int(metrics["halted"])] == "update of head/bias"
    assert np.isfinite(state.model.head.bias[...]).all()


@pytest.mark.parametrize(
    ("field", "value"), [("accumulate", 2), ("groups", {"head": 0.1}), ("freeze", {"head": 3})]
)
def test_an_optimizer_is_not_set_up_in_vain(field, value):
    changes = {f"optimizer__{field}": value}
    with pytest.raises(UserError, match=rf"optimizer\.{field}: this model learns without"):
        curve(1, model="tests.train.test_step:create_local", count=1, **changes)


class ByRow(Toy):
    """Scales each row's loss by a number that is drawn for it."""

    draws_by_row = True

    def loss_sums(self, state, batch, key=None, progress=None):
        if key is not None:
            noise = jax.vmap(jax.random.uniform)(key)[:, None]
            batch = batch | {"weights": batch["weights"] * noise}
        return super().loss_sums(state, batch, progress=progress)


def create_by_row(*, seed=0, dtype="float32", **fields):
    return ByRow(ToyConfig(dtype=dtype, **fields), nnx.Rngs(seed))


@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (4, {"optimizer__accumulate": 2}),
        (8, {"parallel": "shard_map", "mesh__fsdp": 2, "mesh__tensor": 2}),
    ],
    ids=str,
)
def test_rows_draw_the_same_numbers_wherever_they_lie(devices, changes):
    model = {"model": "tests.train.test_step:create_by_row", "count": 2}
    reference = curve(**model)
    assert_same_run(curve(devices, **model, **changes), reference)
    unscaled = curve(count=2)[0][0]["loss"]
    assert abs(reference[0][0]["loss"] - unscaled) > 0.1 * unscaled
