"""The two layers every cell is made of: parameters float32, products in the compute dtype.

A matrix that weight decay may touch is called `kernel`; nothing else is.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.ops.precision import precision_of

ACTIVATIONS = {"none": lambda x: x, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
GLOROT = nnx.initializers.glorot_uniform()


def symmetric_uniform(bound: float):
    """An initialiser: uniform on (-bound, bound)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def truncated_normal(deviation: float):
    """An initialiser: normal, cut off at two deviations, and then of that standard deviation."""
    return nnx.initializers.truncated_normal(deviation / 0.87962566103423978)


def dot(x: jax.Array, kernel: jax.Array, dtype) -> jax.Array:
    """`x @ kernel` with inputs rounded to `dtype`, accumulated and returned in float32."""
    # In two dimensions: in three, XLA's CPU compiler computes what leads to the gradient of the
    # kernel a second time, transposed, element by element (over twice the time of a gated layer).
    flat = x.reshape(-1, x.shape[-1]).astype(dtype)
    options = {"precision": precision_of(dtype), "preferred_element_type": jnp.float32}
    y = jnp.dot(flat, kernel.astype(dtype), **options)
    return y.reshape(*x.shape[:-1], -1)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Normalises the last axis in float32; population variance, as everywhere in the field."""
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    return x * on_last(scale, x) + on_last(bias, x)


def on_last(vector: jax.Array, x: jax.Array) -> jax.Array:
    """vector (n,) with as many axes as x, (1, ..., 1, n)."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class Linear(nnx.Module):
    """`x @ kernel + bias`; kernel (inputs, outputs) drawn by `init`, bias zero."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, init=GLOROT, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32)) if bias else None

    def __call__(self, x: jax.Array, dtype=jnp.float32) -> jax.Array:
        """(..., inputs) -> (..., outputs) float32."""
        y = dot(x, self.kernel[...], dtype)
        return y if self.bias is None else y + on_last(self.bias[...], y)


class LowRank(nnx.Module):
    """`bias + activation(x @ down) @ up`: a map of low rank, as RWKV makes its decays and gates.

    `down` (inputs, rank) starts at 0 and `up` (rank, outputs) orthogonal times 0.1, so that the map
    starts at its bias. Neither is called kernel: they shape decays and gates.
    """

    def __init__(
        self, inputs: int, rank: int, outputs: int, *, bias=None, activation="none", rngs: nnx.Rngs
    ):
        self.activation = activation
        self.down = nnx.Param(jnp.zeros((inputs, rank), jnp.float32))
        up = nnx.initializers.orthogonal(0.1)(rngs.params(), (rank, outputs), jnp.float32)
        self.up = nnx.Param(up)
        self.bias = None if bias is None else nnx.Param(jnp.asarray(bias, jnp.float32))

    def __call__(self, x: jax.Array, dtype=jnp.float32) -> jax.Array:
        """(..., inputs) -> (..., outputs) float32."""
        hidden = ACTIVATIONS[self.activation](dot(x, self.down[...], dtype))
        y = dot(hidden, self.up[...], dtype)
        return y if self.bias is None else y + on_last(self.bias[...], y)


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis; scale one, bias zero."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., width) -> (..., width) float32."""
        return layer_norm(x, self.scale[...], self.bias[...])


class Embedding(nnx.Module):
    """Token embedding; `table` (vocab, width) drawn by `init`, standard normal if None."""

    def __init__(self, vocab: int, width: int, *, init=None, rngs: nnx.Rngs):
        init = init or nnx.initializers.normal(1.0)
        self.table = nnx.Param(init(rngs.params(), (vocab, width), jnp.float32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int (...) -> float32 (..., width)."""
        return self.table[...][tokens]


def group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """LayerNorm of each head by itself: x (..., heads, size) -> (..., heads * size) float32.

    scale, bias: (heads * size,).
    """
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    x = x.reshape(*x.shape[:-2], -1)
    return x * on_last(scale, x) + on_last(bias, x)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float = 1e-5) -> jax.Array:
    """x over its root mean square along the last axis, times scale, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * on_last(scale, x)


class RMSNorm(nnx.Module):
    """RMSNorm over the last axis; scale one."""

    def __init__(self, width: int, eps: float = 1e-5):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., width) -> (..., width) float32."""
        return rms_norm(x, self.scale[...], self.eps)


def shift_in(xs: jax.Array, before: jax.Array, reset: jax.Array | None) -> jax.Array:
    """The token before each token (SYSTEMS 7.1): what a token shift mixes in.

    Args:
      xs: (batch, time, width).
      before: (batch, width), the token before the first.
      reset: bool (batch, time) or None; where True there is no token before, which reads as 0.
    """
    previous = jnp.concatenate([before[:, None], xs[:, :-1]], 1)
    return previous if reset is None else jnp.where(reset[..., None], 0.0, previous)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; the identity without a key or at rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)
