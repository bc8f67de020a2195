"""The unified cell of PRERNK: an RWKV-like gate, tensor binding and a hierarchical reducer in one.

Source: `zabwie/RNK` (docs/unified_training_plan.md and src/prernk/cell.py), read through SYSTEMS
1.2 and repaired as SYSTEMS 1.3 says; each defect of the original stays selectable by name.

This file is the definition, block by block. `unified_fused.py` computes the same function faster.

Shapes: B batch, T time, D hidden_size, S symbol_slots, K role_slots, R relation_size, A_l width of
abstraction l (A_0 = D).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells import unified_fused
from jaxmodels.cells.base import Cell, not_negative, one_of, positive
from jaxmodels.cells.layers import LayerNorm, Linear, dropout
from jaxmodels.errors import UserError
from jaxmodels.ops.common.precision import EXACT

ACTIVATIONS = ("gelu", "silu", "relu")
GATINGS = ("full", "lower_triangular", "diagonal")
CORES = ("ema", "rwkv4")


@dataclasses.dataclass(frozen=True)
class UnifiedConfig:
    """Sizes and switches of the unified cell.

    Attributes:
      width: width of the input x_t.
      hidden_size: D; None means `width`.
      symbol_slots, role_slots, relation_size: S, K, R of the relation tensor; relation_size None
        means D / 4.
      abstraction_sizes: widths A_l, the first equal to D (P-05); None means (D, D/2, D/4).
      activation: of the candidate in the RWKV block: gelu, silu or relu.
      core: "ema", the element-wise gate of the source; "rwkv4", a true wkv with state (p, q, o).
      gating: how the mask C gates predicates. "full": every slot reads all slots through C.
        "lower_triangular": slots are ordered and influence flows only forward. "diagonal": the
        source as written, where an einsum reads M_ss only and no slot can influence another.
      double_softmax: as written, C (already row-stochastic) goes through a second softmax.
      topdown: abstractions l >= 1 feed back into h. As written they do not, and get no gradient.
      exact_gelu: GELU, here and in the abstractions, by the error function, as written; else by
        tanh, which differs by 5e-4 at most and is cheaper.
      dropout: rate in training; as written 0.1.
      input_gain: how much louder than Glorot the token's way into h starts: the RWKV projection by
        this factor, the rows of the first abstraction that read h_mid by its square. With 1, as
        written, h_mid is a tenth of a_0 beside it under one LayerNorm, and learning starts late.
      dtype: of the matmuls, "float32" or "bfloat16"; parameters and state are float32.
      remat_chunk: if positive, the backward pass keeps the state once every so many tokens and
        recomputes the rest (P-23).
      debug_mode: allows `UnifiedCell.debug`, which returns every intermediate value (P-10, P-24).
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
        one_of(self, "core", CORES)
        one_of(self, "dtype", ("float32", "bfloat16"))
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")
        if not self.input_gain > 0.0:
            raise UserError(f"input_gain must be positive, got {self.input_gain}")
        not_negative(self, "remat_chunk")


@struct.dataclass
class UnifiedState:
    """float32, whatever the compute dtype (P-01 to P-05).

    Attributes:
      h: (B, D) hidden state.
      time_state: (B, D) exponential average of h with learned decay.
      relations: (B, S, K, R) relation tensor.
      causal_mask: (B, S, S) row-stochastic; how much each slot reads from each other one.
      abstractions: tuple of (B, A_l).
      wkv: None, or (B, 3, D) with core="rwkv4": numerator p, denominator q, running maximum o.
    """

    h: jax.Array
    time_state: jax.Array
    relations: jax.Array
    causal_mask: jax.Array
    abstractions: tuple[jax.Array, ...]
    wkv: jax.Array | None = None


@struct.dataclass
class Readout:
    """The states that the cell shows after each token; leading axes (B, T)."""

    h: jax.Array
    abstractions: tuple[jax.Array, ...]
    relations: jax.Array | None
    causal_mask: jax.Array


