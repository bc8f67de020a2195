"""Layers and initializers: float32 parameters, matmuls in the compute dtype.

Weight decay applies to the parameters named `kernel`, and only to these, except for the columns in
their metadata `undecayed`, pairs (start, stop): what computes gates, decays and step sizes (G-21 of
docs/systems.md). A gate is a factor in [0, 1], or the SiLU that scales what a mixer reads from
its state. The SiLU of a gated MLP is no gate in this sense but its nonlinearity; its columns decay.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.common.precision import precision_of
from jaxmodels.ops.norms import layer_norm, rms_norm
from jaxmodels.ragged import hold_after

EVERY_COLUMN = ((0, None),)  # of a kernel, as `undecayed`
ACTIVATIONS = {"none": lambda x: x, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
GLOROT = nnx.initializers.glorot_uniform()


def symmetric_uniform(bound: float):
    """Return an initializer that is uniform on (-bound, bound)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def truncated_normal(deviation: float):
    """Return a normal initializer truncated at two deviations and rescaled to `deviation`."""
    return nnx.initializers.truncated_normal(deviation / 0.87962566103423978)


def time_step_bias(key, size: int) -> jax.Array:
    """Draw Mamba's initial step-size bias, whose softplus is log-uniform on (1e-3, 0.1)."""
    low, high = jnp.log(1e-3), jnp.log(0.1)
    step = jnp.exp(jax.random.uniform(key, (size,), jnp.float32, low, high))
    step = jnp.maximum(step, 1e-4)
    return step + jnp.log(-jnp.expm1(-step))


def within(lengths: jax.Array | None, time: int, write=None):
    """Return `write`, float32 (B, time) or None for 1, with 0 after `lengths`, int (B,), tokens."""
    if lengths is None:
        return write
    real = ~hold_after(lengths, time)
    return real.astype(jnp.float32) if write is None else jnp.where(real, write, 0.0)


def assign_rates(groups, count: int) -> np.ndarray:
    """Return float64 rates (count,) of channels or heads, in order of the groups.

    groups: pairs (fraction of the channels, rate). Each group gets at least one channel if there
    are enough; the last gets the rest.
    """
    shares = np.cumsum([share for share, _ in groups])
    ends = np.round(shares / shares[-1] * count).astype(int)
    for i in range(len(ends)):
        ends[i] = min(max(ends[i], i + 1), count)
    ends[-1] = count
    rates = np.concatenate(
        [np.full(n, rate) for (_, rate), n in zip(groups, np.diff(ends, prepend=0), strict=True)]
    )
    return rates.astype(np.float64)


def normalize_heads(state: jax.Array, groups: int, gain: jax.Array) -> jax.Array:
    """Scale state (B, H, N, N) to unit mean square per group of heads, times gain (H N,)."""
    batch, heads, _, size = state.shape
    parts = _unit_mean_square(state.reshape(batch, groups, -1), (2,)).reshape(state.shape)
    return parts * gain.reshape(1, heads, 1, size)


def normalize_channels(state: jax.Array, groups: int, gain: jax.Array) -> jax.Array:
    """Scale state (B, ..., D) to unit mean square per group of channels, times gain (D,)."""
    shape = state.shape
    parts = state.reshape(shape[0], -1, groups, shape[-1] // groups)
    parts = _unit_mean_square(parts, (1, 3)).reshape(shape)
    return parts * broadcast_to_last_axis(gain, state)


def _unit_mean_square(x, axes):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axes, keepdims=True) + 1e-5)


def dot(x: jax.Array, kernel: jax.Array, dtype) -> jax.Array:
    """Return `x @ kernel`, inputs rounded to `dtype`, accumulated and returned in float32."""
    # Flattened to 2-D: in 3-D, XLA:CPU recomputes the cotangent, transposed element by element, for
    # the kernel's gradient (over twice the time of a gated layer).
    flat = x.reshape(-1, x.shape[-1]).astype(dtype)
    options = {"precision": precision_of(dtype), "preferred_element_type": jnp.float32}
    y = jnp.dot(flat, kernel.astype(dtype), **options)
    return y.reshape(*x.shape[:-1], -1)


