"""The decoder: a GRU over bytes, conditioned on the chunk's plan and the prompt.

Source: zabwie/RNM (rnk/decoder.py). There the GRU reads the plan of the chunk that it writes, which
has read it; here, that of the chunks before.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.layers import Embedding, LayerNorm, Linear, dot, rows_of, symmetric_uniform
from jaxmodels.models.rnk.chunking import look_up_by_time
from jaxmodels.models.rnk.config import RNKConfig
from jaxmodels.models.rnk.planner import ConstraintAttention
from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.gru import gru, gru_step


class GRULayer(nnx.Module):
    """One GRU layer, see `ops/gru.py`; `kernel` (d, 3 d)."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        uniform = symmetric_uniform(width**-0.5)
        gates = ((0, 2 * width),)
        self.inputs = Linear(inputs, 3 * width, init=uniform, undecayed=gates, rngs=rngs)
        kernel = uniform(rngs.params(), (width, 3 * width))
        self.kernel = nnx.Param(kernel, undecayed=gates)
        self.bias = nnx.Param(jnp.zeros((3 * width,), jnp.float32))


class Decoder(nnx.Module):
    """GRU decoder; inputs of a byte: its embedding, the plan, the prompt's context."""

    def __init__(self, config: RNKConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.embed = Embedding(c.vocab_size, c.width, rngs=rngs)
        self.plan = Linear(c.width, c.width, rngs=rngs)
        if c.decoder_context == "attention":
            self.query = Linear(c.width, c.width, rngs=rngs)
            self.memory = Linear(c.width, c.width, rngs=rngs)
            self.attention = ConstraintAttention(c, rngs=rngs)
        self.enter = Linear(c.width, c.decoder_layers * c.width, rngs=rngs)
        sizes = [3 * c.width] + [c.width] * (c.decoder_layers - 1)
        self.layers = nnx.List([GRULayer(size, c.width, rngs=rngs) for size in sizes])
        self.norm = LayerNorm(c.width)
        self.hidden = Linear(c.width, c.width, rngs=rngs)
        self.output = Linear(c.width, c.vocab_size, rngs=rngs)

    def initial_state(self, batch_size: int):
        """Return zeros (B, layers, d)."""
        return jnp.zeros((batch_size, self.config.decoder_layers, self.config.width), jnp.float32)

    def project(self, plan, context):
        """Project plan and context (..., d) to their part of the first layer's input (..., 3 d)."""
        c, first = self.config, self.layers[0].inputs
        x = jnp.concatenate([self.plan(plan, c.dtype), context], -1)
        y = dot(x, first.kernel[c.width :], c.dtype)
        return y + broadcast_to_last_axis(first.bias[...], y)

    def entry(self, plan, context):
        """Return what is added to h where a chunk or prompt ended, (..., layers, d)."""
        c = self.config
        source = plan if c.decoder_state == "chunk" else context
        y = self.enter(source, c.dtype)
        return y.reshape(*y.shape[:-1], c.decoder_layers, c.width)

    def step(self, hidden, token, projected, entry, ends):
        """Read one byte.

        Args:
          hidden: (B, layers, d).
          token: int (B,).
          projected: (B, 3 d), see `project`, of the plan and context after this byte.
          entry: (B, layers, d), see `entry`, of the same.
          ends: `chunking.Ends` of this byte.

        Returns:
          (hidden, logits (B, V) of the next byte).
        """
        c, real = self.config, (token != self.config.pad)[:, None]
        x = projected + self._first(self.embed(token))
        keep, begins = self._start(ends)
        after = []
        for i, layer in enumerate(self.layers):
            h = jnp.where(keep[:, None], hidden[:, i], 0.0)
            h = h + jnp.where(begins[:, None], entry[:, i], 0.0)
            x = x if i == 0 else layer.inputs(x, c.dtype)
            new = gru_step(h, x, layer.kernel[...].astype(c.dtype), layer.bias[...])
            x = jnp.where(real, new, h)
            after.append(x)
        return jnp.stack(after, 1), self._logits(x)

    def __call__(self, hidden, tokens, projected, entry, index, ends, reset, hold=None):
        """Read segments (B, T), with the rows at index int (B, T) of the tables of chunks.

        Args:
          hidden, tokens, ends: as in `step`, with T for all but hidden.
          projected: (B, m, 3 d), entry: (B, m, layers, d).
          index: int (B, T), of the chunk that each byte reads.
          reset, hold: bool (B, T), hold or None.

        Returns:
          (hidden, logits (B, T, V)).
        """
        c = self.config
        by_time = tokens, index, ends, reset, hold
        tokens, index, ends, reset, hold = jax.tree.map(jnp.transpose, by_time)
        real = tokens != c.pad
        real = real if hold is None else real & ~hold
        every = self._first(self.embed.table[...])
        x = look_up_by_time(projected, index) + rows_of(every, tokens)
        keep, begins = self._start(ends)
        after = []
        for i, layer in enumerate(self.layers):
            last, x = gru(
                hidden[:, i],
                x if i == 0 else layer.inputs(x, c.dtype),
                layer.kernel[...].astype(c.dtype),
                layer.bias[...],
                keep=keep & ~reset,
                enter=jnp.where(begins[..., None], look_up_by_time(entry[:, :, i], index), 0.0),
                active=real,
            )
            after.append(last)
        return jnp.stack(after, 1), self._logits(x.swapaxes(0, 1))

    def attend(self, plan, table, counts):
        """Return the source's context (B, d): one attention of a plan over the prompt's bytes.

        Equal bytes have equal keys and values, so that each value of a byte is read once.

        Args:
          plan: (B, d), the mean plan.
          table: (V, d), the embedded bytes.
          counts: (B, V), how often each occurs in the prompt.
        """
        query = self.query(plan[:, None], self.config.dtype)
        return self.attention(query, self.memory(table, self.config.dtype), counts)[:, 0]

    def _first(self, embedded):
        """Project embedded bytes (..., d) to their part of the first layer's input (..., 3 d)."""
        kernel = self.layers[0].inputs.kernel[: self.config.width]
        return dot(embedded, kernel, self.config.dtype)

    def _start(self, ends):
        """Return bool (keep, begins): whether h is kept, and whether `entry` is added to it."""
        if self.config.decoder_state == "chunk":
            return ~ends.emits, ends.emits
        return jnp.ones_like(ends.emits), ends.prompt

    def _logits(self, x):
        c = self.config
        return self.output(jax.nn.gelu(self.hidden(self.norm(x), c.dtype)), c.dtype)