class RWKVBlock(nnx.Module):
    """Mixes x_t with the previous h under learned decay and mix gates (P-06)."""

    def __init__(self, config: UnifiedConfig, *, rngs: nnx.Rngs):
        inputs, hidden = config.width + config.hidden_size, config.hidden_size
        self.config = config
        self.norm = LayerNorm(inputs)
        self.project = Linear(inputs, 3 * hidden, rngs=rngs)
        self.project.kernel[...] *= config.input_gain
        noise = 0.01 * jax.random.normal(rngs.params(), (2, hidden))
        self.decay_logit = nnx.Param(-1.0 + noise[0])
        self.mix_logit = nnx.Param(noise[1])
        if config.core == "rwkv4":
            ramp = jnp.arange(hidden) / max(hidden - 1, 1)
            self.time_decay = nnx.Param(-5.0 + 8.0 * ramp**0.7)
            zigzag = (jnp.arange(hidden) + 1) % 3 - 1
            self.time_first = nnx.Param(jnp.log(0.3) + 0.5 * zigzag)

    def __call__(self, x, h, time_state, wkv=None):
        """x (B, width), h and time_state (B, D) -> (h_mid (B, D), time_state', wkv')."""
        z = self.norm(jnp.concatenate([x.astype(jnp.float32), h], -1))
        return self.gate(self.project(z, self.config.dtype), h, time_state, wkv)

    def gate(self, projected, h, time_state, wkv):
        """The element-wise half, from the projections (B, 3D)."""
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
    """One step of RWKV-4 in the overflow-free (p, q, o) form (SYSTEMS 7.2)."""
    p, q, o = wkv[:, 0], wkv[:, 1], wkv[:, 2]
    bonus = time_first[None] + key
    top = jnp.maximum(o, bonus)
    old, new = jnp.exp(o - top), jnp.exp(bonus - top)
    out = (old * p + new * value) / (old * q + new)
    faded = o - jnp.exp(time_decay)[None]
    top = jnp.maximum(faded, key)
    old, new = jnp.exp(faded - top), jnp.exp(key - top)
    return jnp.stack([old * p + new * value, old * q + new, top], 1), out


