"""RWKV's token shift: the previous token, and interpolations between it and the token."""

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.common.varying import cast_alike


def token_shift(xs: jax.Array, before: jax.Array, reset: jax.Array | None) -> jax.Array:
    """Return the previous token of each token, (batch, time, width).

    Args:
      xs: (batch, time, width).
      before: (batch, width), the token before the first.
      reset: bool (batch, time) or None; where True, the previous token is 0.
    """
    previous = jnp.concatenate([before[:, None], xs[:, :-1]], 1)
    return previous if reset is None else jnp.where(reset[..., None], 0.0, previous)


def last_token(xs: jax.Array, before: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Return the last token of each row, (batch, ...); `before` of a row without any.

    Args:
      xs: (batch, time, ...).
      before: (batch, ...), the token before the first.
      lengths: int (batch,), tokens of each row, the others being padding at the end; or None.
    """
    if lengths is None:
        return xs[:, -1]
    index = jnp.maximum(lengths - 1, 0).reshape((-1,) + (1,) * (xs.ndim - 1))
    last = jnp.take_along_axis(xs, index, 1)[:, 0]
    return jnp.where(lengths.reshape((-1,) + (1,) * (before.ndim - 1)) > 0, last, before)


def token_mix(x: jax.Array, before: jax.Array, mix: jax.Array) -> tuple[jax.Array, ...]:
    """Return n arrays x + (before - x) * mu, float32 (..., C), for mu in mix (n, C).

    The custom gradient adds up the cotangents in one pass; the default one would materialize each
    of them times its mu, and read those arrays three times. One token, (B, C), takes the default,
    which has a forward mode.
    """
    if x.ndim <= 2:
        return _forward(x, before, mix)[0]
    return _mixed(*cast_alike(x, before, mix))


@jax.custom_vjp
def _mixed(x, before, mix):
    return _forward(x, before, mix)[0]


def _forward(x, before, mix):
    weights = [broadcast_to_last_axis(mu, x) for mu in mix]
    return tuple(x + (before - x) * mu for mu in weights), (x, before, mix)


def _backward(saved, cotangents):
    x, before, mix = saved
    weights = [broadcast_to_last_axis(mu, x) for mu in mix]
    d_before = sum(d * mu for d, mu in zip(cotangents, weights, strict=True))
    d_x, d_before = jax.lax.optimization_barrier((sum(cotangents) - d_before, d_before))
    tokens = tuple(range(x.ndim - 1))
    d_mix = [jnp.sum(d * (before - x), tokens) for d in cotangents]
    return d_x, d_before, jnp.stack(d_mix)


_mixed.defvjp(_forward, _backward)
