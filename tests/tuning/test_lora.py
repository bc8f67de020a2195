"""Low-rank additions: what they add, to which matrices, and their gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.models.contract import parameters_of
from jaxmodels.testing.models import small_config
from jaxmodels.tree import flatten, unflatten
from jaxmodels.tuning import learn_additions
from train.optim.weight_decay import decay_factors

ROWS, TIME = 2, 12


@pytest.fixture(scope="module")
def base():
    return jaxmodels.create(small_config("mamba/2"))


@pytest.fixture(scope="module")
def batch():
    tokens = np.random.default_rng(0).integers(1, 17, (ROWS, TIME + 1)).astype(np.int32)
    reset = np.zeros((ROWS, TIME), bool)
    reset[0, 0] = reset[1, 5] = True
    weights = np.ones((ROWS, TIME), np.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights, "reset": reset}


def shaken(model, scale=0.1):
    """The model with normal noise in its factors, which start with a product of 0."""
    rng = np.random.default_rng(1)
    noise = {
        name: jnp.asarray(rng.normal(0, scale, x.shape), jnp.float32)
        for name, x in parameters_of(model).items()
    }
    return unflatten(model, flatten(model) | noise)


def loss(model, batch):
    return model.loss_sums(model.initial_state(ROWS), batch)[1]["next_token"]


def test_it_starts_as_the_base(base, batch):
    model = learn_additions(base, rank=4)
    assert jax.jit(loss)(model, batch) == jax.jit(loss)(base, batch)
    for name, x in flatten(model.merged()).items():
        np.testing.assert_array_equal(x, flatten(base)[name], err_msg=name)
    down = model.additions["layers/mixer/in_proj/kernel"].down.kernel
    assert down.shape == (2, 32, 4)
    assert np.ptp(down) > 0


def test_the_sum_equals_float64(base):
    model = shaken(learn_additions(base, rank=4, alpha=6.0), 1.0)
    merged, before, parts = (flatten(x) for x in (model.merged(), base, model))
    changed = [name for name in before if np.any(merged[name] != before[name])]
    assert changed == ["layers/mixer/in_proj/kernel", "layers/mixer/out_proj/kernel"]
    for name in changed:
        down, up = (np.float64(parts[f"additions/{name}/{x}/kernel"]) for x in ("down", "up"))
        want = np.float64(before[name]) + 6.0 / 4 * down @ up
        # Four products and two sums of float32, each within 2^-24 of values of about 10.
        np.testing.assert_allclose(merged[name], want, rtol=0, atol=2e-6)


def test_merged_and_unmerged_agree(base, batch):
    """The same operations; compiled apart, XLA may fuse and round them otherwise."""
    model = shaken(learn_additions(base, rank=4))
    merged = jax.jit(loss)(jax.jit(lambda m: m.merged())(model), batch)
    np.testing.assert_allclose(jax.jit(loss)(model, batch), merged, rtol=1e-6)
    assert abs(float(merged) - float(loss(base, batch))) > 0.1  # the additions matter
    assert type(model.merged()) is type(base)


def test_gradients_equal_finite_differences(base, batch):
    model = shaken(learn_additions(base, rank=2))
    params = parameters_of(model)

    @jax.jit
    def value(params):
        return loss(unflatten(model, flatten(model) | params), batch)

    with jax.default_matmul_precision("highest"):
        grads = jax.jit(jax.grad(value))(params)
        rng = np.random.default_rng(2)
        for name in params:
            way = jnp.asarray(rng.normal(size=params[name].shape), jnp.float32)
            way /= jnp.linalg.norm(way)
            step = 1e-2
            ends = [value(params | {name: params[name] + sign * step * way}) for sign in (1, -1)]
            # The loss is about 60, so its rounding, 4e-6, over 2 steps is 2e-4 of a slope of 1.
            numeric = float(ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(jnp.vdot(grads[name], way), numeric, rtol=5e-3, atol=2e-3)


def test_gradient_of_the_factors_is_that_of_the_matrix(base, batch):
    """Chain rule: d down = scale G up^T and d up = scale down^T G, G the base's own gradient."""
    model = shaken(learn_additions(base, rank=2, alpha=6.0))
    grads = flatten(jax.jit(jax.grad(loss))(model, batch))
    dense = flatten(jax.jit(jax.grad(loss))(model.merged(), batch))
    for name, addition in model.additions.items():
        whole = dense[name]
        down = 3.0 * whole @ addition.up.kernel[...].swapaxes(1, 2)
        up = 3.0 * addition.down.kernel[...].swapaxes(1, 2) @ whole
        scale = float(jnp.abs(whole).max())
        for part, want in (("down", down), ("up", up)):
            got = grads[f"additions/{name}/{part}/kernel"]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank": 33}, "rank: 33 is more than the 32 that layers/mixer/in_proj/kernel (32 x 392)"),
        ({"rank": 2, "targets": ("in_prj",)}, "no matrix is called 'in_prj'; did you mean"),
    ],
)
def test_wrong_arguments(base, fields, words):
    with pytest.raises(UserError) as caught:
        learn_additions(base, **fields)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (("out_proj",), ["out_proj"]),
        (("layers/*/in_proj",), ["in_proj"]),
        (("mixer",), ["in_proj", "out_proj"]),
    ],
)
def test_targets(base, targets, names):
    model = learn_additions(base, rank=1, targets=targets)
    assert list(model.additions) == [f"layers/mixer/{name}/kernel" for name in names]


def test_labels_are_those_of_the_matrices():
    model = learn_additions(jaxmodels.create(small_config("groundthink")), rank=1)
    label = model.parameter_label
    names = [n for n in model.additions if "rwkv" in n]
    assert names
    for name in names:
        assert label(f"additions/{name}/down/kernel") == model.base.parameter_label(name)


def test_weight_decay_leads_to_the_base(base):
    """Also where it spares columns of the matrix: there it would lead to another model."""
    model = learn_additions(base, rank=4)
    factors = decay_factors(model)
    learned = {name: factors[name] for name in parameters_of(model)}
    assert set(learned.values()) == {1.0} and len(learned) == 4
    assert np.any(factors["base/layers/mixer/in_proj/kernel"] == 0.0)  # the step sizes
    for name in learned:
        model = unflatten(model, flatten(model) | {name: 0.0 * flatten(model)[name]})
    for name, x in flatten(model.merged()).items():
        np.testing.assert_array_equal(x, flatten(base)[name], err_msg=name)
