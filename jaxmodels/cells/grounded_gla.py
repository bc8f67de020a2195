"""Time mixing of GroundThink V3 and v0.2.0: gated linear attention with a "grounded" decay.

    w = clip(alpha exp(-b) + (1 - alpha) exp(-exp(W_d x)), 0.01, 0.99)          (per channel)
    S_t = rho_t S_{t-1} + k_t v_t^T ;  o_t = S_t^T r_t / sqrt(N) ;  y = W_o (g * o)    (per head)
    log rho = mean_d log w               with decay_sign="correct"
    log rho = mean_d log(1 - w + 1e-6)   with decay_sign="inverted"

Source: `9to5ninja-projects/groundthink`, layers_v030.py and archive/layers_v020.py. There w, meant
as the retention, is passed to a kernel that takes log(1 - w), so a token retains 0.253 of the state
at the start instead of 0.747; and the short convolution is computed but not used. Both are options
here, and so is the state normalization, which the original applies after each segment in training
but after each token in decoding; here both are the same.

Shapes: B batch, T time, C width, H heads, N head_size (C = H N), K taps.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.base import Cell, bookkeeping, head_size_of, one_of, positive
from jaxmodels.cells.layers import Linear, dot, symmetric_uniform
from jaxmodels.errors import UserError
from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.short_conv import short_conv, short_conv_step, state_after
from jaxmodels.ops.wkv6 import wkv6_chunked, wkv6_step
from jaxmodels.ragged import hold_after, without

STATE_NORMS = ("none", "boundary", "per_token")
W_RANGE = (0.01, 0.99)


@dataclasses.dataclass(frozen=True)
class GroundedGLAConfig:
    """Configuration of the cell.

    Attributes:
      width: C.
      head_size: N, divides C; None means 32, or C if that is smaller.
      alpha: weight of the learned decay in w; the rest depends on the data.
      decay_sign: "correct" retains w of the state, "inverted" 1 - w, as in the original code.
      grounding: r, k and v read x + 0.1 conv(x); if False, as in the original, just x.
      state_norm: normalize the state to unit mean square: "none", "boundary" (every `norm_every`
        tokens of a document) or "per_token". The latter two run as a scan.
      state_groups: groups of rows of each head's N x N state that are normalized separately, with a
        gain per entry; 0 means each row separately without a gain, as in v0.2.0.
      norm_every: see `state_norm`.
      learn_initial_state: learn the initial state; runs as a scan.
      base_decay: initial b.
      decay_init: standard deviation of the initial W_d.
      output_gain: gain of the Glorot initialization of W_o; None means a normal of 0.02.
      conv_size: K.
      chunk_size: tokens per chunk in `__call__`, preferably a power of two.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
    """

    width: int
    head_size: int | None = None
    alpha: float = 0.6
    decay_sign: str = "correct"
    grounding: bool = True
    state_norm: str = "none"
    state_groups: int = 4
    norm_every: int = 256
    learn_initial_state: bool = False
    base_decay: float = 0.0
    decay_init: float = 0.0
    output_gain: float | None = 0.1
    conv_size: int = 4
    chunk_size: int = 32
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "head_size", head_size_of(self.width, self.head_size, usual=32))
        positive(self, "norm_every", "conv_size", "chunk_size")
        one_of(self, "decay_sign", ("correct", "inverted"))
        one_of(self, "state_norm", STATE_NORMS)
        one_of(self, "dtype", ("float32", "bfloat16"))
        if self.conv_size < 2:
            raise UserError(f"conv_size must be at least 2, got {self.conv_size}")
        if self.state_groups < 0 or (self.state_groups and self.head_size**2 % self.state_groups):
            raise UserError(
                f"state_groups={self.state_groups} must divide head_size^2 = {self.head_size**2}"
            )
        if not 0.0 <= self.alpha <= 1.0:
            raise UserError(f"alpha must lie in [0, 1], got {self.alpha!r}")


@struct.dataclass
class GroundedGLAState:
    """Float32 state.

    Attributes:
      conv: (B, K - 1, C), the last tokens read, oldest first.
      gla: (B, H, N key, N value).
      clock: (B,), tokens since the last boundary; () unless state_norm="boundary".
    """

    conv: jax.Array
    gla: jax.Array
    clock: Any = bookkeeping()


class GroundedGLACell(Cell):
    """Grounded gated linear attention; x, y: (B, C)."""

    def __init__(
        self, config: GroundedGLAConfig, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1
    ):
        del layer, num_layers
        c = self.config = config
        bound = symmetric_uniform(c.width**-0.5)

        def linear(init):
            return Linear(c.width, c.width, bias=False, init=init, rngs=rngs)

        self.receptance, self.key, self.value = linear(bound), linear(bound), linear(bound)
        # Not named kernel: weight decay must not act on gates and decays.
        square = (c.width, c.width)
        gate = jax.random.uniform(rngs.params(), square, jnp.float32, 0.9, 1.1)
        self.gate = nnx.Param(gate)
        decay = nnx.initializers.normal(c.decay_init) if c.decay_init else nnx.initializers.zeros
        self.decay = nnx.Param(decay(rngs.params(), square, jnp.float32))
        self.base_decay = nnx.Param(jnp.full((c.width,), c.base_decay, jnp.float32))
        taps = symmetric_uniform(c.conv_size**-0.5)
        self.conv_taps = nnx.Param(taps(rngs.params(), (c.width, c.conv_size)))
        self.grounding_scale = nnx.Param(jnp.ones((1,), jnp.float32))  # `res_weight` of the source
        out = nnx.initializers.normal(0.02)
        if c.output_gain is not None:
            out = nnx.initializers.variance_scaling(c.output_gain**2, "fan_avg", "uniform")
        self.output = linear(out)
        gained = c.state_norm != "none" and c.state_groups
        self.state_gain = nnx.Param(jnp.ones((c.head_size**2,), jnp.float32)) if gained else None
        heads = (c.width // c.head_size, c.head_size, c.head_size)
        small = nnx.initializers.normal(0.01)
        learned = c.learn_initial_state
        self.h0 = nnx.Param(small(rngs.params(), heads, jnp.float32)) if learned else None

    def initial_state(self, batch_size: int) -> GroundedGLAState:
        """Return zeros, or the learned state."""
        c = self.config
        heads = (batch_size, c.width // c.head_size, c.head_size, c.head_size)
        return GroundedGLAState(
            conv=jnp.zeros((batch_size, c.conv_size - 1, c.width), jnp.float32),
            gla=jnp.broadcast_to(0.0 if self.h0 is None else self.h0[...], heads).astype(
                jnp.float32
            ),
            clock=jnp.zeros((batch_size,), jnp.float32) if c.state_norm == "boundary" else (),
        )

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        x = x.astype(jnp.float32)
        conv, local = short_conv_step(state.conv, x, self.conv_taps[...], self._no_bias())
        (r, log_w, k, v), gate, own = self._project(x, local)
        gla, y = wkv6_step(state.gla, r, log_w, k, v, jnp.zeros(r.shape[-2:], jnp.float32))
        state = self._normalized(GroundedGLAState(conv, gla, state.clock))
        return state, self._read_out(y + own * v, gate)

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`; the chunked implementation if the recurrence is linear."""
        c = self.config
        if c.state_norm != "none" or c.learn_initial_state:
            return self.scan(state, xs, reset, key, lengths=lengths)
        xs = xs.astype(jnp.float32)
        conv, local = short_conv(state.conv, xs, self.conv_taps[...], self._no_bias(), reset)
        (r, log_w, k, v), gate, own = self._project(xs, local)
        if lengths is not None:
            conv = state_after(state.conv, xs, lengths, reset)
            log_w, k = without(hold_after(lengths, xs.shape[1]), (log_w, k))
        none = jnp.zeros(r.shape[-2:], jnp.float32)
        gla, y = wkv6_chunked(state.gla, r, log_w, k, v, none, reset, chunk_size=c.chunk_size)
        return GroundedGLAState(conv, gla, ()), self._read_out(y + own * v, gate)

    def retention(self, x):
        """Return rho (..., H) of tokens (..., C)."""
        return jnp.exp(self._log_retention(x))

    def _log_retention(self, x):
        c = self.config
        selective = jnp.exp(-jnp.exp(jnp.minimum(dot(x, self.decay[...], c.dtype), 20.0)))
        base = broadcast_to_last_axis(jnp.exp(-self.base_decay[...]), x)
        w = jnp.clip(c.alpha * base + (1.0 - c.alpha) * selective, *W_RANGE)
        retention = w if c.decay_sign == "correct" else 1.0 - w + 1e-6
        return jnp.log(self._heads(retention)).mean(-1)

    def _project(self, x, local):
        """Return the inputs of `ops.wkv6` (r, log_w, k, v), the gate (..., C), and r . k (..., 1).

        The state is read after the write. RWKV-6 reads before it, so r is decayed by one step, and
        the current token's term (r . k) v is added outside.
        """
        c = self.config
        log_rho = self._log_retention(x)
        if c.grounding:
            x = x + 0.1 * broadcast_to_last_axis(self.grounding_scale[...], x) * local
        r = jax.nn.sigmoid(self.receptance(x, c.dtype)) * c.head_size**-0.5
        r, k, v = (self._heads(z) for z in (r, self.key(x, c.dtype), self.value(x, c.dtype)))
        own = jnp.sum(r * k, -1, keepdims=True)
        log_w = jnp.broadcast_to(log_rho[..., None], k.shape)
        gate = jax.nn.sigmoid(dot(x, self.gate[...], c.dtype))
        return (r * jnp.exp(log_w), log_w, k, v), gate, own

    def _heads(self, x):
        return x.reshape(*x.shape[:-1], -1, self.config.head_size)

    def _no_bias(self):
        return jnp.zeros((self.config.width,), jnp.float32)

    def _read_out(self, y, gate):
        """Gate and project y (..., H, N) to (..., C)."""
        return self.output(y.reshape(gate.shape) * gate, self.config.dtype)

    def _normalized(self, state):
        c = self.config
        if c.state_norm == "none":
            return state
        gla = state.gla
        parts = gla
        if c.state_groups:
            parts = gla.reshape(*gla.shape[:2], c.state_groups, -1)
        parts = parts * jax.lax.rsqrt(jnp.mean(parts * parts, -1, keepdims=True) + 1e-5)
        normed = parts.reshape(gla.shape)
        if c.state_groups:
            gain = self.state_gain[...].reshape(1, 1, c.head_size, c.head_size)
            normed = normed * gain
        if c.state_norm == "per_token":
            return state.replace(gla=normed)
        due = state.clock + 1.0 >= c.norm_every
        return state.replace(
            gla=jnp.where(due[:, None, None, None], normed, gla),
            clock=jnp.where(due, 0.0, state.clock + 1.0),
        )
