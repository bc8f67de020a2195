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

from jaxmodels.cells.base import KERNELS, Cell, one_of, positive
from jaxmodels.cells.layers import (
    EVERY_COLUMN,
    Linear,
    dot,
    symmetric_uniform,
    time_step_bias,
)
from jaxmodels.errors import UserError
from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.gated_delta import gated_delta_mixer, gated_delta_step, unit
from jaxmodels.ops.norms import rms_norm
from jaxmodels.ops.short_conv import short_conv, short_conv_silu, short_conv_step, state_after
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
      kernel: "xla" or "pallas". The Pallas TPU kernels run in interpret mode on other platforms
        (tests only), and take convolutions of at most 7 taps.
    """

    width: int
    head_size: int | None = None
    value_size: int | None = None
    num_heads: int | None = None
    conv_size: int = 4
    negative_eigenvalues: bool = False
    chunk_size: int = 64
    dtype: str = "float32"
    kernel: str = "xla"

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
        one_of(self, "kernel", tuple(KERNELS))
        if self.kernel == "pallas" and self.conv_size > 7:
            raise UserError(f'kernel="pallas" requires conv_size 7 or less, got {self.conv_size}')


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
        c = self.config
        mixed = self.inputs(x, c.dtype)
        conv, mixed = short_conv_step(state.conv, mixed, self.taps[...], self._no_bias())
        q, k, v = (self._heads(part) for part in jnp.split(jax.nn.silu(mixed), self._ends(), -1))
        inputs = unit(q) * c.head_size**-0.5, unit(k), v, *self._gates(x)
        memory, y = gated_delta_step(state.memory, *inputs)
        y = rms_norm(y, self.norm_scale[...]).reshape(x.shape[0], -1)
        y = y * jax.nn.silu(self.gate(x, c.dtype))
        return GatedDeltaState(conv, memory), self.output(y, c.dtype)

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`; the chunked implementation."""
        c = self.config
        conv, tokens = self._convolve(state.conv, xs, reset, lengths)
        gates = self._gates(xs)
        if lengths is not None:
            gates = without(hold_after(lengths, xs.shape[1]), gates)  # no decay, no write
        memory, y = gated_delta_mixer(
            state.memory,
            (*tokens, self.gate(xs, c.dtype)),
            gates,
            self.norm_scale[...],
            reset,
            chunk_size=c.chunk_size,
            implementation=KERNELS[c.kernel],
        )
        return GatedDeltaState(conv, memory), self.output(y, c.dtype)

    def _convolve(self, conv, xs, reset, lengths):
        """Return the convolution's last inputs, and silu of its outputs q, k, v (B, T, H n).

        The TPU kernel runs on each of them, since splitting an array copies it.
        """
        dtype, taps, bias = self.config.dtype, self.taps[...], self._no_bias()
        if self.config.kernel == "xla":
            mixed = self.inputs(xs, dtype)
            last, convolved = short_conv(conv, mixed, taps, bias, reset)
            if lengths is not None:
                last = state_after(conv, mixed, lengths, reset)
            return last, jnp.split(jax.nn.silu(convolved), self._ends(), -1)
        parts = ((self.inputs.kernel[...], 1), (conv, 2), (taps, 0), (bias, 0))
        parts = [jnp.split(x, self._ends(), axis) for x, axis in parts]
        states, convolved = [], []
        for kernel, before, taps, bias in zip(*parts, strict=True):
            mixed = dot(xs, kernel, dtype)
            last, y = short_conv_silu(before, mixed, taps, bias, reset, implementation="pallas")
            states.append(last if lengths is None else state_after(before, mixed, lengths, reset))
            convolved.append(y)
        return jnp.concatenate(states, -1), convolved

    def _ends(self):
        """Return where q and k end among the channels of the convolution."""
        keys = self.config.num_heads * self.config.head_size
        return keys, 2 * keys

    def _no_bias(self):
        return jnp.zeros((self.taps.shape[0],), jnp.float32)

    def _heads(self, x):
        return x.reshape(*x.shape[:-1], self.config.num_heads, -1)

    def _gates(self, x):
        """Compute log decay g and beta, each (..., H), of tokens (..., C)."""
        c = self.config
        rate = jax.nn.sigmoid(self.rate(x, c.dtype))
        dt = self.decay(x, c.dtype)
        dt = jax.nn.softplus(dt + broadcast_to_last_axis(self.dt_bias[...], dt))
        return -broadcast_to_last_axis(jnp.exp(self.A_log[...]), dt) * dt, rate * (
            1 + c.negative_eigenvalues
        )
