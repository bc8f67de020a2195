"""HRM: a slow (H) and a fast (L) transformer module that recur in depth over one sequence.

    repeat high_cycles times:  low_cycles times  z_L <- f_L(z_L + z_H + x) ;  z_H <- f_H(z_H + z_L)

Gradients flow only through the last calls, so memory does not grow with the number of cycles.

Sources: HRM (arXiv 2506.21734, sapientinc/HRM), TRM (arXiv 2510.04871,
SamsungSAILMontreal/TinyRecursiveModels), HRM-Text (arXiv 2605.20613, sapientinc/HRM-Text). TRM is
the same recurrence with one net for both modules and the gradient of a whole cycle.

Shapes: B batch, T positions, C width, N heads, D head size (C = N D), M hidden width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.base import head_size_of, one_of, positive
from jaxmodels.cells.layers import Linear, truncated_normal
from jaxmodels.errors import UserError
from jaxmodels.ops.attention import rotate
from jaxmodels.ops.common.silu import gated
from jaxmodels.ops.common.varying import cast_like
from jaxmodels.ops.masked_attention import Visibility, attend, in_blocks, masked_attention


@dataclasses.dataclass(frozen=True)
class HRMConfig:
    """Configuration of the recurrence.

    Attributes:
      width: C.
      head_size: D, even; None means 64, or C if that is smaller.
      high_cycles, low_cycles: calls of f_H, and calls of f_L before each of them.
      high_layers, low_layers: transformer blocks in f_H and f_L.
      expansion: M is 2/3 expansion C, rounded up to a multiple of `mlp_multiple`.
      mlp_multiple: see expansion.
      norm: "post" as in HRM, RMS(h + f(h)); "pre" as in HRM-Text, h + f(RMS h) and a norm at the
        end of each module. Norms have no gain.
      norm_eps: epsilon of every norm.
      mixer: what mixes positions: "attention", or "tokens", TRM's `mlp_t`: a SwiGLU over all
        positions, without rotary positions. Then every position reads all others, whatever the
        mask, and the norm after it is over positions, as in TRM.
      seq_len: T, which mixer "tokens" needs to know; else unused.
      head_gate: gate the attention output, sigma(W_g h) * o, as in HRM-Text.
      inject: add x in every call of f_L; if False, x enters only as the initial z_H.
      shared: f_L and f_H are one net, as in TRM; requires low_layers == high_layers.
      grad_calls: K, limit of calls with a gradient; 2 is HRM's one-step gradient, low_cycles + 1
        TRM's whole last cycle.
      grad_rule: "last": the last K calls in order; "per_module": the last min(high_cycles, K - 1)
        calls of f_H, and the last of f_L for a total of K, as in HRM-Text.
      rope_base: base of the rotary positions.
      block_size: queries whose attention scores are in memory at a time; rows of more recompute
        them in the backward pass.
      remat: recompute each block in the backward pass.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and states are float32.
    """

    width: int
    head_size: int | None = None
    high_cycles: int = 2
    low_cycles: int = 2
    high_layers: int = 4
    low_layers: int = 4
    expansion: float = 4.0
    mlp_multiple: int = 256
    norm: str = "post"
    norm_eps: float = 1e-5
    mixer: str = "attention"
    seq_len: int | None = None
    head_gate: bool = False
    inject: bool = True
    shared: bool = False
    grad_calls: int = 2
    grad_rule: str = "last"
    rope_base: float = 1e4
    block_size: int = 128
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "head_size", head_size_of(self.width, self.head_size))
        if self.head_size % 2:
            raise UserError(f"head_size must be even to be rotated in pairs, got {self.head_size}")
        positive(self, "high_cycles", "low_cycles", "high_layers", "low_layers")
        positive(self, "mlp_multiple", "grad_calls", "block_size")
        if self.seq_len is not None:
            positive(self, "seq_len")
        one_of(self, "norm", ("post", "pre"))
        one_of(self, "mixer", ("attention", "tokens"))
        if self.mixer == "tokens" and (self.norm != "post" or self.head_gate or not self.seq_len):
            raise UserError("mixer 'tokens' requires seq_len, norm='post' and head_gate=False")
        one_of(self, "grad_rule", ("last", "per_module"))
        one_of(self, "dtype", ("float32", "bfloat16"))
        if not self.expansion > 0.0:
            raise UserError(f"expansion must be positive, got {self.expansion!r}")
        if self.shared and self.high_layers != self.low_layers:
            raise UserError(
                "shared: requires low_layers and high_layers to be equal, got "
                f"{self.low_layers} and {self.high_layers}"
            )
        if not 2 <= self.grad_calls <= self.calls:
            raise UserError(
                f"grad_calls must lie in 2..{self.calls}, the number of calls, got "
                f"{self.grad_calls}"
            )

    @property
    def calls(self) -> int:
        """Number of calls of both modules together in one ACT step."""
        return self.high_cycles * (self.low_cycles + 1)

    @property
    def mlp_size(self) -> int:
        """Hidden width of SwiGLU, M."""
        return self.hidden_of(self.width)

    @property
    def positions(self) -> int | None:
        """Number of positions that mixer "tokens" mixes."""
        return self.seq_len

    def hidden_of(self, inputs: int) -> int:
        """Return the hidden width of a SwiGLU."""
        size = round(self.expansion * inputs * 2 / 3)
        return -(-size // self.mlp_multiple) * self.mlp_multiple


@struct.dataclass
class HRMState:
    """z_H and z_L, each (B, T, C) float32."""

    high: jax.Array
    low: jax.Array


def lecun(key, shape, dtype=jnp.float32):
    """Draw a truncated normal of variance 1 / inputs, as for HRM's matrices."""
    return truncated_normal(shape[-2] ** -0.5)(key, shape, dtype)


