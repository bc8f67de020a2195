"""How far an input is from a HyperTensor, and how much the nearest ones count."""

import jax
import jax.numpy as jnp

DISTANCES = ("euclidean", "planar", "hybrid", "hybrid_exp")
WEIGHTINGS = ("softmax", "inverse")
TINY = 1e-12  # keeps the derivative of a root finite
SCALE = 5.0  # the source's lambda of hybrid_exp
EPS = 1e-6  # added to squared distances, and to distances that are divided by


def distance(
    kind: str, projected: jax.Array, square: jax.Array, offset: jax.Array, normal_square: jax.Array
) -> jax.Array:
    """Return the distances of inputs to tensors.

    Args:
      kind: "euclidean", |x - a| to the anchor a = -delta n: local, since near inputs have the same
        nearest anchors; "planar", |n . x + delta|, as the source has it: a plane is unbounded, and
        the nearest planes of two inputs at cosine 0.99 are mostly different ones; "hybrid", the
        root of their product; "hybrid_exp", that times exp of the root of it over 5.
      projected: n . x, float32 (B, N).
      square: |x|^2, (B, 1).
      offset: delta, (B or 1, N).
      normal_square: |n|^2, (B or 1, N).

    Returns:
      float32 (B, N), positive.
    """
    offset = jnp.broadcast_to(offset, projected.shape)
    if kind == "planar":
        return jnp.abs(projected + offset)
    # |x + delta n|^2, of the stored n, which is not exactly of unit length.
    whole = square + 2.0 * offset * projected + offset * offset * normal_square
    euclidean = jnp.sqrt(jnp.maximum(whole, 0.0) + EPS)
    if kind == "euclidean":
        return euclidean
    base = jnp.sqrt(jnp.abs(projected + offset) * euclidean + TINY)
    return base if kind == "hybrid" else base * jnp.exp(jnp.sqrt(base / SCALE))


def weigh(kind: str, distances: jax.Array, temperature: float) -> jax.Array:
    """Return weights (B, K) that sum to 1: softmax(-D / temperature), or 1 / D.

    Tensors at an infinite distance get weight 0; at least one of each row must be at a finite one.
    """
    if kind == "softmax":
        return jax.nn.softmax(-distances / temperature, -1)
    inverse = 1.0 / (distances + EPS)
    return inverse / inverse.sum(-1, keepdims=True)
