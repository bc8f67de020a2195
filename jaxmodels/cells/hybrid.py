"""RWKV and Mamba in parallel: GroundThink's mixer (docs/systems.md G-01 to G-16).

    R = RMSNorm(RWKV(x)) ;  M = RMSNorm(Mamba(x)) ;  y = alpha R + (1 - alpha) M

Source: `9to5ninja-projects/groundthink` (V3_RESEARCH_NOTES 2.21, 9.6 and V4). The raw outputs of
the two paths differ by two to five orders of magnitude, hence one norm per path. The state can be
normalized, too ("StateNorm"): on reading (the default), which keeps the recurrence linear and the
chunked implementation exact, or in place, which requires a scan.

Shapes: B batch, T time, C width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.base import KERNELS, Cell, bookkeeping, head_size_of, one_of, positive
from jaxmodels.cells.layers import GLOROT, Linear, RMSNorm, symmetric_uniform
from jaxmodels.cells.mamba1 import Mamba1Cell, Mamba1Config
from jaxmodels.cells.mamba2 import Mamba2Cell, Mamba2Config
from jaxmodels.cells.rwkv6 import RWKV6Cell, RWKV6Config
from jaxmodels.cells.rwkv7 import RWKV7Cell, RWKV7Config
from jaxmodels.errors import UserError
from jaxmodels.ops.common.broadcast import broadcast_to_last_axis

PATHS = {"hybrid": ("rwkv", "mamba"), "rwkv": ("rwkv",), "mamba": ("mamba",)}
STATE_NORMS = ("read", "boundary", "per_token")
INITS = ("identity", "spread", "groups")


@dataclasses.dataclass(frozen=True)
class HybridConfig:
    """Configuration of the mixer.

    Attributes:
      width: C.
      kind: "hybrid", or only one path: "rwkv" or "mamba".
      rwkv_version: 6 or 7. mamba_version: 1 or 2.
      head_size: head size of both paths; None means 32, or C if that is smaller.
      rwkv_width, mamba_width: width of a path, between two projections; None means C.
      mamba_expand: the Mamba path's inner width over its width.
      state_dim: the Mamba path's state size N. RWKV's state is head_size x head_size.
      alpha: weight of the RWKV path in the sum.
      learn_alpha: make alpha a parameter.
      path_norm: RMSNorm after each path.
      state_norm: "read": on reading, by the norm before each cell's output projection; "boundary":
        in place, every `norm_every` tokens of a document; "per_token": in place after each token.
        The latter two run as a scan.
      state_groups: channel groups, preferably whole heads, that are normalized separately; None
        means RWKV's heads. On reading, RWKV-7 has no other, and Mamba-1 no norm.
      norm_every: see `state_norm`.
      init: "identity": both paths retain 0.9999 per token; "groups": see `decay_groups`; "spread":
        the reference initialization of each cell.
      decay_groups: pairs (fraction of the channels, retention) for "groups".
      write_gate: scale each token's update of the states by a gate in [0, 1].
      chunk_size: tokens per chunk of both paths, at most 128.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
      kernel: "xla" or "pallas", of all paths, see their cells.
    """

    width: int
    kind: str = "hybrid"
    rwkv_version: int = 6
    mamba_version: int = 2
    head_size: int | None = None
    rwkv_width: int | None = None
    mamba_width: int | None = None
    mamba_expand: int = 2
    state_dim: int = 16
    alpha: float = 0.6
    learn_alpha: bool = False
    path_norm: bool = True
    state_norm: str = "read"
    state_groups: int | None = None
    norm_every: int = 64
    init: str = "identity"
    decay_groups: tuple = ((0.1, 0.999), (0.9, 0.9))
    write_gate: bool = False
    chunk_size: int = 32
    dtype: str = "float32"
    kernel: str = "xla"

    def __post_init__(self):
        head_size = head_size_of(self.width, self.head_size, usual=32)
        object.__setattr__(self, "head_size", head_size)
        for name in ("rwkv_width", "mamba_width"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.width)
        if self.state_groups is None:
            object.__setattr__(self, "state_groups", self.rwkv_width // head_size)
        positive(self, "rwkv_width", "mamba_width", "mamba_expand", "state_dim", "state_groups")
        positive(self, "norm_every", "chunk_size")
        one_of(self, "kind", tuple(PATHS))
        one_of(self, "state_norm", STATE_NORMS)
        one_of(self, "init", INITS)
        one_of(self, "kernel", tuple(KERNELS))
        if self.rwkv_version not in (6, 7) or self.mamba_version not in (1, 2):
            raise UserError(
                f"rwkv_version must be 6 or 7 and mamba_version 1 or 2, got {self.rwkv_version!r} "
                f"and {self.mamba_version!r}"
            )
        if not 0.0 <= self.alpha <= 1.0:
            raise UserError(f"alpha must lie in [0, 1], got {self.alpha!r}")
        groups = tuple((float(share), float(rate)) for share, rate in self.decay_groups)
        if not groups or any(share <= 0.0 or not 0.0 < rate < 1.0 for share, rate in groups):
            raise UserError(
                "decay_groups must be pairs (share > 0, retention between 0 and 1), got "
                f"{self.decay_groups!r}"
            )
        object.__setattr__(self, "decay_groups", groups)
        self._check_groups()
        for path in self.paths:
            self.path_config(path)  # validates its own fields

    def _check_groups(self) -> None:
        """Raise UserError for groups that a norm on reading would ignore."""
        heads = self.rwkv_width // self.head_size
        if self.state_norm != "read" or self.state_groups == heads:
            return
        given = f"state_groups={self.state_groups}: on reading,"
        fix = 'leave it out, or set state_norm to "boundary" or "per_token"'
        if "rwkv" in self.paths and self.rwkv_version == 7:
            raise UserError(f"{given} RWKV-7 normalizes each of its {heads} heads; {fix}")
        if "mamba" in self.paths and self.mamba_version == 1:
            raise UserError(f"{given} Mamba-1 normalizes nothing; {fix}")

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the paths."""
        return PATHS[self.kind]

    def path_config(self, path: str):
        """Return the config of one path's cell."""
        names = ("dtype", "chunk_size", "kernel")
        common = {"width": getattr(self, f"{path}_width")} | {n: getattr(self, n) for n in names}
        if path == "rwkv":
            common["head_size"] = self.head_size
            if self.rwkv_version == 7:
                return RWKV7Config(**common)
            return RWKV6Config(norm_groups=self.state_groups, **common)
        common |= {"expand": self.mamba_expand, "state_size": self.state_dim}
        if self.mamba_version == 1:
            return Mamba1Config(**common)
        return Mamba2Config(head_size=self.head_size, norm_groups=self.state_groups, **common)


