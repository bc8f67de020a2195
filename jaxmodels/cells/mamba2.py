"""Mamba-2: a state-space model with a scalar decay a head, computed by matrix products.

    [z ; xbc ; dl] = in_proj(u) ;  [x ; b ; c] = silu(conv(xbc)) ;  delta = softplus(dl + dt_bias)
    h_t = exp(delta_t A) h_{t-1} + b_t (delta_t x_t)^T ;  y = c_t^T h_t + D x_t       (each head)
    out_proj(RMSNorm(y silu(z)))

Source: state-spaces/mamba (mamba_ssm/modules/mamba2.py) and arXiv 2405.21060; equations and
initialisation as in SYSTEMS 7.6. The block around it is in `models/mamba.py`.

The parameters are those of `Mamba2Mixer` in Hugging Face transformers: in_proj and out_proj
(kernels are transposed weights), conv_taps (E, K) = conv1d.weight (E, 1, K), conv_bias =
conv1d.bias, dt_bias, A_log, D, norm.scale = norm.weight. Its state (B, H, P, N) is ours transposed.
Shapes: B batch, T time, C width, D inner width, H heads, P head size, G groups, N state size,
K taps, E = D + 2 G N.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from jaxmodels.cells.base import Cell
from jaxmodels.cells.checks import one_of, positive
from jaxmodels.cells.layers import Linear, dot, on_last, symmetric_uniform
from jaxmodels.cells.mamba1 import time_step_bias
from jaxmodels.errors import UserError
from jaxmodels.ops.common.chunks import recompute_inside
from jaxmodels.ops.common.silu import gated, silu
from jaxmodels.ops.mamba2.tpu_loop import SSDVectors, ssd_loop
from jaxmodels.ops.norms.pallas import gated_norm_kernel
from jaxmodels.ops.short_conv.pallas import conv_silu_kernel
from jaxmodels.ops.short_conv.xla import short_conv, short_conv_step
from jaxmodels.ops.ssd.chunked import ssd_chunked, ssd_step
from jaxmodels.ops.ssd.pallas import ssd_kernel


@dataclasses.dataclass(frozen=True)
class Mamba2Config:
    """Sizes of the cell.

    Attributes:
      width: C.
      state_size: N.
      expand: D / C.
      conv_size: K.
      head_size: P, divides D; None means 64, or D if that is smaller.
      groups: G, of heads that share b and c; divides H.
      norm_groups: how many parts of D are normalised by themselves; None means G.
      norm_eps: of that norm.
      chunk_size: tokens a chunk of the fast form, at most 256: 64 for a CPU, 128 for a TPU.
      dtype: of the matrix products, "float32" or "bfloat16"; parameters and state are float32.
      kernel: "pallas" for kernels of a TPU's own (`ops/*_kernel.py`), which elsewhere are
        interpreted, for tests; see `ops/common/pallas_tpu.py`. For one group, and at most 7 taps.
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
        one_of(self, "kernel", ("xla", "pallas"))
        if self.kernel == "pallas" and (
            max(self.groups, self.norm_groups) > 1 or self.conv_size > 7
        ):
            raise UserError(
                'kernel="pallas" wants groups and norm_groups 1, and conv_size 7 or less'
            )

    @property
    def inner(self) -> int:
        """D."""
        return self.expand * self.width

    @property
    def heads(self) -> int:
        """H."""
        return self.inner // self.head_size

    @property
    def conv_width(self) -> int:
        """E."""
        return self.inner + 2 * self.groups * self.state_size


@struct.dataclass
class Mamba2State:
    """Float32.

    Attributes:
      conv: (B, K - 1, E), the last inputs of the convolution, the oldest first.
      ssm: (B, G, N, D / G).
    """

    conv: jax.Array
    ssm: jax.Array


