"""Mamba-2: a state-space model with a per-head scalar decay, computed by matmuls.

    [z ; xbc ; dl] = in_proj(u) ;  [x ; b ; c] = silu(conv(xbc)) ;  delta = softplus(dl + dt_bias)
    h_t = exp(delta_t A) h_{t-1} + b_t (delta_t x_t)^T ;  y = c_t^T h_t + D x_t       (each head)
    out_proj(RMSNorm(y silu(z)))

Source: arXiv 2405.21060 and state-spaces/mamba (mamba_ssm/modules/mamba2.py).

Parameters correspond to `Mamba2Mixer` in Hugging Face transformers: in_proj and out_proj
(kernels are transposed weights), conv_taps (E, K) = conv1d.weight (E, 1, K), conv_bias =
conv1d.bias, dt_bias, A_log, D, norm_scale = norm.weight. Its state (B, H, P, N) is ours transposed.
Shapes: B batch, T time, C width, D inner width, H heads, P head size, G groups, N state size,
K taps, E = D + 2 G N.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from jaxmodels.cells.base import KERNELS, Cell, one_of, positive
from jaxmodels.cells.layers import (
    Linear,
    assign_rates,
    dot,
    normalize_channels,
    symmetric_uniform,
    time_step_bias,
    within,
)
from jaxmodels.errors import UserError
from jaxmodels.ops.common.silu import silu
from jaxmodels.ops.mamba2 import MixerVectors, mamba2_mixer, step_sizes
from jaxmodels.ops.norms import gated_rms_norm
from jaxmodels.ops.short_conv import short_conv_step, state_after
from jaxmodels.ops.ssd import ssd_step


@dataclasses.dataclass(frozen=True)
class Mamba2Config:
    """Configuration of the cell.

    Attributes:
      width: C.
      state_size: N.
      expand: D / C.
      conv_size: K.
      head_size: P, divides D; None means 64, or D if that is smaller.
      groups: G, number of head groups that share b and c; divides H.
      norm_groups: number of parts of D that are normalized separately; None means G.
      norm_eps: epsilon of that norm.
      chunk_size: tokens per chunk in `__call__`, at most 256; best 64 on a CPU, 128 on a TPU.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
      kernel: "xla" or "pallas". The Pallas TPU kernels run in interpret mode on other platforms
        (tests only); they require groups 1 and conv_size at most 7.
    """

    width: int
    state_size: int = 128
    expand: int = 2
    conv_size: int = 4
    head_size: int | None = None
    groups: int = 1
    norm_groups: int | None = None
    norm_eps: float = 1e-5
    chunk_size: int = 64
    dtype: str = "float32"
    kernel: str = "xla"

    def __post_init__(self):
        positive(self, "width", "state_size", "expand", "conv_size", "groups", "chunk_size")
        if self.conv_size < 2:
            raise UserError(f"conv_size must be at least 2, got {self.conv_size}")
        if self.head_size is None:
            object.__setattr__(self, "head_size", min(64, self.inner))
        if self.norm_groups is None:
            object.__setattr__(self, "norm_groups", self.groups)
        positive(self, "head_size", "norm_groups")
        if self.inner % self.head_size:
            raise UserError(f"head_size={self.head_size} must divide expand * width = {self.inner}")
        if self.heads % self.groups:
            raise UserError(f"groups={self.groups} must divide the number of heads, {self.heads}")
        if self.inner % self.norm_groups:
            raise UserError(
                f"norm_groups={self.norm_groups} must divide expand * width = {self.inner}"
            )
        if self.chunk_size > 256:
            raise UserError(f"chunk_size must be at most 256, got {self.chunk_size}")
        if self.norm_eps <= 0.0:
            raise UserError(f"norm_eps must be positive, got {self.norm_eps}")
        one_of(self, "dtype", ("float32", "bfloat16"))
        one_of(self, "kernel", tuple(KERNELS))
        if self.kernel == "pallas" and (self.groups > 1 or self.conv_size > 7):
            raise UserError('kernel="pallas" requires groups 1, and conv_size 7 or less')

    @property
    def inner(self) -> int:
        """Inner width, D."""
        return self.expand * self.width

    @property
    def heads(self) -> int:
        """Number of heads, H."""
        return self.inner // self.head_size

    @property
    def conv_width(self) -> int:
        """Number of channels of the convolution, E = D + 2 G N."""
        return self.inner + 2 * self.groups * self.state_size


@struct.dataclass
class Mamba2State:
    """Float32 state.

    Attributes:
      conv: (B, K - 1, E), the last inputs of the convolution, oldest first.
      ssm: (B, G, N, D / G).
    """

    conv: jax.Array
    ssm: jax.Array


class Mamba2Cell(Cell):
    """Mamba-2 mixer; x, y: (B, C)."""

    def __init__(
        self, config: Mamba2Config, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1
    ):
        c = self.config = config
        outputs = c.inner + c.conv_width + c.heads
        bound = symmetric_uniform(c.width**-0.5)
        spared = ((0, c.inner), (outputs - c.heads, outputs))  # the gate, the step sizes
        options = {"init": bound, "undecayed": spared, "rngs": rngs}
        self.in_proj = Linear(c.width, outputs, bias=False, **options)
        taps = symmetric_uniform(c.conv_size**-0.5)
        self.conv_taps = nnx.Param(taps(rngs.params(), (c.conv_width, c.conv_size)))
        self.conv_bias = nnx.Param(taps(rngs.params(), (c.conv_width,)))
        self.dt_bias = nnx.Param(time_step_bias(rngs.params(), c.heads))
        rates = jax.random.uniform(rngs.params(), (c.heads,), jnp.float32, 1.0, 16.0)
        self.A_log = nnx.Param(jnp.log(rates))
        self.D = nnx.Param(jnp.ones((c.heads,), jnp.float32))
        self.norm_scale = nnx.Param(jnp.ones((c.inner,), jnp.float32))
        bound = symmetric_uniform((c.inner * num_layers) ** -0.5)
        self.out_proj = Linear(c.inner, c.width, bias=False, init=bound, rngs=rngs)

    def initial_state(self, batch_size: int) -> Mamba2State:
        """Return zeros."""
        c = self.config
        ssm = (batch_size, c.groups, c.state_size, c.inner // c.groups)
        return Mamba2State(
            conv=jnp.zeros((batch_size, c.conv_size - 1, c.conv_width), jnp.float32),
            ssm=jnp.zeros(ssm, jnp.float32),
        )

    def step(self, state, x, key=None, write=None):
        """See `Cell.step`; `write`, float (B,) in [0, 1] or None, multiplies the step size."""
        c, p = self.config, self._vectors()
        z, xbc, delta = self._project(x)
        conv, xbc = short_conv_step(state.conv, xbc, p.conv_taps, p.conv_bias)
        x, b, read = jnp.split(silu(xbc), [c.inner, c.inner + c.groups * c.state_size], -1)
        delta, a = step_sizes(delta, p.dt_bias, write), -jnp.exp(p.A_log)
        ssm, y = ssd_step(state.ssm, x, delta, a, b, read, p.D)
        return Mamba2State(conv, ssm), self._read_out(
            gated_rms_norm(y, z, p.norm_scale, c.norm_eps, groups=c.norm_groups)
        )

    def __call__(self, state, xs, reset=None, key=None, write=None, lengths=None):
        """See `Cell.scan`; the chunked implementation. `write`: (B, T) or None, see `step`."""
        c = self.config
        inputs = self._project(xs, split_conv=c.kernel == "pallas")
        write = within(lengths, xs.shape[1], write)
        (conv, ssm), ys = mamba2_mixer(
            (state.conv, state.ssm),
            inputs,
            self._vectors(),
            self._read_out,
            reset,
            write,
            norm_groups=c.norm_groups,
            norm_eps=c.norm_eps,
            chunk_size=c.chunk_size,
            dtype=c.dtype,
            implementation=KERNELS[c.kernel],
        )
        if lengths is not None:
            conv = state_after(state.conv, jnp.concatenate(inputs[1:-1], -1), lengths, reset)
        return Mamba2State(conv, ssm), ys

    def set_retention(self, groups) -> None:
        """Initialize the retention per token, independent of the data.

        groups: pairs (fraction of the heads, retention in (0, 1)), see `assign_rates`.
        """
        heads = self.config.heads
        rates = -np.log(assign_rates(groups, heads))
        steps = jax.nn.softplus(self.dt_bias[...])
        self.A_log[...] = jnp.asarray(np.log(rates), jnp.float32) - jnp.log(steps)
        kernel = self.in_proj.kernel
        kernel[...] = kernel[...].at[:, -heads:].set(0.0)

    def retention(self, state, xs, reset=None, write=None):
        """Return the decay factor at each token, (B, T, H); arguments as for `__call__`."""
        a = -jnp.exp(self.A_log[...])
        return jnp.exp(self.step_sizes(state, xs, reset, write) * a.reshape((1, 1, -1)))

    def step_sizes(self, state, xs, reset=None, write=None):
        """Return delta, (B, T, H); arguments as for `__call__`."""
        return step_sizes(self._project(xs)[-1], self.dt_bias[...], write)

    def normalize_state(self, state, groups: int, gain):
        """Normalize the SSM state; see `normalize_channels`."""
        return state.replace(ssm=normalize_channels(state.ssm, groups, gain))

    def _project(self, u, split_conv=False):
        """Project tokens (..., C) to z (..., D), xbc (..., E), raw step sizes (..., H).

        split_conv: return xbc as two arrays, x (..., D) and the rest, by separate matmuls.
        """
        c = self.config
        conv = [c.inner, c.conv_width - c.inner] if split_conv else [c.conv_width]
        boundaries = np.cumsum([c.inner, *conv])
        kernels = jnp.split(self.in_proj.kernel[...], boundaries, -1)
        return [dot(u, kernel, c.dtype) for kernel in kernels]

    def _vectors(self):
        return MixerVectors(*(getattr(self, name)[...] for name in MixerVectors._fields))

    def _read_out(self, y):
        return self.out_proj(y, self.config.dtype)
