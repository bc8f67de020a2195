"""Losses against float64 NumPy written from their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((4, 5, 7)) * 3
LABELS = RNG.integers(0, 7, (4, 5))
WEIGHTS = RNG.random((4, 5))
HOLES = RNG.random((4, 5)) < 0.4
MASKED = np.where(HOLES, -1, LABELS)
KNOWN = (~HOLES).astype(np.float64)
VECTORS = RNG.standard_normal((4, 5, 6))
CLASSES = RNG.standard_normal((7, 6))
TOLERANCE = 2e-6  # float32 sums of 20 terms


def f32(*arrays):
    """Onto the device, as float32 or int32."""
    return [jnp.asarray(a, jnp.float32 if a.dtype == np.float64 else jnp.int32) for a in arrays]


def nll(logits, labels):
    logits = logits - logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], -1)[..., 0]


@pytest.mark.parametrize(("labels", "weights"), [(LABELS, WEIGHTS), (MASKED, KNOWN)])
def test_cross_entropy(labels, weights):
    got = losses.cross_entropy_sum(*f32(LOGITS, labels, weights))
    np.testing.assert_allclose(got, (nll(LOGITS, labels) * weights).sum(), rtol=TOLERANCE)
    right = (LOGITS.argmax(-1) == labels) * weights
    got = losses.correct_sum(*f32(LOGITS, labels, weights))
    np.testing.assert_allclose(got, right.sum(), rtol=TOLERANCE)


def test_the_first_of_equal_logits_is_predicted():
    logits = jnp.asarray([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0], [-jnp.inf, -1.0, -jnp.inf]])
    for labels, count in (((1, 0, 1), 3.0), ((2, 1, 0), 0.0)):
        assert losses.correct_sum(logits, jnp.asarray(labels), jnp.ones(3)) == count


def test_cross_entropy_of_extreme_logits_and_half_precision():
    logits = jnp.asarray([[3e4, -3e4, 0.0], [0.0, -jnp.inf, 1.0]])
    # The -inf belongs to a class that is not the label, or to a target without weight.
    loss = losses.cross_entropy_sum(logits, jnp.asarray([1, 0]), jnp.ones(2))
    np.testing.assert_allclose(loss, 6e4 + np.log1p(np.e), rtol=TOLERANCE)
    ignored = losses.cross_entropy_sum(logits, jnp.asarray([0, 1]), jnp.asarray([1.0, 0.0]))
    assert ignored == 0.0
    half = losses.cross_entropy_sum(jnp.asarray(LOGITS, jnp.bfloat16), *f32(LABELS, WEIGHTS))
    rounded = np.asarray(jnp.asarray(LOGITS, jnp.bfloat16), np.float64)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, (nll(rounded, LABELS) * WEIGHTS).sum(), rtol=TOLERANCE)


def test_masked_targets_have_no_gradient():
    """Not even where the masked logits are not finite."""
    logits = np.where(HOLES[..., None], np.inf, LOGITS)

    def loss(logits):
        return losses.cross_entropy_sum(logits, *f32(MASKED, KNOWN))

    gradient = jax.grad(loss)(jnp.asarray(LOGITS, jnp.float32))
    assert not gradient[HOLES].any() and gradient[~HOLES].all()
    assert np.isfinite(loss(jnp.asarray(logits, jnp.float32)))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_contrastive(temperature):
    vectors, classes = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (VECTORS, CLASSES))
    logits = vectors @ classes.T / temperature
    want = (nll(logits, MASKED) * KNOWN).sum()
    vectors, classes, labels, weights = f32(VECTORS, CLASSES, MASKED, KNOWN)
    for scale in (1.0, 5.0):  # lengths do not count, directions do
        found = losses.similarities(vectors * scale, classes, temperature)
        got = losses.cross_entropy_sum(found, labels, weights)
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_zero_vectors_have_finite_gradients():
    zeros = jnp.zeros((2, 6))
    labels, weights = jnp.asarray([0, 3]), jnp.ones(2)

    def loss(v, c):
        return losses.cross_entropy_sum(losses.similarities(v, c, 0.1), labels, weights)

    for v, c in ((zeros, jnp.asarray(CLASSES, jnp.float32)), (zeros, jnp.zeros((7, 6)))):
        value, gradients = jax.value_and_grad(loss, (0, 1))(v, c)
        np.testing.assert_allclose(value, 2 * np.log(7), rtol=TOLERANCE)
        assert all(np.isfinite(g).all() for g in gradients)
    for measure in (losses.entropy, losses.participation):
        value, gradient = jax.value_and_grad(lambda x, f=measure: f(x).sum())(zeros)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_entropy():
    p = np.exp(np.abs(VECTORS))
    p /= p.sum(-1, keepdims=True)
    got = losses.entropy(*f32(VECTORS))
    np.testing.assert_allclose(got, -(p * np.log(p)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(losses.entropy(jnp.full((6,), -2.0)), np.log(6), rtol=TOLERANCE)
    assert losses.entropy(jnp.asarray([0.0, 90.0, 0.0])) < 1e-6


def test_participation():
    squares = VECTORS**2
    want = squares.sum(-1) ** 2 / (6 * (squares**2).sum(-1))
    np.testing.assert_allclose(losses.participation(*f32(VECTORS)), want, rtol=1e-5)
    one_hot, flat = jnp.eye(8)[2], jnp.full((8,), -3.0)
    np.testing.assert_allclose(losses.participation(one_hot), 1 / 8, rtol=1e-5)
    np.testing.assert_allclose(losses.participation(flat), 1.0, rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_importance(exponent):
    """G-17: a target counts by how little it was expected, and no gradient flows through that."""
    logits, labels, weights = f32(LOGITS, MASKED, KNOWN)
    total, gradient = jax.value_and_grad(losses.important_sum)(logits, labels, weights, exponent)
    each = nll(LOGITS, MASKED)
    share = (1.0 - np.exp(-each)) ** exponent
    np.testing.assert_allclose(total, (share * each * KNOWN).sum(), rtol=1e-5)
    plain = jax.grad(losses.cross_entropy_sum)(logits, labels, weights)
    np.testing.assert_allclose(gradient, plain * share[..., None], rtol=1e-4, atol=1e-6)
    sure = jnp.asarray([[200.0, 0.0]])
    arguments = sure, jnp.asarray([0]), jnp.ones(1), exponent
    value, slope = jax.value_and_grad(losses.important_sum)(*arguments)
    assert value == 0.0 and not slope.any()