class Mamba2Cell(Cell):
    """x, y: (B, C)."""

    def __init__(
        self, config: Mamba2Config, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1
    ):
        c = self.config = config
        outputs = c.inner + c.conv_width + c.heads
        bound = symmetric_uniform(c.width**-0.5)
        self.in_proj = Linear(c.width, outputs, bias=False, init=bound, rngs=rngs)
        taps = symmetric_uniform(c.conv_size**-0.5)
        self.conv_taps = nnx.Param(taps(rngs.params(), (c.conv_width, c.conv_size)))
        self.conv_bias = nnx.Param(taps(rngs.params(), (c.conv_width,)))
        self.dt_bias = nnx.Param(time_step_bias(rngs.params(), c.heads))
        rates = jax.random.uniform(rngs.params(), (c.heads,), jnp.float32, 1.0, 16.0)
        self.A_log = nnx.Param(jnp.log(rates))
        self.D = nnx.Param(jnp.ones((c.heads,)))
        self.norm_scale = nnx.Param(jnp.ones((c.inner,)))
        bound = symmetric_uniform((c.inner * num_layers) ** -0.5)
        self.out_proj = Linear(c.inner, c.width, bias=False, init=bound, rngs=rngs)

    def initial_state(self, batch_size: int) -> Mamba2State:
        """Zeros."""
        c = self.config
        ssm = (batch_size, c.groups, c.state_size, c.inner // c.groups)
        return Mamba2State(
            conv=jnp.zeros((batch_size, c.conv_size - 1, c.conv_width), jnp.float32),
            ssm=jnp.zeros(ssm, jnp.float32),
        )

    def step(self, state, x, key=None, write=None):
        """See `Cell.step`.

        write: float (B,) in [0, 1] or None; how far the token may change the state, a factor on
        its step size. At 0 the state neither decays nor takes anything in.
        """
        z, xbc, delta = self._project(x)
        conv, xbc = short_conv_step(state.conv, xbc, self.conv_taps[...], self.conv_bias[...])
        x, delta, a, b, c = self._parts(silu(xbc), delta, write)
        ssm, y = ssd_step(state.ssm, x, delta, a, b, c)
        return Mamba2State(conv, ssm), self._gate(self._skip(y, x), z)

    def __call__(self, state, xs, reset=None, key=None, write=None):
        """See `Cell.scan`; chunks of matrix products. write: (B, T) or None, see `step`.

        What is cheap, all but the products and the states at chunk borders, is computed anew for
        the backward pass: to keep it costs more time than to make it.
        """
        if self.config.kernel == "pallas":
            return self._kernel(xs, state, reset, write)
        z, xbc, delta = self._project(xs)
        arguments = (state, z, xbc, delta)
        on_cpu = functools.partial(self._chunks, reset, write=write)
        if max(self.config.groups, self.config.norm_groups) > 1 or write is not None:
            return on_cpu(*arguments)
        elsewhere = functools.partial(self._one_loop, reset)
        return jax.lax.platform_dependent(*arguments, cpu=on_cpu, default=elsewhere)

    def _chunks(self, reset, state, z, xbc, delta, write=None):
        def mix(state, xbc, delta, write):
            taps, bias = self.conv_taps[...], self.conv_bias[...]
            conv, xbc = short_conv(state.conv, xbc, taps, bias, reset)
            x, delta, a, b, c = self._parts(silu(xbc), delta, write)
            options = {"chunk_size": self.config.chunk_size, "dtype": self.config.dtype}
            ssm, y = ssd_chunked(state.ssm, x, delta, a, b, c, reset, **options)
            return Mamba2State(conv, ssm), self._skip(y, x)

        state, y = recompute_inside(mix)(state, xbc, delta, write)
        return state, recompute_inside(self._gate)(y, z)

    def _kernel(self, u, state, reset, write=None):
        """The same by kernels; each part of in_proj makes an array of its own."""
        c = self.config
        borders = np.cumsum([c.inner, c.inner, 2 * c.state_size])
        kernels = jnp.split(self.in_proj.kernel[...], borders, -1)
        z, x, bc, delta = (dot(u, kernel, c.dtype) for kernel in kernels)
        convolved, states = [], []
        for part, at in ((x, slice(0, c.inner)), (bc, slice(c.inner, None))):
            taps, bias = self.conv_taps[...][at], self.conv_bias[...][at]
            conv, part = conv_silu_kernel(state.conv[..., at], part, taps, bias, reset)
            convolved.append(part)
            states.append(conv)
        x, bc = convolved
        delta = jax.nn.softplus(delta + on_last(self.dt_bias[...], delta))
        if write is not None:
            delta = delta * write[..., None]
        vectors = -jnp.exp(self.A_log[...]), *jnp.split(bc, 2, -1), self.D[...]
        options = {"chunk_size": c.chunk_size, "dtype": c.dtype}
        ssm, y = ssd_kernel(state.ssm[:, 0], x, delta, *vectors, reset, **options)
        y = gated_norm_kernel(y, z, self.norm_scale[...], c.norm_eps, c.dtype)
        return Mamba2State(jnp.concatenate(states, -1), ssm[:, None]), self.out_proj(y, c.dtype)

    def _one_loop(self, reset, state, z, xbc, delta):
        """The same for a TPU, where only what enters and leaves the projections is stored."""
        c = self.config
        vectors = SSDVectors(
            taps=self.conv_taps[...],
            conv_bias=self.conv_bias[...],
            dt_bias=self.dt_bias[...],
            a=-jnp.exp(self.A_log[...]),
            d=self.D[...],
            norm_scale=self.norm_scale[...],
        )
        options = {"chunk_size": c.chunk_size, "eps": c.norm_eps, "dtype": c.dtype}
        conv, ssm, y = ssd_loop(
            state.conv, state.ssm[:, 0], z, xbc, delta, vectors, reset, **options
        )
        return Mamba2State(conv, ssm[:, None]), self.out_proj(y, c.dtype)

    def _project(self, u):
        """Tokens (..., C) -> z (..., D), xbc (..., E), raw step sizes (..., H)."""
        c = self.config
        kernels = jnp.split(self.in_proj.kernel[...], [c.inner, c.inner + c.conv_width], -1)
        return [dot(u, kernel, c.dtype) for kernel in kernels]

    def _parts(self, xbc, delta, write=None):
        """xbc (..., E), delta (..., H) -> x (..., H, P), delta, A (H,), b and c (..., G, N)."""
        c, shape = self.config, xbc.shape[:-1]
        parts = [c.inner, c.inner + c.groups * c.state_size]
        x, b, out = jnp.split(xbc, parts, -1)
        b, out = (z.reshape(*shape, c.groups, c.state_size) for z in (b, out))
        delta = jax.nn.softplus(delta + on_last(self.dt_bias[...], delta))
        if write is not None:
            delta = delta * write[..., None]
        a = -jnp.exp(self.A_log[...])
        return x.reshape(*shape, c.heads, c.head_size), delta, a, b, out

    def _skip(self, y, x):
        """y, x (..., H, P) -> y + D x, (..., D)."""
        y = y + x * on_last(self.D[...], x[..., 0])[..., None]
        return y.reshape(*y.shape[:-2], -1)

    def _gate(self, y, z):
        """y, z (..., D) -> (..., C)."""
        c = self.config
        y = gated(y, z).reshape(*z.shape[:-1], c.norm_groups, -1)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + c.norm_eps)
        y = y.reshape(z.shape) * on_last(self.norm_scale[...], z)
        return self.out_proj(y, c.dtype)
