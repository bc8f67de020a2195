"""silu(z) = z sigmoid(z), alone and as a gate, in a form that XLA:CPU computes once.

XLA:CPU fuses cheap operations, and all cheap operations before them, into each of their consumers,
be it a convolution. It does not fuse divisions so; here a division comes last.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def silu(z: jax.Array) -> jax.Array:
    """Return z / (1 + exp(-z)), of any shape."""
    return z / (1.0 + jnp.exp(-z))


def _slope(z):
    """Return numerator and denominator of silu's derivative; exp(-z) may be infinite."""
    below = 1.0 + jnp.exp(-z)
    return 1.0 + z * (1.0 - 1.0 / below), below


def _silu_forward(z):
    return silu(z), z


def _silu_backward(z, g):
    above, below = _slope(z)
    return (g * above / below,)


silu.defvjp(_silu_forward, _silu_backward)


@jax.custom_vjp
def gated(y: jax.Array, z: jax.Array) -> jax.Array:
    """Return y silu(z), both of one shape."""
    return y * z / (1.0 + jnp.exp(-z))


def _gated_forward(y, z):
    return gated(y, z), (y, z)


def _gated_backward(saved, g):
    y, z = saved
    above, below = _slope(z)
    return g * z / below, g * y * above / below


gated.defvjp(_gated_forward, _gated_backward)
