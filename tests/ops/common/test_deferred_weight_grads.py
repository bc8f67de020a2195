"""`deferred_scan` against `lax.scan`: values and gradients, for any number of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.common.deferred_weight_grads import deferred_scan
from jaxmodels.testing.lab import quick_jit

BATCH, WIDTH, CHUNK = 3, 6, 4
# Orders of summation differ: some 1e-7 relative in float32 over a dozen steps.
ROUNDING = 1e-5
# Both round the inputs of the same products to 8 bits, the deferred form its cotangents as well.
BFLOAT16 = 0.03


def step(dot, params, carry, x):
    """Step with two dependent matmuls and a boolean input."""
    h, total = carry
    value, flag = x["value"], x["flag"]
    h = jnp.where(flag[:, None], params["start"][None], h)
    mid = jnp.tanh(dot("in", value) + dot("own", h) + params["bias"][None])
    h = params["decay"] * h + (1.0 - params["decay"]) * dot("out", mid)
    return (h, total + mid.sum(-1)), {"h": h, "mid": jnp.sin(mid)}


def plain(step, weights, params, carry, xs, *, keep=(), chunk=None):
    """Scan with plain matmuls, differentiated by JAX."""

    def body(carry, x):
        products = {}

        def dot(name, v):
            weight = weights[name]
            v = v.astype(weight.dtype)
            products[name] = jnp.dot(v, weight, preferred_element_type=jnp.float32)
            return products[name]

        carry, y = step(dot, params, carry, x)
        return carry, (y, {name: products[name] for name in keep})

    carry, (ys, kept) = jax.lax.scan(body, carry, xs)
    return carry, ys, kept


def arguments(time, dtype=jnp.float32):
    rng = np.random.default_rng(time)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    weights = {name: 0.5 * normal(WIDTH, WIDTH) for name in ("in", "own", "out")}
    weights = {name: weight.astype(dtype) for name, weight in weights.items()}
    params = {"bias": normal(WIDTH), "decay": jnp.float32(0.7), "start": normal(WIDTH)}
    carry = (normal(BATCH, WIDTH), normal(BATCH))
    flag = rng.random((time, BATCH)) < 0.2
    flag[time // 2, 0] = True
    xs = {"value": normal(time, BATCH, WIDTH), "flag": flag}
    return weights, params, carry, xs


def value_and_gradients(run, weights, params, carry, xs, keep=("own",), pick=lambda out: out):
    """Outputs, and the gradients of a loss that looks at the last carry and at every output."""

    def forward(weights, params, carry, value):
        x = dict(xs, value=value)
        return pick(run(step, weights, params, carry, x, keep=keep, chunk=CHUNK))

    out, back = jax.vjp(forward, weights, params, carry, xs["value"])
    return out, back(jax.tree.map(jnp.cos, out))


def both(inputs, **options):
    """(deferred, plain), in one program."""

    def compare(*inputs):
        runs = (deferred_scan, plain)
        return [value_and_gradients(run, *inputs, **options) for run in runs]

    return quick_jit(compare)(*inputs)


def assert_close(got, want, tolerance):
    jax.tree.map(lambda a, b: _assert_close(a, b, tolerance), got, want)


def _assert_close(got, want, tolerance):
    assert got.dtype == want.dtype and got.shape == want.shape
    got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
    assert np.abs(got - want).max() <= tolerance * max(np.abs(want).max(), 1e-3)


@pytest.mark.parametrize("time", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 1])
def test_equal_to_scan(time):
    got, want = both(arguments(time))
    assert_close(got, want, ROUNDING)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(want[1]))


PARTS = {
    "the last carry": lambda out: out[0][0],
    "one output": lambda out: out[1]["mid"],
    "the kept product": lambda out: out[2]["own"],
}


@pytest.mark.parametrize("part", PARTS)
def test_loss_of_one_output(part):
    """Cotangents of the others are left out, not wrong."""
    got, want = both(arguments(CHUNK + 1), pick=PARTS[part])
    assert_close(got, want, ROUNDING)


def test_keep_is_optional():
    got, want = both(arguments(CHUNK + 1), keep=())
    assert got[0][2] == {}
    assert_close(got, want, ROUNDING)


def test_bfloat16_weights():
    got, want = both(arguments(2 * CHUNK + 1, jnp.bfloat16))
    assert all(g.dtype == jnp.bfloat16 for g in got[1][0].values())
    assert_close(got[0], want[0], ROUNDING)
    assert_close(got[1], want[1], BFLOAT16)


def test_vmap():
    inputs = arguments(CHUNK + 1)
    doubled = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), inputs[3])

    def each(run):
        return jax.vmap(lambda xs: value_and_gradients(run, *inputs[:3], xs))(doubled)

    got, want = quick_jit(lambda: (each(deferred_scan), each(plain)))()
    assert_close(got, want, ROUNDING)


def test_duplicate_name_is_rejected():
    def twice(dot, params, carry, x):
        return carry, dot("own", dot("own", x))

    inputs = arguments(2)
    with pytest.raises(ValueError, match="'own'"):
        deferred_scan(twice, inputs[0], {}, 0.0, inputs[3]["value"])


def test_derivative_equals_finite_differences():
    """Compare the gradient with finite differences."""
    inputs = arguments(2 * CHUNK + 1)
    rng = np.random.default_rng(1)

    def loss(weights):
        (h, total), ys, _ = deferred_scan(step, weights, *inputs[1:], chunk=CHUNK)
        return jnp.sum(h) + jnp.sum(total) + jnp.sum(ys["h"] ** 2)

    direction = {k: rng.standard_normal(w.shape, np.float32) for k, w in inputs[0].items()}
    gradient = jax.grad(loss)(inputs[0])
    slope = sum(float(jnp.vdot(gradient[k], direction[k])) for k in direction)

    def at(distance):
        return loss(jax.tree.map(lambda w, d: w + distance * d, inputs[0], direction))

    # Central difference: error ~ e^2 of the third derivative plus rounding / e; both ~1e-3 here.
    numeric = float(at(3e-3) - at(-3e-3)) / 6e-3
    assert abs(numeric - slope) < 1e-2 * abs(slope)
