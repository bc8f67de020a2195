"""The unified cell of PRERNK: an RWKV-like gate, tensor binding and a hierarchical reducer.

Source: `zabwie/RNK` (docs/unified_training_plan.md and src/prernk/cell.py) with the corrections of
docs/systems.md; the defects of the original can be selected by config fields ("as written").

This file is the reference implementation; `unified_fused.py` computes the same function faster.

Shapes: B batch, T time, D hidden_size, S symbol_slots, K role_slots, R relation_size, A_l width of
abstraction l (A_0 = D).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells import unified_fused
from jaxmodels.cells.base import Cell, bookkeeping, not_negative, one_of, positive
from jaxmodels.cells.layers import LayerNorm, Linear, dropout
from jaxmodels.errors import UserError
from jaxmodels.ops.common.precision import EXACT
from jaxmodels.ops.wkv4 import WKV4State, wkv4_step

ACTIVATIONS = ("gelu", "silu", "relu")
GATINGS = ("full", "lower_triangular", "diagonal")
POOLINGS = ("mean", "attention")
CORES = ("ema", "rwkv4")


@dataclasses.dataclass(frozen=True)
class UnifiedConfig:
    """Configuration of the unified cell.

    Attributes:
      width: width of the input x_t.
      hidden_size: D; None means `width`.
      symbol_slots, role_slots, relation_size: S, K, R of the relation tensor; relation_size None
        means D / 4.
      abstraction_sizes: widths A_l, the first equal to D (P-05); None means (D, D/2, D/4).
      activation: activation of the candidate in the RWKV block: gelu, silu or relu.
      core: "ema", the element-wise gate of the source; "rwkv4", a true wkv with state (p, q, o).
      gating: how slots read each other through the mask C. "full": every slot reads all slots.
        "lower_triangular": slots are ordered and influence flows only forward. "diagonal": as
        written, an einsum that reads only C_ss, so no slot can influence another.
      pooling: how what the slots have read becomes the context. "mean": their mean. "attention":
        weighted by a softmax over slots of their products with a query from h_mid.
      double_softmax: as written, apply a second softmax to C, which is already row-stochastic.
      topdown: abstractions l >= 1 feed back into h. As written they do not, and get no gradient.
      exact_gelu: use the exact GELU, as written, instead of the tanh approximation, which is
        cheaper and differs by at most 5e-4.
      dropout: dropout rate in training; as written 0.1.
      input_gain: factor on the initial RWKV projection; its square multiplies the rows of the first
        abstraction that read h_mid. With 1, as written, h_mid is ten times smaller than a_0 in
        their common LayerNorm, and learning starts late.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
      remat_chunk: if positive, store the state only every that many tokens and recompute the rest
        in the backward pass (P-23).
      debug_mode: enable `UnifiedCell.debug`, which returns every intermediate value (P-10, P-24);
        the report of a run then shows them.
    """

    width: int
    hidden_size: int | None = None
    symbol_slots: int = 16
    role_slots: int = 4
    relation_size: int | None = None
    abstraction_sizes: tuple[int, ...] | None = None
    activation: str = "gelu"
    core: str = "ema"
    gating: str = "full"
    pooling: str = "mean"
    double_softmax: bool = False
    topdown: bool = True
    exact_gelu: bool = False
    dropout: float = 0.0
    input_gain: float = 2.0
    dtype: str = "float32"
    remat_chunk: int = 0
    debug_mode: bool = False

    def __post_init__(self):
        def fill(name, value):
            object.__setattr__(self, name, value)

        if self.hidden_size is None:
            fill("hidden_size", self.width)
        hidden = self.hidden_size
        if self.relation_size is None:
            fill("relation_size", max(hidden // 4, 1))
        if self.abstraction_sizes is None:
            fill("abstraction_sizes", (hidden, max(hidden // 2, 1), max(hidden // 4, 1)))
        fill("abstraction_sizes", tuple(self.abstraction_sizes))
        positive(self, "width", "hidden_size", "symbol_slots", "role_slots", "relation_size")
        sizes = self.abstraction_sizes
        if not sizes or sizes[0] != hidden or min(sizes) < 1:
            raise UserError(
                f"abstraction_sizes must be positive and start with hidden_size={hidden}, "
                f"got {sizes}"
            )
        one_of(self, "activation", ACTIVATIONS)
        one_of(self, "gating", GATINGS)
        one_of(self, "pooling", POOLINGS)
        if self.pooling == "attention" and self.gating == "diagonal":
            raise UserError(
                "pooling must be 'mean' with gating='diagonal', which sums over slots as written"
            )
        one_of(self, "core", CORES)
        one_of(self, "dtype", ("float32", "bfloat16"))
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")
        if not self.input_gain > 0.0:
            raise UserError(f"input_gain must be positive, got {self.input_gain}")
        not_negative(self, "remat_chunk")


@struct.dataclass
class UnifiedState:
    """State, float32 for any compute dtype (P-01 to P-05).

    Attributes:
      h: (B, D) hidden state.
      time_state: (B, D) exponential average of h with learned decay.
      relations: (B, S, K, R) relation tensor.
      causal_mask: (B, S, S) row-stochastic; weight with which a slot (row) reads each slot.
      abstractions: tuple of (B, A_l).
      wkv: None, or (B, 3, D) with core="rwkv4": numerator p, denominator q, running maximum o.
    """

    h: jax.Array
    time_state: jax.Array
    relations: jax.Array
    causal_mask: jax.Array = bookkeeping()
    abstractions: tuple[jax.Array, ...]
    wkv: jax.Array | None = bookkeeping()


@struct.dataclass
class Readout:
    """States after each token; leading axes (B, T)."""

    h: jax.Array
    abstractions: tuple[jax.Array, ...]
    relations: jax.Array | None
    causal_mask: jax.Array


class RWKVBlock(nnx.Module):
    """Mix of x_t with the previous h under learned decay and mix gates (P-06)."""

    def __init__(self, config: UnifiedConfig, *, rngs: nnx.Rngs):
        inputs, hidden = config.width + config.hidden_size, config.hidden_size
        self.config = config
        self.norm = LayerNorm(inputs)
        gates = ((0, 2 * hidden),) if config.core == "ema" else ((2 * hidden, 3 * hidden),)
        self.project = Linear(inputs, 3 * hidden, undecayed=gates, rngs=rngs)
        self.project.kernel[...] *= config.input_gain
        noise = 0.01 * jax.random.normal(rngs.params(), (2, hidden), jnp.float32)
        self.decay_logit = nnx.Param(-1.0 + noise[0])
        self.mix_logit = nnx.Param(noise[1])
        if config.core == "rwkv4":
            ramp = jnp.arange(hidden, dtype=jnp.float32) / max(hidden - 1, 1)
            self.time_decay = nnx.Param(-5.0 + 8.0 * ramp**0.7)
            zigzag = (jnp.arange(hidden, dtype=jnp.float32) + 1) % 3 - 1
            self.time_first = nnx.Param(jnp.log(0.3) + 0.5 * zigzag)

    def __call__(self, x, h, time_state, wkv=None):
        """Map x (B, width), h and time_state (B, D) to (h_mid (B, D), time_state', wkv')."""
        z = self.norm(jnp.concatenate([x.astype(jnp.float32), h], -1))
        return self.gate(self.project(z, self.config.dtype), h, time_state, wkv)

    def gate(self, projected, h, time_state, wkv):
        """Compute the element-wise part from the projections (B, 3D)."""
        key, value, last = jnp.split(projected, 3, -1)
        if self.config.core == "ema":
            candidate = _activated(last, self.config.activation, self.config.exact_gelu)
            update = jax.nn.sigmoid(key) * h + jax.nn.sigmoid(value) * candidate
        else:
            wkv, mixed = _wkv(wkv, key, value, self.time_decay[...], self.time_first[...])
            update = jax.nn.sigmoid(last) * mixed
        decay = jax.nn.sigmoid(self.decay_logit[...])[None]
        time_state = decay * time_state + (1.0 - decay) * h
        mix = jax.nn.sigmoid(self.mix_logit[...])[None]
        return mix * update + (1.0 - mix) * time_state, time_state, wkv


def _activated(x, name, exact_gelu):
    return jax.nn.gelu(x, not exact_gelu) if name == "gelu" else getattr(jax.nn, name)(x)


def _wkv(wkv, key, value, time_decay, time_first):
    """Run one RWKV-4 step on wkv (B, 3, D), p, q and o of `ops/wkv4/chunked.py`."""
    before = WKV4State(wkv[:, 0], wkv[:, 1], wkv[:, 2])
    after, out = wkv4_step(before, key, value, jnp.exp(time_decay), time_first)
    return jnp.stack(after, 1), out


class TensorBindBlock(nnx.Module):
    """Projection of h_mid to new relations and mask, blended with the old ones (P-07)."""

    def __init__(self, config: UnifiedConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.bind = Linear(
            c.hidden_size, c.symbol_slots * c.role_slots * c.relation_size, rngs=rngs
        )
        self.mask = Linear(c.hidden_size, c.symbol_slots**2, rngs=rngs)
        self.relation_norm = LayerNorm(c.relation_size)
        self.mask_norm = LayerNorm(c.symbol_slots)
        self.relation_logit = nnx.Param(jnp.float32(0.0))
        self.mask_logit = nnx.Param(jnp.float32(0.0))

    def __call__(self, h_mid, relations, causal_mask, key=None):
        """Return updated relations (B, S, K, R) and causal_mask (B, S, S), given h_mid (B, D)."""
        c = self.config
        new = self.relation_norm(self.bind(h_mid, c.dtype).reshape(relations.shape))
        new = dropout(new, c.dropout, key)
        ratio = jax.nn.sigmoid(self.relation_logit[...])
        relations = ratio * new + (1.0 - ratio) * relations
        logits = self.mask_norm(self.mask(h_mid, c.dtype).reshape(causal_mask.shape))
        return relations, self.blend_mask(logits, causal_mask)

    def blend_mask(self, logits, causal_mask):
        """Blend the row-softmax of logits (B, S, S) into the mask, which stays row-stochastic."""
        if self.config.gating == "lower_triangular":
            order = jnp.tril(jnp.ones(logits.shape[-2:], bool))[None]
            logits = jnp.where(order, logits, -jnp.inf)
        ratio = jax.nn.sigmoid(self.mask_logit[...])
        return ratio * jax.nn.softmax(logits, -1) + (1.0 - ratio) * causal_mask


class Abstraction(nnx.Module):
    """Layer of the reducer: a gated update of a_l and a summary for the layer above."""

    def __init__(self, below: int, size: int, *, has_upper: bool, exact_gelu: bool, rngs: nnx.Rngs):
        self.exact_gelu = exact_gelu
        self.norm_in = LayerNorm(below + size)
        self.update = Linear(below + size, 3 * size, undecayed=((0, 2 * size),), rngs=rngs)
        self.upper = Linear(below + size, size, rngs=rngs) if has_upper else None
        self.norm_out = LayerNorm(size)

    def gate(self, projected, a, rate=0.0, keys=(None, None)):
        """Compute the update (B, A) before its LayerNorm; projected (B, 3A), a (B, A)."""
        gate, query, candidate = jnp.split(projected, 3, -1)
        gate, query = jax.nn.sigmoid(gate), jax.nn.sigmoid(query)
        candidate = _activated(candidate + query * a, "gelu", self.exact_gelu)
        candidate = dropout(candidate, rate, keys[0])
        return dropout(gate * a + (1.0 - gate) * candidate, rate, keys[1])


class HRMReducer(nnx.Module):
    """Compression of h_mid and the relations, read through the mask, to abstractions (P-08)."""

    def __init__(self, config: UnifiedConfig, *, rngs: nnx.Rngs):
        self.config = config
        below, layers = config.hidden_size + config.relation_size, []
        for level, size in enumerate(config.abstraction_sizes):
            # Nothing reads the top layer's summary, but the source computes it.
            has_upper = not config.topdown or level < len(config.abstraction_sizes) - 1
            options = {"has_upper": has_upper, "exact_gelu": config.exact_gelu}
            layers.append(Abstraction(below, size, **options, rngs=rngs))
            below = size
        first = layers[0].update.kernel
        first[...] = first[...].at[: config.hidden_size].multiply(config.input_gain**2)
        self.layers = nnx.List(layers)
        if config.topdown:
            sizes, hidden = config.abstraction_sizes[1:], config.hidden_size
            self.topdown = nnx.List([Linear(size, hidden, bias=False, rngs=rngs) for size in sizes])
            self.norm_h = LayerNorm(hidden)
        if config.pooling == "attention":
            self.query = Linear(config.hidden_size, config.relation_size, bias=False, rngs=rngs)

    def context(self, slots, causal_mask, query=None):
        """Read slots (B, S, R), the means over roles, through the mask (B, S, S) -> (B, R).

        query: (B, R) from h_mid with attention pooling, else None.
        """
        if self.config.double_softmax:
            causal_mask = jax.nn.softmax(causal_mask, -1)
        if self.config.gating == "diagonal":
            return jnp.einsum("bss,bsr->br", causal_mask, slots, precision=EXACT)
        if query is None:
            return jnp.einsum("bs,bsr->br", causal_mask.mean(1), slots, precision=EXACT)
        read = jnp.einsum("bst,btr->bsr", causal_mask, slots, precision=EXACT)
        scores = jnp.einsum("br,bsr->bs", query, read, precision=EXACT)
        shares = jax.nn.softmax(scores * self.config.relation_size**-0.5, -1)
        return jnp.einsum("bs,bsr->br", shares, read, precision=EXACT)

    def __call__(self, h_mid, relations, causal_mask, abstractions, key=None):
        """Return (h (B, D), updated abstractions, tuple of (B, A_l), context (B, R))."""
        c = self.config
        count = 3 * len(self.layers)
        keys = [None] * count if key is None else jax.random.split(key, count)
        query = self.query(h_mid, c.dtype) if c.pooling == "attention" else None
        context = self.context(relations.mean(2), causal_mask, query)
        lower, updated = jnp.concatenate([h_mid, context], -1), []
        for level, (layer, a) in enumerate(zip(self.layers, abstractions, strict=True)):
            own = keys[3 * level : 3 * level + 3]
            projected = layer.update(layer.norm_in(jnp.concatenate([lower, a], -1)), c.dtype)
            update = layer.gate(projected, a, c.dropout, own[:2])
            updated.append(layer.norm_out(update))
            if layer.upper is not None:
                upper = layer.upper(jnp.concatenate([lower, update], -1), c.dtype)
                lower = dropout(upper, c.dropout, own[2])
        h = updated[0]
        if c.topdown:
            feedback = (p(a, c.dtype) for p, a in zip(self.topdown, updated[1:], strict=True))
            h = self.norm_h(sum(feedback, start=h))
        return h, tuple(updated), context


class UnifiedCell(Cell):
    """Recurrence of the three blocks; x: (B, width), y = h: (B, hidden_size)."""

    def __init__(self, config: UnifiedConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.rwkv = RWKVBlock(config, rngs=rngs)
        self.bind = TensorBindBlock(config, rngs=rngs)
        self.reduce = HRMReducer(config, rngs=rngs)

    def initial_state(self, batch_size: int, device: Any = None) -> UnifiedState:
        """Return zeros with an identity mask (P-21), placed on `device`, a Device or Sharding."""
        c = self.config

        def zeros(*shape):
            return jnp.zeros((batch_size, *shape), jnp.float32)

        eye = jnp.eye(c.symbol_slots, dtype=jnp.float32)
        wkv = None
        if c.core == "rwkv4":
            wkv = zeros(3, c.hidden_size).at[:, 2].set(-1e38)
        state = UnifiedState(
            h=zeros(c.hidden_size),
            time_state=zeros(c.hidden_size),
            relations=zeros(c.symbol_slots, c.role_slots, c.relation_size),
            causal_mask=jnp.broadcast_to(eye, (batch_size, *eye.shape)),
            abstractions=tuple(zeros(size) for size in c.abstraction_sizes),
            wkv=wkv,
        )
        return state if device is None else jax.device_put(state, device)

    def step(self, state: UnifiedState, x: jax.Array, key: jax.Array | None = None):
        """See `Cell.step`: RWKVBlock, then TensorBindBlock, then HRMReducer."""
        bind_key, reduce_key = (None, None) if key is None else jax.random.split(key)
        h_mid, time_state, wkv = self.rwkv(x, state.h, state.time_state, state.wkv)
        relations, mask = self.bind(h_mid, state.relations, state.causal_mask, bind_key)
        h, abstractions, _ = self.reduce(h_mid, relations, mask, state.abstractions, reduce_key)
        return UnifiedState(h, time_state, relations, mask, abstractions, wkv), h

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`; ys are h, (B, T, D)."""
        state, readout = self.unroll(state, xs, reset, key, lengths=lengths)
        return state, readout.h

    def unroll(self, state, xs, reset=None, key=None, *, relations_every: int = 0, lengths=None):
        """Run over time and return (state, Readout).

        Args:
          state, xs, reset, key: see `Cell.scan`. With a key and dropout, the reference runs,
            because noise on the new relations does not commute with their sum.
          relations_every: n > 0 also returns the relation tensor after tokens n, 2n, ... as
            `readout.relations` (B, T // n, S, K, R); with 0, it is None.
          lengths: int (B,) or None; the tokens after these are padding and leave the state alone.
        """
        if key is None or self.config.dropout == 0.0:
            state, readout, _ = unified_fused.unroll(
                self, state, xs, reset, relations_every, lengths=lengths
            )
            return state, Readout(**readout)

        def read(state, inputs, key):
            state, h = self.step(state, inputs, key)
            relations = state.relations if relations_every else None
            return state, Readout(h, state.abstractions, relations, state.causal_mask)

        state, readout = self.scan(state, xs, reset, key, step=read, lengths=lengths)
        if relations_every:
            thinned = readout.relations[:, relations_every - 1 :: relations_every]
            readout = readout.replace(relations=thinned)
        return state, readout

    def debug(self, state, xs, reset=None):
        """Run the fused implementation over time and return every intermediate value.

        Returns:
          (state, Readout, dict of (B, T, ...) arrays): projections, h_mid, mask logits, context,
          and each layer's gate input and update.

        Raises:
          UserError: the config does not have debug_mode=True.
        """
        if not self.config.debug_mode:
            raise UserError("UnifiedCell.debug needs a config with debug_mode=True")
        state, readout, inner = unified_fused.unroll(self, state, xs, reset, 1, debug=True)
        return state, Readout(**readout), inner