class TensorBindBlock(nnx.Module):
    """Projects h_mid to new relations and a new mask and blends them with the old ones (P-07)."""

    def __init__(self, config: UnifiedConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.bind = Linear(
            c.hidden_size, c.symbol_slots * c.role_slots * c.relation_size, rngs=rngs
        )
        self.mask = Linear(c.hidden_size, c.symbol_slots**2, rngs=rngs)
        self.relation_norm = LayerNorm(c.relation_size)
        self.mask_norm = LayerNorm(c.symbol_slots)
        self.relation_logit = nnx.Param(jnp.zeros(()))
        self.mask_logit = nnx.Param(jnp.zeros(()))

    def __call__(self, h_mid, relations, causal_mask, key=None):
        """h_mid (B, D), relations (B, S, K, R), causal_mask (B, S, S) -> the two, updated."""
        c = self.config
        new = self.relation_norm(self.bind(h_mid, c.dtype).reshape(relations.shape))
        new = dropout(new, c.dropout, key)
        ratio = jax.nn.sigmoid(self.relation_logit[...])
        relations = ratio * new + (1.0 - ratio) * relations
        logits = self.mask_norm(self.mask(h_mid, c.dtype).reshape(causal_mask.shape))
        return relations, self.blend_mask(logits, causal_mask)

    def blend_mask(self, logits, causal_mask):
        """Row-softmax of the logits (B, S, S), mixed into the mask: rows keep summing to one."""
        if self.config.gating == "lower_triangular":
            order = jnp.tril(jnp.ones(logits.shape[-2:], bool))[None]
            logits = jnp.where(order, logits, -jnp.inf)
        ratio = jax.nn.sigmoid(self.mask_logit[...])
        return ratio * jax.nn.softmax(logits, -1) + (1.0 - ratio) * causal_mask


class Abstraction(nnx.Module):
    """One layer of the stack: a gated update of a_l and the summary handed to the layer above."""

    def __init__(self, below: int, size: int, *, has_upper: bool, exact_gelu: bool, rngs: nnx.Rngs):
        self.exact_gelu = exact_gelu
        self.norm_in = LayerNorm(below + size)
        self.update = Linear(below + size, 3 * size, rngs=rngs)
        self.upper = Linear(below + size, size, rngs=rngs) if has_upper else None
        self.norm_out = LayerNorm(size)

    def gate(self, projected, a, rate=0.0, keys=(None, None)):
        """From the projections (B, 3A) and a (B, A) to the update (B, A), before its LayerNorm."""
        gate, query, candidate = jnp.split(projected, 3, -1)
        gate, query = jax.nn.sigmoid(gate), jax.nn.sigmoid(query)
        candidate = _activated(candidate + query * a, "gelu", self.exact_gelu)
        candidate = dropout(candidate, rate, keys[0])
        return dropout(gate * a + (1.0 - gate) * candidate, rate, keys[1])


class HRMReducer(nnx.Module):
    """Reads relations through the mask, compresses them with h_mid into abstractions (P-08)."""

    def __init__(self, config: UnifiedConfig, *, rngs: nnx.Rngs):
        self.config = config
        below, layers = config.hidden_size + config.relation_size, []
        for level, size in enumerate(config.abstraction_sizes):
            # Nothing reads the summary of the top layer. The source computes it all the same.
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

    def context(self, slots, causal_mask):
        """slots (B, S, R), the mean over roles; mask (B, S, S) -> what h may read, (B, R)."""
        if self.config.double_softmax:
            causal_mask = jax.nn.softmax(causal_mask, -1)
        if self.config.gating == "diagonal":
            return jnp.einsum("bss,bsr->br", causal_mask, slots, precision=EXACT)
        return jnp.einsum("bs,bsr->br", causal_mask.mean(1), slots, precision=EXACT)

    def __call__(self, h_mid, relations, causal_mask, abstractions, key=None):
        """-> (h (B, D), abstractions' tuple of (B, A_l), context (B, R))."""
        c = self.config
        count = 3 * len(self.layers)
        keys = [None] * count if key is None else jax.random.split(key, count)
        context = self.context(relations.mean(2), causal_mask)
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
    """The three blocks as one recurrence. x: (B, width); y = h: (B, hidden_size)."""

    def __init__(self, config: UnifiedConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.rwkv = RWKVBlock(config, rngs=rngs)
        self.bind = TensorBindBlock(config, rngs=rngs)
        self.reduce = HRMReducer(config, rngs=rngs)

    def initial_state(self, batch_size: int, device: Any = None) -> UnifiedState:
        """Zeros, and the identity as mask (P-21). `device`: a Device or Sharding to place it on."""
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
        """x (B, width) -> (state, h (B, D)): RWKVBlock, then TensorBindBlock, then HRMReducer."""
        bind_key, reduce_key = (None, None) if key is None else jax.random.split(key)
        h_mid, time_state, wkv = self.rwkv(x, state.h, state.time_state, state.wkv)
        relations, mask = self.bind(h_mid, state.relations, state.causal_mask, bind_key)
        h, abstractions, _ = self.reduce(h_mid, relations, mask, state.abstractions, reduce_key)
        return UnifiedState(h, time_state, relations, mask, abstractions, wkv), h

    def __call__(self, state, xs, reset=None, key=None):
        """See `Cell.scan`; ys are h, (B, T, D)."""
        state, readout = self.unroll(state, xs, reset, key)
        return state, readout.h

    def unroll(self, state, xs, reset=None, key=None, *, relations_every: int = 0):
        """As `__call__`, returning what losses and diagnostics look at.

        Args:
          state, xs, reset, key: see `Cell.scan`. With a key and dropout it is the definition that
            runs: noise on the new relations does not commute with their sum.
          relations_every: n > 0 also returns the relation tensor after tokens n, 2n, ... as
            `readout.relations` (B, T // n, S, K, R); 0 leaves it None and never forms it.

        Returns:
          (state, Readout).
        """
        if key is None or self.config.dropout == 0.0:
            state, seen, _ = unified_fused.unroll(self, state, xs, reset, relations_every)
            return state, Readout(**seen)

        def read(state, inputs, key):
            state, h = self.step(state, inputs, key)
            relations = state.relations if relations_every else None
            return state, Readout(h, state.abstractions, relations, state.causal_mask)

        state, seen = self.scan(state, xs, reset, key, step=read)
        if relations_every:
            thinned = seen.relations[:, relations_every - 1 :: relations_every]
            seen = seen.replace(relations=thinned)
        return state, seen

    def debug(self, state, xs, reset=None):
        """As `unroll`, with every intermediate value of the path that training runs.

        Returns:
          (state, Readout, dict of (B, T, ...) arrays): the projections, h_mid, the new relations,
          mask, context, and each layer's gate input and update.

        Raises:
          UserError: the config does not have debug_mode=True.
        """
        if not self.config.debug_mode:
            raise UserError("UnifiedCell.debug needs a config with debug_mode=True")
        state, seen, inner = unified_fused.unroll(self, state, xs, reset, 1, debug=True)
        return state, Readout(**seen), inner
