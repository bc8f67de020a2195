"""silu(z) = z sigmoid(z), alone and as a gate, written so that XLA:CPU computes it once.

XLA:CPU duplicates chains of cheap operations into each consumer, even a convolution, but not
divisions, so a division comes last here. One token, (B, D), takes JAX's own derivative, which has a
forward mode: a scan over steps can be differentiated in both.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.varying import cast_alike


def silu(z: jax.Array) -> jax.Array:
    """Return z / (1 + exp(-z))."""
    return jax.nn.silu(z) if z.ndim <= 2 else _silu(z)


@jax.custom_vjp
def _silu(z):
    return z / (1.0 + jnp.exp(-z))


def _slope(z):
    """Return numerator and denominator of silu's derivative, finite even if exp(-z) is Inf."""
    below = 1.0 + jnp.exp(-z)
    return 1.0 + z * (1.0 - 1.0 / below), below


def _silu_forward(z):
    # Not by `_silu`: JAX fails at second derivatives of a custom derivative that calls itself in a
    # checkpoint in a scan (tests/models/test_derivatives.py).
    return z / (1.0 + jnp.exp(-z)), z


def _silu_backward(z, g):
    above, below = _slope(z)
    return (g * above / below,)


_silu.defvjp(_silu_forward, _silu_backward)


def gated(y: jax.Array, z: jax.Array) -> jax.Array:
    """Return y silu(z), for equal shapes."""
    return y * jax.nn.silu(z) if z.ndim <= 2 else _gated(*cast_alike(y, z))


@jax.custom_vjp
def _gated(y, z):
    return y * z / (1.0 + jnp.exp(-z))


def _gated_forward(y, z):
    return y * z / (1.0 + jnp.exp(-z)), (y, z)


def _gated_backward(saved, g):
    y, z = saved
    above, below = _slope(z)
    return g * z / below, g * y * above / below


_gated.defvjp(_gated_forward, _gated_backward)
