"""The two layers every cell is made of: parameters float32, products in the compute dtype.

A matrix that weight decay may touch is called `kernel`; nothing else is.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def dot(x: jax.Array, kernel: jax.Array, dtype) -> jax.Array:
    """`x @ kernel` with inputs rounded to `dtype`, accumulated and returned in float32."""
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Normalises the last axis in float32; population variance, as everywhere in the field."""
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    return x * _last(scale, x) + _last(bias, x)


def _last(vector, x):
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class Linear(nnx.Module):
    """`x @ kernel + bias`; kernel (inputs, outputs) Glorot uniform, bias zero."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, rngs: nnx.Rngs):
        init = nnx.initializers.glorot_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32)) if bias else None

    def __call__(self, x: jax.Array, dtype=jnp.float32) -> jax.Array:
        """(..., inputs) -> (..., outputs) float32."""
        y = dot(x, self.kernel[...], dtype)
        return y if self.bias is None else y + _last(self.bias[...], y)


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis; scale one, bias zero."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., width) -> (..., width) float32."""
        return layer_norm(x, self.scale[...], self.bias[...])


class Embedding(nnx.Module):
    """Token embedding; `table` (vocab, width), normal with the given standard deviation."""

    def __init__(self, vocab: int, width: int, *, stddev: float = 1.0, rngs: nnx.Rngs):
        self.table = nnx.Param(stddev * jax.random.normal(rngs.params(), (vocab, width)))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int (...) -> float32 (..., width)."""
        return self.table[...][tokens]


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; the identity without a key or at rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)
