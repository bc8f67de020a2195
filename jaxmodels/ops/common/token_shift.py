"""Each token mixed with the one before it, in several proportions at once (SYSTEMS 7.1)."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def token_mix(x: jax.Array, before: jax.Array, mix: jax.Array) -> tuple[jax.Array, ...]:
    """x + (before - x) * mu for each mu, in float32.

    The gradients of all mixtures are added up in one pass. Left to itself, the derivative weighs
    each of them by its mu first, in an array of its own, and reads all of those three times.

    Args:
      x, before: (..., C) tokens and the tokens before them.
      mix: (n, C).

    Returns:
      n arrays (..., C).
    """
    return _forward(x, before, mix)[0]


def _forward(x, before, mix):
    mixed = tuple(x + (before - x) * mu for mu in _rows(mix, x))
    return mixed, (x, before, mix)


def _backward(saved, cotangents):
    x, before, mix = saved
    d_before = sum(d * mu for d, mu in zip(cotangents, _rows(mix, x), strict=True))
    d_x, d_before = jax.lax.optimization_barrier((sum(cotangents) - d_before, d_before))
    tokens = tuple(range(x.ndim - 1))
    d_mix = [jnp.sum(d * (before - x), tokens) for d in cotangents]
    return d_x, d_before, jnp.stack(d_mix)


def _rows(mix, x):
    return [mu.reshape((1,) * (x.ndim - 1) + (-1,)) for mu in mix]


token_mix.defvjp(_forward, _backward)
