"""Interpolation of a HyperTensor's three columns along its signed distance.

A column stands at each of the knots dneg < 0 < dpos. With t in [-1, 1], the distance over the band
on its side, an interpolation is three weights (negative, zero, positive) that sum to 1, and are
(1, 0, 0), (0, 1, 0) and (0, 0, 1) at the knots. (The source's Hermite form is no partition of unity
on the negative side: its weights fall to a sum of 0.85.)
"""

import jax
import jax.numpy as jnp

INTERPOLATIONS = ("lerp", "hermite", "catmull_rom", "quadratic")
ONE_SIDED = ("lerp", "hermite")  # the outer column of the other side has weight and slope 0


def interpolate(signed: jax.Array, bands: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
    """Return the weights of the columns and their derivative along the distance.

    Args:
      signed: float32 (..., ), d = n . x + delta.
      bands: float32 (..., 2), dneg < 0 and dpos > 0; beyond them the outer column counts alone.
      kind: one of `INTERPOLATIONS`: straight lines; a cubic that is flat at the knots; a cubic with
        the slope of its neighbours; the parabola through all three columns.

    Returns:
      (weights, slopes) float32 (3, ...), planes first for the sake of products of matrices; slopes
      are 0 outside the bands.
    """
    band = jnp.where(signed >= 0.0, bands[..., 1], -bands[..., 0])
    t = signed / band
    inside = jnp.abs(t) < 1.0
    t = jnp.clip(t, -1.0, 1.0)
    weights, by_t = jax.jvp(lambda t: jnp.stack(_WEIGHTS[kind](t)), (t,), (jnp.ones_like(t),))
    return weights, by_t * jnp.where(inside, 1.0 / band, 0.0)[None]


def _lerp(t):
    right = jnp.where(t >= 0.0, t, 0.0)
    left = jnp.where(t < 0.0, -t, 0.0)
    return left, 1.0 - left - right, right


def _hermite(t):
    r = jnp.where(t >= 0.0, t, -t)
    outer = r * r * (3.0 - 2.0 * r)
    return jnp.where(t < 0.0, outer, 0.0), 1.0 - outer, jnp.where(t < 0.0, 0.0, outer)


def _catmull_rom(t):
    """Cubic Hermite: slope (pos - neg) / 2 in the middle, (outer - zero) at the outer knot."""
    r = jnp.where(t >= 0.0, t, -t)
    start = r * r * (2.0 * r - 3.0) + 1.0
    start_slope = r * (r - 1.0) * (r - 1.0)
    end_slope = r * r * (r - 1.0)
    near = 1.0 - start + 0.5 * start_slope + end_slope
    far = -0.5 * start_slope
    left, right = jnp.where(t < 0.0, near, far), jnp.where(t < 0.0, far, near)
    return left, start - end_slope, right


def _quadratic(t):
    return 0.5 * t * (t - 1.0), 1.0 - t * t, 0.5 * t * (t + 1.0)


_WEIGHTS = {
    "lerp": _lerp,
    "hermite": _hermite,
    "catmull_rom": _catmull_rom,
    "quadratic": _quadratic,
}
