"""Gated DeltaNet: delta rule with a per-head scalar decay, after a short convolution.

    S_t = e^{g_t} S_{t-1} + beta_t k_t (v_t - e^{g_t} S_{t-1}^T k_t)^T    (`ops/gated_delta.py`)

Source: arXiv 2412.06464 and flash-linear-attention (layers/gated_deltanet.py); decay parameters as
in Mamba-2, matrices and taps with PyTorch's default initialization.

Shapes: B batch, T time, C width, H heads, K head_size (keys), V value size, D = H (2 K + V).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.base import Cell, one_of, positive
from jaxmodels.cells.layers import EVERY_COLUMN, Linear, symmetric_uniform, time_step_bias
from jaxmodels.errors import UserError
from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.gated_delta import gated_delta_chunked, gated_delta_step
from jaxmodels.ops.norms import rms_norm
from jaxmodels.ops.short_conv import short_conv, short_conv_step, state_after
from jaxmodels.ragged import hold_after, without


@dataclasses.dataclass(frozen=True)
class GatedDeltaConfig:
    """Configuration of the cell.

    Attributes:
      width: C.
      head_size: K, size of queries and keys; None means 64, or C if that is smaller.
      value_size: V; None means 2 K.
      num_heads: H; None means 3/4 C / K, at least 1, as in the source (about 6 C^2 parameters).
      conv_size: taps of the short convolution.
      negative_eigenvalues: beta in (0, 2) instead of (0, 1), which allows state tracking such as
        parity (arXiv 2411.12537).
      chunk_size: tokens per chunk in `__call__`.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
    """

    width: int
    head_size: int | None = None
    value_size: int | None = None
    num_heads: int | None = None
    conv_size: int = 4
    negative_eigenvalues: bool = False
    chunk_size: int = 64
    dtype: str = "float32"

    def __post_init__(self):
        positive(self, "width")
        if self.head_size is None:
            object.__setattr__(self, "head_size", min(64, self.width))
        positive(self, "head_size")
        if self.value_size is None:
            object.__setattr__(self, "value_size", 2 * self.head_size)
        if self.num_heads is None:
            object.__setattr__(self, "num_heads", max(1, 3 * self.width // (4 * self.head_size)))
        positive(self, "value_size", "num_heads", "conv_size", "chunk_size")
        if self.conv_size < 2:
            raise UserError(f"conv_size must be at least 2, got {self.conv_size}")
        one_of(self, "dtype", ("float32", "bfloat16"))


@struct.dataclass
class GatedDeltaState:
    """Float32 state.

    Attributes:
      conv: (B, conv_size - 1, D), the last inputs of the short convolution.
      memory: (B, H, K, V).
    """

    conv: jax.Array
    memory: jax.Array


class GatedDeltaCell(Cell):
    """Token mixing; x, y: (B, C)."""

    def __init__(
        self, config: GatedDeltaConfig, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1
    ):
        del layer
        c = self.config = config
        heads, values = c.num_heads, c.num_heads * c.value_size
        channels = 2 * heads * c.head_size + values

        def linear(inputs, outputs, scale=1.0, undecayed=()):
            init = symmetric_uniform(scale / inputs**0.5)
            options = {"init": init, "undecayed": undecayed, "rngs": rngs}
            return Linear(inputs, outputs, bias=False, **options)

        self.inputs = linear(c.width, channels)  # q, k and v, each of all heads
        self.decay = linear(c.width, heads, undecayed=EVERY_COLUMN)
        self.rate = linear(c.width, heads, undecayed=EVERY_COLUMN)
        self.gate = linear(c.width, values, undecayed=EVERY_COLUMN)
        self.output = linear(values, c.width, num_layers**-0.5)
        taps = symmetric_uniform(c.conv_size**-0.5)
        self.taps = nnx.Param(taps(rngs.params(), (channels, c.conv_size)))
        self.A_log = nnx.Param(
            jnp.log(jax.random.uniform(rngs.params(), (heads,), jnp.float32, 1.0, 16.0))
        )
        self.dt_bias = nnx.Param(time_step_bias(rngs.params(), heads))
        self.norm_scale = nnx.Param(jnp.ones((c.value_size,), jnp.float32))

    def initial_state(self, batch_size: int) -> GatedDeltaState:
        """Return zeros."""
        c = self.config
        memory = (batch_size, c.num_heads, c.head_size, c.value_size)
        return GatedDeltaState(
            conv=jnp.zeros((batch_size, c.conv_size - 1, self.taps.shape[0]), jnp.float32),
            memory=jnp.zeros(memory, jnp.float32),
        )

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        mixed = self.inputs(x, self.config.dtype)
        conv, mixed = short_conv_step(state.conv, mixed, self.taps[...], self._no_bias())
        memory, y = gated_delta_step(state.memory, *self._heads(mixed), *self._gates(x))
        return GatedDeltaState(conv, memory), self._read_out(y, x)

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`; the chunked implementation."""
        c = self.config
        mixed = self.inputs(xs, c.dtype)
        conv, convolved = short_conv(state.conv, mixed, self.taps[...], self._no_bias(), reset)
        gates = self._gates(xs)
        if lengths is not None:
            conv = state_after(state.conv, mixed, lengths, reset)
            gates = without(hold_after(lengths, xs.shape[1]), gates)  # no decay, no write
        inputs = (*self._heads(convolved), *gates)
        memory, y = gated_delta_chunked(state.memory, *inputs, reset, chunk_size=c.chunk_size)
        return GatedDeltaState(conv, memory), self._read_out(y, xs)

    def _no_bias(self):
        return jnp.zeros((self.taps.shape[0],), jnp.float32)

    def _heads(self, mixed):
        """Split the convolution's output (..., D) into q, k (..., H, K), v (..., H, V)."""
        c = self.config
        keys = c.num_heads * c.head_size
        parts = jnp.split(jax.nn.silu(mixed), (keys, 2 * keys), -1)
        q, k, v = (x.reshape(*x.shape[:-1], c.num_heads, -1) for x in parts)
        return _unit(q) * c.head_size**-0.5, _unit(k), v

    def _gates(self, x):
        """Compute log decay g and beta, each (..., H), of tokens (..., C)."""
        c = self.config
        rate = jax.nn.sigmoid(self.rate(x, c.dtype))
        dt = self.decay(x, c.dtype)
        dt = jax.nn.softplus(dt + broadcast_to_last_axis(self.dt_bias[...], dt))
        return -broadcast_to_last_axis(jnp.exp(self.A_log[...]), dt) * dt, rate * (
            1 + c.negative_eigenvalues
        )

    def _read_out(self, y, x):
        """Normalize, gate and project y (..., H, V), with tokens x (..., C), to (..., C)."""
        gate = jax.nn.silu(self.gate(x, self.config.dtype))
        y = rms_norm(y, self.norm_scale[...])
        return self.output(y.reshape(gate.shape) * gate, self.config.dtype)


def _unit(x):
    """Normalize x along the last axis; epsilon inside the square root, as in the source."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)
