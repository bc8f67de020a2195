"""RWKV-4 time mixing: a weighted average of values with per-channel exponential decay.

    y = W_o (sigma(r) * wkv(k, v))    (`ops/wkv4/chunked.py`)

Source: arXiv 2305.13048 and BlinkDL, RWKV-LM (RWKV-v4neo/src/model.py).

Shapes: B batch, T time, C width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.base import KERNELS, Cell, bookkeeping, one_of, positive
from jaxmodels.cells.layers import EVERY_COLUMN, Linear
from jaxmodels.ops.common.token_shift import last_token, token_mix, token_shift
from jaxmodels.ops.wkv4 import WKV4State, wkv4, wkv4_initial, wkv4_step


@dataclasses.dataclass(frozen=True)
class RWKV4Config:
    """Configuration of the cell.

    Attributes:
      width: C.
      chunk_size: tokens per chunk in `__call__`.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
      kernel: "xla" or "pallas". The Pallas TPU kernel runs in interpret mode on other platforms
        (tests only).
    """

    width: int
    chunk_size: int = 64
    dtype: str = "float32"
    kernel: str = "xla"

    def __post_init__(self):
        positive(self, "width", "chunk_size")
        one_of(self, "dtype", ("float32", "bfloat16"))
        one_of(self, "kernel", tuple(KERNELS))


@struct.dataclass
class RWKV4State:
    """Float32 state.

    Attributes:
      shift: (B, C), the last token read.
      wkv: p, q, o, each (B, C); the weighted sums are p e^o and q e^o.
    """

    shift: jax.Array
    wkv: WKV4State = bookkeeping()  # a mean has no state of its own before its first value


class RWKV4Cell(Cell):
    """Time mixing; x, y: (B, C).

    `mix` (3, C), for k, v and r, is m in m x_t + (1 - m) x_{t-1}; later versions store 1 - m.
    `decay` is the logarithm of the decay rate w (`time_decay` of the source), `bonus` is u
    (`time_first`).
    """

    def __init__(self, config: RWKV4Config, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1):
        c = self.config = config
        width = c.width
        rho, r01 = 1.0 - layer / num_layers, layer / max(num_layers - 1, 1)
        i = jnp.arange(width, dtype=jnp.float32)
        share = (i / width) ** rho
        self.mix = nnx.Param(jnp.stack([share, share + 0.3 * r01, (i / width) ** (0.5 * rho)]))
        ramp = i / max(width - 1, 1)
        self.decay = nnx.Param(-5.0 + 8.0 * ramp ** (0.7 + 1.3 * r01))
        self.bonus = nnx.Param(jnp.log(0.3) + 0.5 * ((i + 1) % 3 - 1))

        def linear(init, undecayed=()):
            options = {"init": init, "undecayed": undecayed, "rngs": rngs}
            return Linear(width, width, bias=False, **options)

        self.receptance = linear(nnx.initializers.zeros, EVERY_COLUMN)  # a gate
        self.key = linear(nnx.initializers.zeros)
        self.value = linear(nnx.initializers.orthogonal())
        self.output = linear(nnx.initializers.zeros)

    def initial_state(self, batch_size: int) -> RWKV4State:
        """Return zeros, with exponent o = -1e38."""
        shape = (batch_size, self.config.width)
        return RWKV4State(jnp.zeros(shape, jnp.float32), wkv4_initial(*shape))

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        x = x.astype(jnp.float32)
        inputs, gate = self._project(x, state.shift)
        wkv, y = wkv4_step(state.wkv, *inputs)
        return RWKV4State(x, wkv), self.output(gate * y, self.config.dtype)

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`; the chunked implementation."""
        c, xs = self.config, xs.astype(jnp.float32)
        inputs, gate = self._project(xs, token_shift(xs, state.shift, reset))
        options = {"chunk_size": c.chunk_size, "implementation": KERNELS[c.kernel]}
        wkv, y = wkv4(state.wkv, *inputs, reset, lengths, **options)
        shift = last_token(xs, state.shift, lengths)
        return RWKV4State(shift, wkv), self.output(gate * y, c.dtype)

    def _project(self, x, before):
        """Project tokens (..., C) to ((k, v (..., C), decay, bonus (C,)), gate (..., C))."""
        xk, xv, xr = token_mix(before, x, self.mix[...])
        dtype = self.config.dtype
        k, v, r = self.key(xk, dtype), self.value(xv, dtype), self.receptance(xr, dtype)
        return (k, v, jnp.exp(self.decay[...]), self.bonus[...]), jax.nn.sigmoid(r)