CELL = {("rwkv", 6): RWKV6Cell, ("rwkv", 7): RWKV7Cell}
CELL |= {("mamba", 1): Mamba1Cell, ("mamba", 2): Mamba2Cell}


class Branch(nnx.Module):
    """A path: a cell, between two projections if its width is not C, and a norm."""

    def __init__(self, config: HybridConfig, path: str, *, rngs, layer: int, num_layers: int):
        c = self.config = config
        own = c.path_config(path)
        version = c.rwkv_version if path == "rwkv" else c.mamba_version
        self.cell = CELL[path, version](own, rngs=rngs, layer=layer, num_layers=num_layers)
        if c.init != "spread":
            groups = ((1.0, 0.9999),) if c.init == "identity" else c.decay_groups
            self.cell.set_retention(groups)
        if c.path_norm:
            # RWKV's output starts at zero, which RMSNorm cannot scale. Gain as V3_RESEARCH_NOTES.
            out = self.cell.output if path == "rwkv" else self.cell.out_proj
            out.kernel[...] = 0.1 * GLOROT(rngs.params(), out.kernel[...].shape, jnp.float32)
        between = own.width != c.width

        def linear(inputs, outputs):
            init = symmetric_uniform(inputs**-0.5)
            return Linear(inputs, outputs, bias=False, init=init, rngs=rngs)

        self.down = linear(c.width, own.width) if between else None
        self.up = linear(own.width, c.width) if between else None
        self.norm = RMSNorm(c.width) if c.path_norm else None
        channels = own.width * (c.mamba_expand if path == "mamba" else 1)
        self.gain = (
            None if c.state_norm == "read" else nnx.Param(jnp.ones((channels,), jnp.float32))
        )

    def apply(self, method: str, state, xs, *arguments, write=None, lengths=None):
        """Call the cell's `step` or `__call__` and return (state, output before the norm)."""
        dtype = self.config.dtype
        if self.down is not None:
            xs = self.down(xs, dtype)
        run = getattr(self.cell, method)
        state, ys = run(state, xs, *arguments, write=write, lengths=lengths)
        return state, ys if self.up is None else self.up(ys, dtype)

    def normalize(self, y):
        """Apply the path's norm, if any, to y (..., C)."""
        return y if self.norm is None else self.norm(y)

    def normalize_state(self, state):
        """Scale the cell's state to unit mean square per channel group, times the gain."""
        return self.cell.normalize_state(state, self.config.state_groups, self.gain[...])


