"""RWKV-6 "Finch" time mixing: a matrix state with data-dependent decay and token shift.

    S_t = diag(w_t) S_{t-1} + k_t v_t^T ;   y = W_o (norm(S^T r) * silu(g))    (`ops/wkv6.py`)

Source: arXiv 2404.05892 and BlinkDL, RWKV-LM (RWKV-v5/src/model.py, x060).

Shapes: B batch, T time, C width, H heads, N head_size (C = H N).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from jaxmodels.cells.base import KERNELS, Cell, head_size_of, one_of, positive
from jaxmodels.cells.layers import (
    EVERY_COLUMN,
    Linear,
    assign_rates,
    dot,
    normalize_heads,
    symmetric_uniform,
    within,
)
from jaxmodels.errors import UserError
from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.common.token_shift import last_token, token_shift
from jaxmodels.ops.wkv6 import MixerVectors, wkv6_mixer, wkv6_step
from jaxmodels.ops.wkv6.xla import read

MIXED = ("w", "k", "v", "r", "g")  # order of the token-shift mixtures


@dataclasses.dataclass(frozen=True)
class RWKV6Config:
    """Configuration of the cell.

    Attributes:
      width: C.
      head_size: N, divides C; None means 64, or C if that is smaller.
      mix_rank: rank of the low-rank map to each of the five token-shift mixtures.
      decay_rank: rank of the low-rank map to the decay.
      norm_groups: number of parts of C that are normalized separately on reading; None means H.
      chunk_size: tokens per chunk in `__call__`, preferably a power of two.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
      kernel: "xla" or "pallas". The Pallas TPU kernel runs in interpret mode on other platforms
        (tests only); it takes chunks of a power of two, at least 8.
    """

    width: int
    head_size: int | None = None
    mix_rank: int = 32
    decay_rank: int = 64
    norm_groups: int | None = None
    chunk_size: int = 32
    dtype: str = "float32"
    kernel: str = "xla"

    def __post_init__(self):
        object.__setattr__(self, "head_size", head_size_of(self.width, self.head_size))
        if self.norm_groups is None:
            object.__setattr__(self, "norm_groups", self.width // self.head_size)
        positive(self, "mix_rank", "decay_rank", "norm_groups", "chunk_size")
        if self.width % self.norm_groups:
            raise UserError(f"norm_groups={self.norm_groups} must divide width={self.width}")
        one_of(self, "dtype", ("float32", "bfloat16"))
        one_of(self, "kernel", tuple(KERNELS))
        if self.kernel == "pallas" and self.chunk_size not in (8, 16, 32, 64, 128):
            raise UserError(
                'kernel="pallas" requires a chunk_size of 8, 16, 32, 64 or 128, '
                f"got {self.chunk_size}"
            )


@struct.dataclass
class RWKV6State:
    """Float32 state.

    Attributes:
      shift: (B, C), the last token read.
      wkv: (B, H, N key, N value).
    """

    shift: jax.Array
    wkv: jax.Array


class RWKV6Cell(Cell):
    """Time mixing; x, y: (B, C).

    `mix` (5, C), for `MIXED`, and `mix_x` (C,), for the input of their low-rank maps, are mu in
    x_t + mu (x_{t-1} - x_t). `decay` is d in w = exp(-exp(d)) (`time_decay` of the source), `bonus`
    is u (`time_faaaa`).
    """

    def __init__(self, config: RWKV6Config, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1):
        c = self.config = config
        width = c.width
        rho, r01 = 1.0 - layer / num_layers, layer / max(num_layers - 1, 1)
        i = jnp.arange(width, dtype=jnp.float32)
        share, root = (i / width) ** rho, (i / width) ** (0.5 * rho)
        kept = {"w": share, "k": share, "v": share + 0.3 * r01, "r": root, "g": root}
        self.mix_x = nnx.Param(1.0 - share)
        self.mix = nnx.Param(jnp.stack([1.0 - kept[name] for name in MIXED]))
        # Not named kernel: weight decay must not act on mixtures and decays.
        small = symmetric_uniform(0.01)
        self.mix_down = nnx.Param(jnp.zeros((width, 5 * c.mix_rank), jnp.float32))
        self.mix_up = nnx.Param(small(rngs.params(), (5, c.mix_rank, width)))
        self.decay_down = nnx.Param(jnp.zeros((width, c.decay_rank), jnp.float32))
        self.decay_up = nnx.Param(small(rngs.params(), (c.decay_rank, width)))
        ramp = i / max(width - 1, 1)
        self.decay = nnx.Param(-6.0 + 5.0 * ramp ** (0.7 + 1.3 * r01))
        self.bonus = nnx.Param(r01 * (1.0 - ramp) + 0.1 * ((i + 1) % 3 - 1))

        def linear(gain, undecayed=()):
            init = nnx.initializers.orthogonal(gain) if gain else nnx.initializers.zeros
            options = {"init": init, "undecayed": undecayed, "rngs": rngs}
            return Linear(width, width, bias=False, **options)

        self.receptance = linear(1.0)
        self.key = linear(0.1)
        self.value = linear(1.0)
        self.gate = linear(0.1, EVERY_COLUMN)
        self.output = linear(0.0)
        gain = ((layer + 1) / num_layers) ** 0.7
        self.norm_scale = nnx.Param(jnp.full((width,), gain, jnp.float32))
        self.norm_bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def initial_state(self, batch_size: int) -> RWKV6State:
        """Return zeros."""
        c = self.config
        heads = c.width // c.head_size
        return RWKV6State(
            shift=jnp.zeros((batch_size, c.width), jnp.float32),
            wkv=jnp.zeros((batch_size, heads, c.head_size, c.head_size), jnp.float32),
        )

    def step(self, state, x, key=None, write=None):
        """See `Cell.step`; `write`, float (B,) in [0, 1] or None, scales log decay and key."""
        x = x.astype(jnp.float32)
        *tokens, z = self._project(x, state.shift, write)
        wkv, y = wkv6_step(state.wkv, *map(self._heads, tokens), self._vectors().bonus)
        y = read(y, z, self._vectors(), self.config.norm_groups)
        return RWKV6State(x, wkv), self.output(y, self.config.dtype)

    def __call__(self, state, xs, reset=None, key=None, write=None, lengths=None):
        """See `Cell.scan`; the chunked implementation. `write`: (B, T) or None, see `step`."""
        c, xs = self.config, xs.astype(jnp.float32)
        write = within(lengths, xs.shape[1], write)
        tokens = self._project(xs, token_shift(xs, state.shift, reset), write)
        wkv, y = wkv6_mixer(
            state.wkv,
            tokens,
            self._vectors(),
            reset,
            norm_groups=c.norm_groups,
            chunk_size=c.chunk_size,
            implementation=KERNELS[c.kernel],
        )
        return RWKV6State(last_token(xs, state.shift, lengths), wkv), self.output(y, c.dtype)

    def set_retention(self, groups) -> None:
        """Initialize the retention per token, independent of the data.

        groups: pairs (fraction of the channels, retention in (0, 1)), see `assign_rates`.
        """
        rates = -np.log(assign_rates(groups, self.config.width))
        self.decay[...] = jnp.asarray(np.log(rates), jnp.float32)

    def retention(self, state, xs, reset=None, write=None):
        """Return the decay factor of each key channel at each token, (B, T, H, N).

        Arguments as for `__call__`; resets do not count as decay.
        """
        before = token_shift(xs, state.shift, reset)
        return jnp.exp(self._heads(self._project(xs, before, write)[1]))

    def normalize_state(self, state, groups: int, gain):
        """Normalize the matrix state; see `normalize_heads`."""
        return state.replace(wkv=normalize_heads(state.wkv, groups, gain))

    def _project(self, x, before, write=None):
        """Project tokens (..., C) to r, log_w, k, v and z, the gate before silu, each (..., C)."""
        dtype = self.config.dtype
        past = before - x
        hidden = jnp.tanh(
            dot(x + past * broadcast_to_last_axis(self.mix_x[...], x), self.mix_down[...], dtype)
        )
        hidden = jnp.split(hidden, 5, -1)
        xw, xk, xv, xr, xg = (
            x + past * (broadcast_to_last_axis(mu, x) + dot(low, up, dtype))
            for mu, low, up in zip(self.mix[...], hidden, self.mix_up[...], strict=True)
        )
        decay = dot(jnp.tanh(dot(xw, self.decay_down[...], dtype)), self.decay_up[...], dtype)
        # At 20, w is already 0 in float32; beyond 88, log_w would be -Inf.
        log_w = -jnp.exp(jnp.minimum(broadcast_to_last_axis(self.decay[...], x) + decay, 20.0))
        r, k, v = self.receptance(xr, dtype), self.key(xk, dtype), self.value(xv, dtype)
        if write is not None:
            log_w, k = log_w * write[..., None], k * write[..., None]
        return r, log_w, k, v, self.gate(xg, dtype)

    def _vectors(self):
        bonus = self._heads(self.bonus[...])
        return MixerVectors(bonus, self.norm_scale[...], self.norm_bias[...])

    def _heads(self, x):
        return x.reshape(*x.shape[:-1], -1, self.config.head_size)
