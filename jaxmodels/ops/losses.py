"""Losses as float32 sums over targets; the caller divides by a count."""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.precision import EXACT


def cross_entropy_sum(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the weighted sum of -log p(label) in nats.

    Args:
      logits: (..., classes), any float dtype.
      labels: int (...); any value, including -1, where `weights` is 0.
      weights: (...), 0 where there is no target.
    """
    return jnp.sum(jnp.where(weights > 0, _nll(logits, labels) * weights, 0.0))


def important_sum(logits, labels, weights, exponent: float) -> jax.Array:
    """Return the weighted sum of -(1 - p)^exponent log p(label): what is known counts less.

    The importance (1 - p)^exponent, that of focal loss (arXiv 1708.02002), has no gradient; at
    exponent 0 it is 1. Shapes as in `cross_entropy_sum`.
    """
    nll = _nll(logits, labels)
    importance = jax.lax.stop_gradient(jnp.maximum(-jnp.expm1(-nll), 0.0) ** exponent)
    return jnp.sum(jnp.where(weights > 0, importance * nll * weights, 0.0))


def _nll(logits, labels):
    logits = logits.astype(jnp.float32)
    # One-hot comparison, not a gather, whose gradient is a scatter that runs one row at a time.
    hit = labels[..., None] == jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    picked = jnp.sum(jnp.where(hit, logits, 0.0), -1)
    return jax.nn.logsumexp(logits, -1) - picked


def token_nll(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return -log p(label) in nats, (...), of logits (..., classes) and labels int (...).

    For evaluation, not for training: the gradient of its gather is a scatter.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), -1)
    return -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]


def log_stablemax(logits: jax.Array) -> jax.Array:
    """Return float32 logits whose softmax is stablemax(logits) = s(x) / sum s.

    s(x) = x + 1 for x >= 0, else 1 / (1 - x) (arXiv 2501.04697). The original works in float64.
    """
    x = logits.astype(jnp.float32)
    return jnp.where(x >= 0.0, jnp.log1p(jnp.maximum(x, 0.0)), -jnp.log1p(jnp.maximum(-x, 0.0)))


def correct_sum(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the weighted count of correct argmax predictions; shapes as in `cross_entropy_sum`."""
    # The first of the largest, in two reductions that XLA:CPU vectorizes, unlike that of argmax.
    places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    largest = logits == jnp.max(logits, -1, keepdims=True)
    best = jnp.min(jnp.where(largest, places, logits.shape[-1]), -1)
    return jnp.sum(jnp.where(best == labels, weights, 0.0))


def similarities(vectors: jax.Array, label_vectors: jax.Array, temperature: float) -> jax.Array:
    """Return cosine similarities (..., width) x (classes, width) -> (..., classes) / temperature.

    As logits of `cross_entropy_sum`, they give InfoNCE with all other classes as negatives.
    """
    vectors, label_vectors = unit(vectors), unit(label_vectors)
    return jnp.einsum("...d,cd->...c", vectors, label_vectors, precision=EXACT) / temperature


def unit(x: jax.Array, eps: float = 1e-6) -> jax.Array:
    """Scale the last axis to unit length; `eps` in the root keeps the gradient finite at 0."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + eps**2)


def entropy(x: jax.Array) -> jax.Array:
    """Return the entropy of softmax(|x|) over the last axis, in nats: (..., n) -> (...)."""
    log_p = jax.nn.log_softmax(jnp.abs(x.astype(jnp.float32)), -1)
    return -jnp.sum(jnp.exp(log_p) * log_p, -1)


def participation(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """Return the participation ratio (sum x^2)^2 / (n sum x^4), the fraction of active units.

    Reported with the L1 penalty, which alone says little because a LayerNorm fixes the 2-norm.
    """
    square = jnp.square(x.astype(jnp.float32))
    return jnp.square(square.sum(-1)) / (x.shape[-1] * jnp.square(square).sum(-1) + eps)