@struct.dataclass
class HybridState:
    """Float32 state.

    Attributes:
      rwkv, mamba: the cells' states; () for an absent path.
      clock: (B,), tokens since the last boundary; () unless state_norm="boundary".
    """

    rwkv: Any
    mamba: Any
    clock: Any = bookkeeping()


class HybridCell(Cell):
    """Weighted sum of the paths; x, y: (B, C)."""

    def __init__(
        self, config: HybridConfig, *, rngs: nnx.Rngs, layer: int = 0, num_layers: int = 1
    ):
        c = self.config = config
        depth = {"layer": layer, "num_layers": num_layers}
        self.rwkv = Branch(c, "rwkv", rngs=rngs, **depth) if "rwkv" in c.paths else None
        self.mamba = Branch(c, "mamba", rngs=rngs, **depth) if "mamba" in c.paths else None
        both = len(c.paths) == 2
        self.alpha = nnx.Param(jnp.float32(c.alpha)) if c.learn_alpha and both else None
        if c.write_gate:
            # Not named kernel: weight decay must not act on gates.
            bound = symmetric_uniform(c.width**-0.5)
            self.write_weight = nnx.Param(bound(rngs.params(), (c.width,)))
            self.write_bias = nnx.Param(jnp.float32(2.0))  # the gate starts at 5/6

    def initial_state(self, batch_size: int) -> HybridState:
        """Return the cells' initial states and a clock at 0."""

        def initial(path):
            return () if path is None else path.cell.initial_state(batch_size)

        clock = (
            jnp.zeros((batch_size,), jnp.float32) if self.config.state_norm == "boundary" else ()
        )
        return HybridState(initial(self.rwkv), initial(self.mamba), clock)

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        state, outs = self._paths("step", state, x, key)
        return self._normalized(state), self._blend(outs)

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`; the paths' fast implementations unless the state is normalized."""
        if self.config.state_norm != "read":
            return self.scan(state, xs, reset, key, lengths=lengths)
        state, outs = self._paths("__call__", state, xs, reset, key, lengths=lengths)
        return state, self._blend(outs)

    def outputs(self, state, xs, reset=None):
        """Return the state and each path's output before its norm, {path: (B, T, C)}."""
        if self.config.state_norm == "read":
            return self._paths("__call__", state, xs, reset, None)

        def step(state, x, key):
            state, outs = self._paths("step", state, x, key)
            return self._normalized(state), outs

        return self.scan(state, xs, reset, step=step)

    def write(self, xs):
        """Return the write gate of each token, (...) in [0, 1], or None if there is none.

        It is a hard sigmoid, so it reaches 0, where the token leaves the states unchanged.
        """
        if not self.config.write_gate:
            return None
        raw = (
            jnp.sum(xs * broadcast_to_last_axis(self.write_weight[...], xs), -1)
            + self.write_bias[...]
        )
        return jnp.clip(raw / 6.0 + 0.5, 0.0, 1.0)

    def mix_weight(self):
        """Return alpha, the weight of the RWKV path: float32 scalar."""
        return jnp.float32(self.config.alpha) if self.alpha is None else self.alpha[...]

    def _paths(self, method, state, xs, *arguments, lengths=None):
        write, outs = self.write(xs), {}
        for name in self.config.paths:
            before = getattr(state, name)
            after, outs[name] = getattr(self, name).apply(
                method, before, xs, *arguments, write=write, lengths=lengths
            )
            state = state.replace(**{name: after})
        return state, outs

    def _normalized(self, state):
        """Normalize the state after a token, as configured by `state_norm`."""
        c = self.config
        if c.state_norm == "read":
            return state
        branches = {name: getattr(self, name) for name in c.paths}
        normed = {
            name: branch.normalize_state(getattr(state, name)) for name, branch in branches.items()
        }
        if c.state_norm == "per_token":
            return state.replace(**normed)
        clock = state.clock + 1.0
        due = clock >= c.norm_every

        def select(new, old):
            return jnp.where(due.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

        normed = {
            name: jax.tree.map(select, new, getattr(state, name)) for name, new in normed.items()
        }
        return state.replace(clock=jnp.where(due, 0.0, clock), **normed)

    def _blend(self, outs):
        normed = [getattr(self, name).normalize(y) for name, y in outs.items()]
        if len(normed) == 1:
            return normed[0]
        alpha = self.mix_weight()
        return alpha * normed[0] + (1.0 - alpha) * normed[1]