class Linear(nnx.Module):
    """Linear layer `x @ kernel + bias`; kernel (inputs, outputs) drawn by `init`, bias zero.

    `undecayed`: ranges (start, stop) of outputs whose columns of the kernel weight decay spares.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        init=GLOROT,
        undecayed: tuple = (),
        rngs: nnx.Rngs,
    ):
        kernel = init(rngs.params(), (inputs, outputs), jnp.float32)
        self.kernel = nnx.Param(kernel, undecayed=undecayed)
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32)) if bias else None

    def __call__(self, x: jax.Array, dtype=jnp.float32) -> jax.Array:
        """Map x (..., inputs) to (..., outputs) float32."""
        y = dot(x, self.kernel[...], dtype)
        return y if self.bias is None else y + broadcast_to_last_axis(self.bias[...], y)


class LowRank(nnx.Module):
    """Low-rank map `bias + activation(x @ down) @ up`, as RWKV uses for decays and gates.

    `down` (inputs, rank) starts at 0 and `up` (rank, outputs) orthogonal times 0.1, so that the map
    starts at its bias. Neither is named kernel: weight decay must not act on decays and gates.
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
        """Map x (..., inputs) to (..., outputs) float32."""
        hidden = ACTIVATIONS[self.activation](dot(x, self.down[...], dtype))
        y = dot(hidden, self.up[...], dtype)
        return y if self.bias is None else y + broadcast_to_last_axis(self.bias[...], y)


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis; scale one, bias zero."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: jax.Array, implementation: str = "auto") -> jax.Array:
        """Normalize x (..., width) to float32; for `implementation`, see `ops.norms.layer_norm`."""
        return layer_norm(x, self.scale[...], self.bias[...], implementation=implementation)


def rows_of(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Return the rows of the table (vocab, ...) of tokens int (...), NaN for ids outside it."""
    # Indexing would clamp ids at the end of the table, and count negative ones from there.
    index = jnp.where(tokens < 0, table.shape[0], tokens)
    return table.at[index].get(mode="fill", fill_value=jnp.nan)


class Int8(nnx.Module):
    """A matrix or table in int8, read like the parameter it replaces: `kernel[...]` is float32.

    Made by `jaxmodels.quantize`. The largest magnitude of each output channel is 127 of its scale.

    Attributes:
      values: int8 (..., rows, columns), -127 to 127.
      scale: float32, (..., 1, columns) for a matrix, (rows, 1) for a table.
    """

    def __init__(self, array: jax.Array, axis: int):
        largest = jnp.max(jnp.abs(array), axis, keepdims=True)
        scale = jnp.where(largest > 0, largest / 127.0, 1.0).astype(jnp.float32)
        self.scale = nnx.Param(scale)
        self.values = nnx.Param(jnp.round(array / scale).astype(jnp.int8))

    def __getitem__(self, index) -> jax.Array:
        """Return part of the array, float32."""
        return (self.values[...].astype(jnp.float32) * self.scale[...])[index]

    def rows(self, tokens: jax.Array) -> jax.Array:
        """Return `rows_of` a table, of which only these rows are made float."""
        index = jnp.where(tokens < 0, self.values.shape[0], tokens)
        values = self.values[...].at[index].get(mode="fill", fill_value=0)
        return values.astype(jnp.float32) * rows_of(self.scale[...], tokens)


class Embedding(nnx.Module):
    """Token embedding; `table` (vocab, width) drawn by `init`, standard normal if None."""

    def __init__(self, vocab: int, width: int, *, init=None, rngs: nnx.Rngs):
        init = init or nnx.initializers.normal(1.0)
        self.table = nnx.Param(init(rngs.params(), (vocab, width), jnp.float32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Embed tokens int (...) as float32 (..., width), NaN for an id out of the vocabulary."""
        if isinstance(self.table, Int8):
            return self.table.rows(tokens)
        return rows_of(self.table[...], tokens)


class RMSNorm(nnx.Module):
    """RMSNorm over the last axis; scale one."""

    def __init__(self, width: int, eps: float = 1e-5):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize x (..., width) to float32."""
        return rms_norm(x, self.scale[...], self.eps)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Apply inverted dropout; the identity without a key or at rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)