def unit_rms(x: jax.Array, eps: float) -> jax.Array:
    """Apply RMSNorm without a gain over the last axis, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)


class HRMBlock(nnx.Module):
    """Masked attention or mixing of positions, and SwiGLU."""

    def __init__(self, config: HRMConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        parts = 4 if c.head_gate else 3

        def linear(inputs, outputs, undecayed=()):
            options = {"init": lecun, "undecayed": undecayed, "rngs": rngs}
            return Linear(inputs, outputs, bias=False, **options)

        if c.mixer == "attention":
            gate = ((0, c.width),) if c.head_gate else ()
            self.qkv = linear(c.width, parts * c.width, undecayed=gate)  # [gate,] q, k, v
            self.output = linear(c.width, c.width)
        else:
            self.mix_up = linear(c.positions, 2 * c.hidden_of(c.positions))  # gate, up
            self.mix_down = linear(c.hidden_of(c.positions), c.positions)
        self.up = linear(c.width, 2 * c.mlp_size)  # gate, up
        self.down = linear(c.mlp_size, c.width)

    def __call__(self, h, mask, positions, past=None):
        """Apply the block to h (B, T, C) -> (h, (keys, values) (B, S, N, D)), () without attention.

        Args:
          h: (B, T, C).
          mask: `Visibility`, or bool (B, T queries, S keys); a row may be all False.
          positions: int (B, T).
          past: None (S = T), or cached keys and values (B, S, N, D) and the slots, int (B,), that
            the new position (T = 1) is written to.

        Raises:
          UserError: mixer "tokens", and another T than it mixes.
        """
        c = self.config
        if c.mixer == "tokens":
            if h.shape[1] != c.positions:
                raise UserError(
                    f"seq_len: mixer 'tokens' mixes {c.positions} positions, got {h.shape[1]}; "
                    "give whole rows"
                )
            h = h.swapaxes(1, 2)
            h = unit_rms(h + self._mlp(h, self.mix_up, self.mix_down), c.norm_eps).swapaxes(1, 2)
            return unit_rms(h + self._mlp(h, self.up, self.down), c.norm_eps), ()
        if c.norm == "post":
            y, kept = self._attend(h, mask, positions, past)
            h = unit_rms(h + y, c.norm_eps)
            return unit_rms(h + self._mlp(h, self.up, self.down), c.norm_eps), kept
        y, kept = self._attend(unit_rms(h, c.norm_eps), mask, positions, past)
        h = h + y
        return h + self._mlp(unit_rms(h, c.norm_eps), self.up, self.down), kept

    def _attend(self, h, mask, positions, past):
        c = self.config
        *gate, qkv = jnp.split(self.qkv(h, c.dtype), [c.width] if c.head_gate else [], -1)

        def read(qkv):
            """Return what is read, and all keys and values; of long rows `qkv` alone is kept."""
            q, k, v = (x.reshape(*x.shape[:-1], -1, c.head_size) for x in jnp.split(qkv, 3, -1))
            q, k = rotate(q, positions, c.rope_base), rotate(k, positions, c.rope_base)
            if past is not None:
                keys, values, slots = past
                rows = jnp.arange(k.shape[0])
                k = keys.at[rows, slots].set(k[:, 0])
                v = values.at[rows, slots].set(v[:, 0])
            if isinstance(mask, Visibility):
                y = attend(q, k, v, mask, block_size=c.block_size, dtype=c.dtype)
            else:
                y = masked_attention(q, k, v, mask, c.dtype)
            return y.reshape(h.shape), (k, v)

        y, kept = (jax.checkpoint(read) if in_blocks(h.shape[1], c.block_size) else read)(qkv)
        if c.head_gate:
            y = jax.nn.sigmoid(gate[0]) * y
        return self.output(y, c.dtype), kept

    def _mlp(self, h, up, down):
        gate, value = jnp.split(up(h, self.config.dtype), 2, -1)
        return down(gated(value, gate), self.config.dtype)


class HRMNet(nnx.Module):
    """Module f(z): a scan over stacked blocks."""

    def __init__(self, config: HRMConfig, num_layers: int, *, rngs: nnx.Rngs):
        self.config = config
        blocks = [HRMBlock(config, rngs=rngs) for _ in range(num_layers)]
        self.blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)

    def __call__(self, z, mask, positions):
        """Apply all blocks to z (B, T, C)."""
        return self.with_keys(z, mask, positions, None)[0]

    def with_keys(self, z, mask, positions, past):
        """Return z and each block's keys and values, (layers, B, S, N, D).

        past: None or (keys, values, slots), with keys and values of that shape; see `HRMBlock`.
        """
        slots = None if past is None else past[2]

        def body(z, inputs):
            block, kept = inputs
            past = None if kept is None else (*kept, slots)
            return block(z, mask, positions, past)

        if self.config.remat:
            body = jax.checkpoint(body)
        z, kept = jax.lax.scan(body, z, (self.blocks, None if past is None else past[:2]))
        return (unit_rms(z, self.config.norm_eps) if self.config.norm == "pre" else z), kept


class HRM(nnx.Module):
    """Both modules and the recurrence over them."""

    def __init__(self, config: HRMConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.low = HRMNet(c, c.low_layers, rngs=rngs)
        self.high = None if c.shared else HRMNet(c, c.high_layers, rngs=rngs)

    def think(self, state: HRMState, x, mask, positions, grad_calls=None) -> HRMState:
        """Run one ACT step, that is, all cycles, and return the state after the last call.

        Args:
          state: initial state; no gradient flows into it.
          x: (B, T, C), the embedded input; unused with `inject=False`.
          mask: see `HRMBlock`.
          positions: int (B, T), for the rotary positions.
          grad_calls: int or traced int in 2..config.grad_calls, number of calls with a gradient to
            parameters and x; None means config.grad_calls.
        """
        c = self.config
        stop = jax.lax.stop_gradient
        order = call_schedule(c)
        flags = calls_with_gradient(c, c.grad_calls if grad_calls is None else grad_calls)
        # The static limit, because grad_calls may be traced.
        first = min(i for i, flag in enumerate(calls_with_gradient(c, c.grad_calls)) if flag)
        whole = first // (c.low_cycles + 1)
        still, x_still = stop(self), stop(x)

        def cycle(state, _):
            def low(_, state):
                return still._call("low", state, x_still, mask, positions)

            state = jax.lax.fori_loop(0, c.low_cycles, low, state)
            return still._call("high", state, x_still, mask, positions), None

        state = cast_like(stop(state), x)  # inside `jax.shard_map`, a fresh one is on all devices
        state, _ = jax.lax.scan(cycle, state, None, whole)
        for index in range(whole * (c.low_cycles + 1), c.calls):
            if index < first:
                state = still._call(order[index], state, x_still, mask, positions)
                continue
            after = self._call(order[index], state, x, mask, positions)
            keep = functools.partial(_stop_gradient_unless, flag=flags[index])
            state = jax.tree.map(lambda a, b, keep=keep: a if a is b else keep(a), after, state)
        return state

    def _call(self, name, state, x, mask, positions):
        """Call one module and return the updated state."""
        if name == "low":
            z = state.low + state.high + (x if self.config.inject else 0.0)
            return state.replace(low=self.low(z, mask, positions))
        net = self.low if self.high is None else self.high
        return state.replace(high=net(state.high + state.low, mask, positions))


def call_schedule(config: HRMConfig) -> list[str]:
    """Return "low" and "high" in the order of the calls."""
    return (["low"] * config.low_cycles + ["high"]) * config.high_cycles


def calls_with_gradient(config: HRMConfig, count) -> list:
    """Return one flag per call, True for those with a gradient; count may be a traced integer."""
    order = call_schedule(config)
    if config.grad_rule == "last":
        return [len(order) - i <= count for i in range(len(order))]
    minimum = min if isinstance(count, int) else jnp.minimum
    high = minimum(config.high_cycles, count - 1)
    limits = {"high": high, "low": count - high}
    return [order[i:].count(name) <= limits[name] for i, name in enumerate(order)]


def _stop_gradient_unless(x, flag):
    """Return x, without gradient unless flag, a bool or traced bool."""
    if isinstance(flag, bool):
        return x if flag else jax.lax.stop_gradient(x)
    return jnp.where(flag, x, jax.lax.stop_gradient(x))
