"""Mamba-1: a gated selective state-space model after a short convolution.

    [x ; z] = in_proj(u) ;  x = silu(conv(x)) ;  (dl, b, c) = x_proj(x)
    delta = softplus(dt_proj(dl))
    h_t = exp(delta_t A) h_{t-1} + (delta_t x_t) b_t^T ;  y = out_proj((h_t c_t + D x_t) silu(z))

Source: arXiv 2312.00752 and state-spaces/mamba (mamba_ssm/modules/mamba_simple.py).

Parameters correspond to `MambaMixer` in Hugging Face transformers: in_proj, x_proj, dt_proj and
out_proj (kernels are transposed weights), conv_taps (D, K) = conv1d.weight (D, 1, K), conv_bias =
conv1d.bias, A_log (N, D) = A_log transposed, D. Shapes: B batch, T time, C width, D inner width,
K taps, N state size, R dt_rank.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from jaxmodels.cells.base import KERNELS, Cell, one_of, positive
from jaxmodels.cells.layers import (
    EVERY_COLUMN,
    Linear,
    assign_rates,
    dot,
    normalize_channels,
    symmetric_uniform,
    time_step_bias,
    within,
)
from jaxmodels.errors import UserError
from jaxmodels.ops.common.chunks import recompute_inside
from jaxmodels.ops.common.silu import gated, silu
from jaxmodels.ops.selective_scan import selective_scan, selective_scan_step
from jaxmodels.ops.short_conv import short_conv_silu, short_conv_step, state_after


@dataclasses.dataclass(frozen=True)
class Mamba1Config:
    """Configuration of the cell.

    Attributes:
      width: C.
      state_size: N.
      expand: D / C.
      conv_size: K.
      dt_rank: R; None means ceil(C / 16).
      chunk_size: tokens per chunk in `__call__`; the Pallas kernel has its own.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
      kernel: "xla" or "pallas". The Pallas TPU kernels run in interpret mode on other platforms
        (tests only), and take convolutions of at most 7 taps.
    """

    width: int
    state_size: int = 16
    expand: int = 2
    conv_size: int = 4
    dt_rank: int | None = None
    chunk_size: int = 16
    dtype: str = "float32"
    kernel: str = "xla"

    def __post_init__(self):
        positive(self, "width", "state_size", "expand", "conv_size", "chunk_size")
        if self.conv_size < 2:
            raise UserError(f"conv_size must be at least 2, got {self.conv_size}")
        if self.dt_rank is None:
            object.__setattr__(self, "dt_rank", -(-self.width // 16))
        positive(self, "dt_rank")
        one_of(self, "dtype", ("float32", "bfloat16"))
        one_of(self, "kernel", tuple(KERNELS))
        if self.kernel == "pallas" and self.conv_size > 7:
            raise UserError(f'kernel="pallas" requires conv_size 7 or less, got {self.conv_size}')


@struct.dataclass
class Mamba1State:
    """Float32 state.

    Attributes:
      conv: (B, K - 1, D), the last inputs of the convolution, oldest first.
      ssm: (B, N, D).
    """

    conv: jax.Array
    ssm: jax.Array


class Mamba1Cell(Cell):
    """Mamba-1 mixer; x, y: (B, C)."""

    def __init__(
        self, config: Mamba1Config, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1
    ):
        c = self.config = config
        inner = c.expand * c.width

        def linear(inputs, outputs, bound, bias=False, undecayed=()):
            options = {"init": symmetric_uniform(bound), "undecayed": undecayed, "rngs": rngs}
            return Linear(inputs, outputs, bias=bias, **options)

        gate, step_size = ((inner, 2 * inner),), ((0, c.dt_rank),)
        self.in_proj = linear(c.width, 2 * inner, c.width**-0.5, undecayed=gate)
        taps = symmetric_uniform(c.conv_size**-0.5)
        self.conv_taps = nnx.Param(taps(rngs.params(), (inner, c.conv_size)))
        self.conv_bias = nnx.Param(taps(rngs.params(), (inner,)))
        selected = c.dt_rank + 2 * c.state_size
        self.x_proj = linear(inner, selected, inner**-0.5, undecayed=step_size)
        self.dt_proj = linear(c.dt_rank, inner, c.dt_rank**-0.5, True, EVERY_COLUMN)
        self.dt_proj.bias = nnx.Param(time_step_bias(rngs.params(), inner))
        rates = jnp.arange(1.0, c.state_size + 1.0, dtype=jnp.float32)[:, None]
        self.A_log = nnx.Param(jnp.log(jnp.broadcast_to(rates, (c.state_size, inner))))
        self.D = nnx.Param(jnp.ones((inner,), jnp.float32))
        self.out_proj = linear(inner, c.width, (inner * num_layers) ** -0.5)

    def initial_state(self, batch_size: int) -> Mamba1State:
        """Return zeros."""
        c = self.config
        inner = c.expand * c.width
        return Mamba1State(
            conv=jnp.zeros((batch_size, c.conv_size - 1, inner), jnp.float32),
            ssm=jnp.zeros((batch_size, c.state_size, inner), jnp.float32),
        )

    def step(self, state, x, key=None, write=None):
        """See `Cell.step`; `write`, float (B,) in [0, 1] or None, multiplies the step size."""
        x, z = self._project(x)
        conv, x = short_conv_step(state.conv, x, self.conv_taps[...], self.conv_bias[...])
        x = silu(x)
        ssm, y = selective_scan_step(state.ssm, x, *self._selected(x, write))
        return Mamba1State(conv, ssm), self._read_out(self._skip(y, x), z)

    def __call__(self, state, xs, reset=None, key=None, write=None, lengths=None):
        """See `Cell.scan`; `write`: (B, T) or None, see `step`.

        In XLA, rematerializes everything except the large matmuls and the states at chunk
        boundaries: storing it would cost more than recomputing it.
        """
        x, z = self._project(swap_time(xs))
        write = within(lengths, xs.shape[1], write)
        implementation = KERNELS[self.config.kernel]

        def mix(state, x, write):
            taps, bias = self.conv_taps[...], self.conv_bias[...]
            inputs = swap_time(x)
            conv, x = short_conv_silu(
                state.conv, inputs, taps, bias, reset, implementation=implementation
            )
            if lengths is not None:
                conv = state_after(state.conv, inputs, lengths, reset)
            x = swap_time(x)
            delta, a, b, c = self._selected(x, write)
            batch_first, delta = swap_time(x), swap_time(delta)
            inputs = (batch_first, delta, a, swap_time(b), swap_time(c), reset)
            options = {"chunk_size": self.config.chunk_size, "implementation": implementation}
            ssm, y = selective_scan(state.ssm, *inputs, **options)
            return Mamba1State(conv, ssm), self._skip(swap_time(y), x)

        if write is not None:
            write = swap_time(write)
        if self.config.kernel == "pallas":  # recomputing would run the kernels again
            state, y = mix(state, x, write)
        else:
            state, y = recompute_inside(mix)(state, x, write)
        return state, swap_time(recompute_inside(self._read_out)(y, z))

    def set_retention(self, groups) -> None:
        """Initialize the retention per token, independent of the data.

        groups: pairs (fraction of the channels, retention in (0, 1)), see `assign_rates`.
        """
        steps = jax.nn.softplus(self.dt_proj.bias[...])
        rates = -np.log(assign_rates(groups, steps.size))
        rates = jnp.asarray(np.log(rates), jnp.float32) - jnp.log(steps)
        self.A_log[...] = jnp.broadcast_to(rates[None], self.A_log[...].shape)
        self.dt_proj.kernel[...] = jnp.zeros_like(self.dt_proj.kernel[...])

    def retention(self, state, xs, reset=None, write=None):
        """Return the decay factor of the slowest state entry at each token, (B, T, D).

        Arguments as for `__call__`; resets do not count as decay.
        """
        slowest = jax.lax.reduce_max(-jnp.exp(self.A_log[...]), (0,))
        return jnp.exp(self.step_sizes(state, xs, reset, write) * slowest.reshape((1, 1, -1)))

    def step_sizes(self, state, xs, reset=None, write=None):
        """Return delta, (B, T, D); arguments as for `__call__`."""
        x, _ = self._project(xs)
        _, x = short_conv_silu(state.conv, x, self.conv_taps[...], self.conv_bias[...], reset)
        return self._selected(x, write)[0]

    def normalize_state(self, state, groups: int, gain):
        """Normalize the SSM state; see `normalize_channels`."""
        return state.replace(ssm=normalize_channels(state.ssm, groups, gain))

    def _project(self, u):
        """Project tokens (..., C) to x and z, (..., D): two matmuls, to avoid copies by a split."""
        kernels = jnp.split(self.in_proj.kernel[...], 2, -1)
        return [dot(u, kernel, self.config.dtype) for kernel in kernels]

    def _selected(self, x, write=None):
        """Compute delta (..., D), A (N, D), b and c (..., N) of x (..., D)."""
        c = self.config
        parts = [c.dt_rank, c.dt_rank + c.state_size]
        delta, b, out = jnp.split(self.x_proj(x, c.dtype), parts, -1)
        delta = jax.nn.softplus(self.dt_proj(delta, c.dtype))
        if write is not None:
            delta = delta * write[..., None]
        return delta, -jnp.exp(self.A_log[...]), b, out

    def _skip(self, y, x):
        """Return y + D x, both (..., D)."""
        return y + x * self.D[...].reshape((1,) * (x.ndim - 1) + (-1,))

    def _read_out(self, y, z):
        """Gate y by z, both (..., D), and project to (..., C)."""
        return self.out_proj(gated(y, z), self.config.dtype)


def swap_time(z):
    """Transpose (B, T, ...) to (T, B, ...), or back."""
    return z.swapaxes(0, 1)
