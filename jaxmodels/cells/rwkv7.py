"""RWKV-7 "Goose" time mixing: a delta rule with vector-valued decay and learning rate.

The recurrence is in `ops/dplr/chunked.py`. Source: arXiv 2503.14456 and BlinkDL, RWKV-LM
(RWKV-v7/train_temp/src/model.py).

Shapes: B batch, T time, C width, H heads, N head_size (C = H N).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from jaxmodels.cells.base import KERNELS, Cell, head_size_of, one_of, positive
from jaxmodels.cells.layers import (
    Linear,
    LowRank,
    assign_rates,
    normalize_heads,
    symmetric_uniform,
    within,
)
from jaxmodels.errors import UserError
from jaxmodels.ops.common.broadcast import broadcast_to_last_axis
from jaxmodels.ops.common.token_shift import last_token, token_mix, token_shift
from jaxmodels.ops.dplr import dplr, dplr_step

MIXED = ("r", "w", "k", "v", "a", "g")  # order of the token-shift mixtures


@dataclasses.dataclass(frozen=True)
class RWKV7Config:
    """Configuration of the cell.

    Attributes:
      width: C.
      head_size: N, divides C; None means 64, or C if that is smaller.
      ranks: ranks of the low-rank maps to decay w, learning rate a, value residual v and gate g;
        None means the reference's: max(32, 32 round(f sqrt(C) / 32)), f = 2.5, 2.5, 1.7, 5.
      value_residual: take `v_first`, the values of the model's first layer, and mix them into v.
      chunk_size: tokens per chunk in `__call__`, at most 128.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
      kernel: "xla" or "pallas". The Pallas TPU kernel runs in interpret mode on other platforms
        (tests only).
    """

    width: int
    head_size: int | None = None
    ranks: tuple[int, int, int, int] | None = None
    value_residual: bool = False
    chunk_size: int = 64
    dtype: str = "float32"
    kernel: str = "xla"

    def __post_init__(self):
        object.__setattr__(self, "head_size", head_size_of(self.width, self.head_size))
        if self.ranks is None:
            root = self.width**0.5
            ranks = tuple(max(32, 32 * round(f * root / 32)) for f in (2.5, 2.5, 1.7, 5.0))
            object.__setattr__(self, "ranks", ranks)
        object.__setattr__(self, "ranks", tuple(self.ranks))
        if len(self.ranks) != 4 or any(not isinstance(r, int) or r < 1 for r in self.ranks):
            raise UserError(f"ranks must be 4 positive integers (w, a, v, g), got {self.ranks}")
        positive(self, "chunk_size")
        if self.chunk_size > 128:
            raise UserError(f"chunk_size must be at most 128, got {self.chunk_size}")
        one_of(self, "dtype", ("float32", "bfloat16"))
        one_of(self, "kernel", tuple(KERNELS))


@struct.dataclass
class RWKV7State:
    """Float32 state.

    Attributes:
      shift: (B, C), the last token read.
      wkv: (B, H, N key, N value).
    """

    shift: jax.Array
    wkv: jax.Array


class RWKV7Cell(Cell):
    """Time mixing; x, y: (B, C)."""

    def __init__(self, config: RWKV7Config, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1):
        c = self.config = config
        width, size = c.width, c.head_size
        rho, r01 = 1.0 - layer / num_layers, layer / max(num_layers - 1, 1)
        i = jnp.arange(width, dtype=jnp.float32)
        powers = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
        self.mix = nnx.Param(jnp.stack([1.0 - (i / width) ** (powers[m] * rho) for m in MIXED]))
        ramp = i / max(width - 1, 1)
        line = ramp - 0.5
        zigzag = (i % size - (size - 1) / 2) / max((size - 1) / 2, 1)
        zigzag = zigzag * jnp.abs(zigzag)
        decay = -5.5 + 6.0 * ramp ** (1.0 + r01**0.3) + 2.5 * zigzag
        w, a, v, g = c.ranks
        self.decay = LowRank(width, w, width, bias=decay, activation="tanh", rngs=rngs)
        self.rate = LowRank(width, a, width, bias=-0.19 + 0.3 * zigzag + 0.4 * line, rngs=rngs)
        if c.value_residual:
            self.residual = LowRank(width, v, width, bias=0.73 - 0.4 * line, rngs=rngs)
        self.gate = LowRank(width, g, width, activation="sigmoid", rngs=rngs)
        bound = 0.5 / width**0.5

        def linear(init):
            return Linear(width, width, bias=False, init=init, rngs=rngs)

        self.receptance = linear(symmetric_uniform(bound))
        self.key = linear(symmetric_uniform(0.1 * bound))
        self.value = linear(symmetric_uniform(bound))
        self.output = linear(nnx.initializers.zeros)
        self.removal_scale = nnx.Param(0.71 - 0.1 * line)  # k_k
        self.key_scale = nnx.Param(jnp.full((width,), 1.02, jnp.float32))  # k_a
        self.bonus = nnx.Param(jnp.full((width,), -0.04, jnp.float32))  # r_k
        gain = ((layer + 1) / num_layers) ** 0.7
        self.norm_scale = nnx.Param(jnp.full((width,), gain, jnp.float32))
        self.norm_bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def initial_state(self, batch_size: int) -> RWKV7State:
        """Return zeros."""
        c = self.config
        heads = c.width // c.head_size
        return RWKV7State(
            shift=jnp.zeros((batch_size, c.width), jnp.float32),
            wkv=jnp.zeros((batch_size, heads, c.head_size, c.head_size), jnp.float32),
        )

    def step(self, state, x, key=None, v_first=None, write=None):
        """See `Cell.step`.

        v_first: (B, C) with `value_residual`, else None.
        write: float (B,) in [0, 1] or None; scales log decay, key and learning rate.
        """
        x = x.astype(jnp.float32)
        tokens = map(self._heads, self._project(x, state.shift, v_first, write))
        shared = jax.tree.map(lambda vector: vector[None], self._shared())
        recur = functools.partial(dplr_step, state.wkv)
        wkv, y = self._mix(recur, tuple(tokens), shared, _sum_last)
        return RWKV7State(x, wkv), self.output(y.reshape(x.shape), self.config.dtype)

    def scan(self, state, xs, reset=None, key=None, v_first=None, *, step=None, hold=None):
        """See `Cell.scan`; v_first (B, T, C) with `value_residual`."""
        step = step or (lambda state, x, key: self.step(state, x[0], key, x[1]))
        return Cell.scan(self, state, (xs, v_first), reset, key, step=step, hold=hold)

    def __call__(self, state, xs, reset=None, key=None, v_first=None, write=None, lengths=None):
        """See `Cell.scan`; the chunked implementation. `write`: (B, T) or None, see `step`."""
        c, xs = self.config, xs.astype(jnp.float32)
        write = within(lengths, xs.shape[1], write)
        tokens = self._project(xs, token_shift(xs, state.shift, reset), v_first, write)
        wkv, y = dplr(
            self._mix,
            state.wkv,
            tokens,
            self._shared(),
            reset,
            chunk_size=c.chunk_size,
            implementation=KERNELS[c.kernel],
        )
        return RWKV7State(last_token(xs, state.shift, lengths), wkv), self.output(y, c.dtype)

    def set_retention(self, groups) -> None:
        """Initialize the retention per token of what is stored, independent of the data.

        The delta rule also removes a share `rate` of what stands at a token's key. It starts at the
        smallest share that any channel loses, and keys are written in full. w is such that a state
        in all key channels of a head keeps `retention` of its norm: that is sqrt(|T|^2 / N) of T =
        diag(w) - rate kk kk^T, whatever the unit vector kk.

        groups: pairs (fraction of the channels, retention in (0.5452, 1)), see `assign_rates`.
        """
        kept = assign_rates(groups, self.config.width)
        removed = 1.0 - kept.max()
        self.rate.bias[...] = jnp.full_like(self.rate.bias[...], np.log(removed / (1.0 - removed)))
        self.key_scale[...] = jnp.zeros_like(self.key_scale[...])
        part = removed / self.config.head_size
        w = part + np.sqrt(part * part + kept * kept - part * removed)
        rates = -np.log(w)
        share = rates * np.exp(0.5)  # log_w = -e^-1/2 sigma(d)
        if share.max() >= 1.0:
            raise UserError("retention: must exceed 0.5452 per token for RWKV-7")
        self.decay.bias[...] = jnp.asarray(np.log(share / (1.0 - share)), jnp.float32)

    def retention(self, state, xs, reset=None, write=None):
        """Return the norm of what each token leaves of a unit of state at a key, (B, T, H, N).

        That is |T e_j| of T = diag(w) - (rate kk) kk^T, decay and removal. Arguments as for
        `__call__`; resets do not count as decay.
        """
        before = token_shift(xs, state.shift, reset)
        _, log_w, k, _, rate, _ = map(self._heads, self._project(xs, before, None, write))
        scale = self._shared()["removal_scale"][None, None]
        w, kk = jnp.exp(log_w), _unit_key(k, scale, _sum_last)
        left = w * w - 2.0 * w * rate * kk * kk + kk * kk * _sum_last(jnp.square(rate * kk))
        return jnp.sqrt(jnp.maximum(left, 0.0))

    def normalize_state(self, state, groups: int, gain):
        """Normalize the matrix state; see `normalize_heads`."""
        return state.replace(wkv=normalize_heads(state.wkv, groups, gain))

    def values(self, x, before):
        """Return v of tokens x (..., C) given the preceding tokens; layer 0's are `v_first`."""
        mixed = x + (before - x) * broadcast_to_last_axis(self.mix[...][MIXED.index("v")], x)
        return self.value(mixed, self.config.dtype)

    def _project(self, x, before, v_first, write=None):
        """Project tokens (..., C) to r, log_w, k, v, rate, gate, each (..., C)."""
        c = self.config
        xr, xw, xk, xv, xa, xg = token_mix(x, before, self.mix[...])
        r, k, v = (
            linear(mixed, c.dtype)
            for linear, mixed in ((self.receptance, xr), (self.key, xk), (self.value, xv))
        )
        log_w = -jnp.exp(-0.5) * jax.nn.sigmoid(self.decay(xw, c.dtype))
        rate = jax.nn.sigmoid(self.rate(xa, c.dtype))
        if c.value_residual:
            v = v + (v_first - v) * jax.nn.sigmoid(self.residual(xv, c.dtype))
        if write is not None:  # kk is normalized, so scaling k does not change it
            log_w, k, rate = (z * write[..., None] for z in (log_w, k, rate))
        return r, log_w, k, v, rate, self.gate(xg, c.dtype)

    def _shared(self):
        """Return the vectors of `_mix`, each (H, N)."""
        names = ("removal_scale", "key_scale", "bonus", "norm_scale", "norm_bias")
        return {name: self._heads(getattr(self, name)[...]) for name in names}

    def _heads(self, x):
        return x.reshape(*x.shape[:-1], -1, self.config.head_size)

    def _mix(self, recur, tokens, shared, head_sum):
        """Compute everything between the projections; called by `dplr` -> (state, y).

        It must not read parameters from `self`: `dplr` differentiates only through the arguments.
        """
        r, log_w, k, v, rate, gate = tokens
        kk = _unit_key(k, shared["removal_scale"], head_sum)
        k = k * (1.0 + (rate - 1.0) * shared["key_scale"])
        state, y = recur(r, log_w, k, v, -kk, kk * rate)
        size = self.config.head_size
        y = y - head_sum(y) / size
        y = y * jax.lax.rsqrt(head_sum(y * y) / size + 64e-5)
        y = y * shared["norm_scale"] + shared["norm_bias"]
        return state, (y + head_sum(r * k * shared["bonus"]) * v) * gate


def _unit_key(k, removal_scale, head_sum):
    """Return kk, the direction along which the state is removed, of keys k (..., N)."""
    kk = k * removal_scale
    return kk * jax.lax.rsqrt(jnp.maximum(head_sum(kk * kk), 1e-24))


def _sum_last(x):
    return jnp.sum(x, -1, keepdims=True)
