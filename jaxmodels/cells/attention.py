"""Causal sliding-window softmax attention as a cell, the baseline of the recurrent cells.

    y_t = W_o softmax(q_t K^T / sqrt N) V  over the last `window` tokens of the document

The state is a ring buffer of keys and values, so the cost per token is constant. Rotary positions
(arXiv 2104.09864), grouped-query attention (arXiv 2305.13245), query and key norms (arXiv
2010.04245, as in arXiv 2302.05442), initialization as in GPT-2.

Shapes: B batch, T time, C width, W window, H heads, K key and value heads, N head_size (C = H N).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.base import Cell, bookkeeping, head_size_of, one_of, positive
from jaxmodels.cells.layers import Linear, RMSNorm
from jaxmodels.errors import UserError
from jaxmodels.ops.attention import (
    attention_blocks,
    attention_step,
    ring_put,
    ring_write,
    rotate,
    token_positions,
)
from jaxmodels.ops.common.token_shift import last_token


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Configuration of the cell.

    Attributes:
      width: C.
      head_size: N, even, divides C; None means 64, or C if that is smaller.
      kv_heads: K, divides H; None means H.
      window: W, attention span in tokens, including the current one; the state has 2 W K N numbers.
      rope_base: the slowest pair of channels has a period of about 2 pi rope_base tokens.
      qk_norm: RMSNorm of each head's query and key, before rotation.
      chunk_size: query tokens per block in `__call__`.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
    """

    width: int
    head_size: int | None = None
    kv_heads: int | None = None
    window: int = 1024
    rope_base: float = 1e4
    qk_norm: bool = False
    chunk_size: int = 256
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "head_size", head_size_of(self.width, self.head_size))
        if self.head_size % 2:
            raise UserError(f"head_size must be even to be rotated in pairs, got {self.head_size}")
        heads = self.width // self.head_size
        if self.kv_heads is None:
            object.__setattr__(self, "kv_heads", heads)
        positive(self, "kv_heads", "window", "chunk_size")
        if heads % self.kv_heads:
            raise UserError(f"kv_heads={self.kv_heads} must divide the {heads} heads")
        if not self.rope_base > 1.0:
            raise UserError(f"rope_base must be more than 1, got {self.rope_base!r}")
        one_of(self, "dtype", ("float32", "bfloat16"))


@struct.dataclass
class AttentionState:
    """Float32 state; ring slots beyond `position` are never read.

    Attributes:
      keys: (B, W, K, N), rotated; token p of the document is in slot p mod W.
      values: (B, W, K, N).
      position: (B,), tokens of the document read so far, below 2^24.
    """

    keys: jax.Array = bookkeeping()
    values: jax.Array = bookkeeping()
    position: jax.Array = bookkeeping()


class AttentionCell(Cell):
    """Multi-head attention; x, y: (B, C)."""

    def __init__(
        self, config: AttentionConfig, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1
    ):
        del layer
        c = self.config = config
        normal = nnx.initializers.normal(0.02)
        small = nnx.initializers.normal(0.02 / (2 * num_layers) ** 0.5)  # GPT-2: two sums a layer

        def linear(inputs, outputs, init):
            return Linear(inputs, outputs, bias=False, init=init, rngs=rngs)

        self.query = linear(c.width, c.width, normal)
        self.key = linear(c.width, c.kv_heads * c.head_size, normal)
        self.value = linear(c.width, c.kv_heads * c.head_size, normal)
        self.output = linear(c.width, c.width, small)
        self.query_norm = RMSNorm(c.head_size) if c.qk_norm else None
        self.key_norm = RMSNorm(c.head_size) if c.qk_norm else None

    def initial_state(self, batch_size: int) -> AttentionState:
        """Return empty rings."""
        c = self.config
        ring = jnp.zeros((batch_size, c.window, c.kv_heads, c.head_size), jnp.float32)
        return AttentionState(ring, ring, jnp.zeros((batch_size,), jnp.float32))

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        read = _count(state.position)
        q, k, v = self._project(x, read)
        keys, values = ring_put(state.keys, k, read + 1), ring_put(state.values, v, read + 1)
        y = attention_step(q, keys, values, read + 1, self.config.dtype)
        return AttentionState(keys, values, state.position + 1.0), self._read_out(y)

    def scan(self, state, xs, reset=None, key=None, prefix=None, *, step=None, hold=None):
        """See `Cell.scan`; `prefix` must be None, because a step cannot attend to later tokens."""
        if prefix is not None:
            raise UserError("prefix: a scan cannot attend to later tokens; call the cell instead")
        return Cell.scan(self, state, xs, reset, key, step=step, hold=hold)

    def __call__(self, state, xs, reset=None, key=None, prefix=None, lengths=None):
        """See `Cell.scan`; computed by blocks of queries.

        prefix: bool (B, T) or None. Where it is True, attention within a document is bidirectional,
        limited by the window; a prefix must not continue in the next call.
        """
        c = self.config
        if reset is None:
            reset = jnp.zeros(xs.shape[:2], bool)
        read, time = _count(state.position), xs.shape[1]
        positions = token_positions(read, reset)
        q, k, v = self._project(xs, positions)
        y = attention_blocks(
            q, k, v, state.keys, state.values, read, reset, prefix,
            block_size=c.chunk_size, dtype=c.dtype,
        )  # fmt: skip
        count = time if lengths is None else lengths.astype(jnp.float32)
        after, restarted = last_token(positions + 1, read, lengths), reset.any(1)
        position = jnp.where(restarted, after.astype(jnp.float32), state.position + count)
        keys = ring_write(state.keys, k, after, restarted, lengths)
        values = ring_write(state.values, v, after, restarted, lengths)
        return AttentionState(keys, values, position), self._read_out(y)

    def streams(self, x):
        """Return queries (..., H, N), keys and values (..., K, N) of x (..., C), not rotated."""
        c = self.config
        q, k, v = (
            linear(x, c.dtype).reshape(*x.shape[:-1], -1, c.head_size)
            for linear in (self.query, self.key, self.value)
        )
        if c.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        return q, k, v

    def _project(self, x, position):
        """Project tokens (..., C) at int positions (...) to q (..., K, G, N), k, v (..., K, N)."""
        c, (q, k, v) = self.config, self.streams(x)
        q, k = rotate(q, position, c.rope_base), rotate(k, position, c.rope_base)
        return q.reshape(*k.shape[:-1], -1, c.head_size), k, v

    def _read_out(self, y):
        """Project y (..., K, G, N) to (..., C)."""
        return self.output(y.reshape(*y.shape[:-3], -1), self.config.dtype)


def _count(position):
    """Return the position as int32, without gradient; NaN becomes 0."""
    return jnp.nan_to_num(jax.lax.stop_gradient(position)).astype(jnp.int32)
