"""Plans of chunks, and their refinement by learned constraints.

Every function maps a vector per chunk to a vector per chunk; chunks meet only in the Mamba before.

Sources: zabwie/RNM (rnk/hrm.py, rnk/neuro_symbolic.py) for "rnk" and the refiner; HRM (arXiv
2506.21734) and TRM (arXiv 2510.04871) for the other planners, without attention, since a chunk is
one position.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.layers import EVERY_COLUMN, LayerNorm, Linear
from jaxmodels.models.rnk.config import RNKConfig
from jaxmodels.ops.common.precision import precision_of

HEADS = 4  # of the refiner's attention over its constraints
CYCLES = 2, 2  # slow and fast cycles of the planners "hrm" and "trm"


class MLP(nnx.Module):
    """Two layers with GELU, inputs -> hidden -> outputs."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, rngs: nnx.Rngs):
        self.up = Linear(inputs, hidden, rngs=rngs)
        self.down = Linear(hidden, outputs, rngs=rngs)

    def __call__(self, x, dtype):
        """Map x (..., inputs) to (..., outputs) float32."""
        return self.down(jax.nn.gelu(self.up(x, dtype)), dtype)


class PlanNet(nnx.Module):
    """Residual layers p <- p + MLP(LN p), one vector at a time."""

    def __init__(self, config: RNKConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.norms = nnx.List([LayerNorm(c.width) for _ in range(c.plan_layers)])
        mlps = [MLP(c.width, c.hidden_size, c.width, rngs=rngs) for _ in range(c.plan_layers)]
        self.mlps = nnx.List(mlps)

    def __call__(self, p):
        """Map p (..., d) to (..., d)."""
        for norm, mlp in zip(self.norms, self.mlps, strict=True):
            p = p + mlp(norm(p), self.config.dtype)
        return p


class Planner(nnx.Module):
    """The planner of `RNKConfig.planner`."""

    def __init__(self, config: RNKConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        if c.planner == "none" or not c.plan_steps:
            return
        self.net = PlanNet(c, rngs=rngs)
        if c.planner == "hrm":
            self.slow = PlanNet(c, rngs=rngs)
        self.norm = LayerNorm(c.width)
        self.output = Linear(c.width, c.width, rngs=rngs)

    def __call__(self, x):
        """Plan from x (..., d), the Mamba's output after a chunk; return (..., d) float32."""
        c = self.config
        if c.planner == "none" or not c.plan_steps:
            return x
        if c.planner == "rnk":

            def step(p, _):
                return self._read_out(self.net(p)) + 0.1 * x, None

            # Nothing is rematerialized: a chunk's steps store a fifth of what its bytes do.
            return jax.lax.scan(step, x, None, c.plan_steps)[0]
        slow_net = self.slow if c.planner == "hrm" else self.net
        slow, fast = x, jnp.zeros_like(x)
        for _ in range(CYCLES[0]):
            for _ in range(CYCLES[1]):
                fast = self.net(self.norm(fast + slow + x))
            slow = slow_net(self.norm(slow + fast))
        return self._read_out(slow)

    def _read_out(self, p):
        return self.output(self.norm(p), self.config.dtype)


class ConstraintAttention(nnx.Module):
    """Attention of a vector over a few learned constraints: O(1) per chunk."""

    def __init__(self, config: RNKConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.query = Linear(c.width, c.width, rngs=rngs)
        self.key = Linear(c.width, c.width, rngs=rngs)
        self.value = Linear(c.width, c.width, rngs=rngs)
        self.output = Linear(c.width, c.width, rngs=rngs)

    def __call__(self, x, memory, counts=None):
        """Read memory (M, d) for x (B, N, d) -> (B, N, d).

        counts: float (B, M) or None, how often each entry occurs, once without; rows of zeros give
        the output's bias.
        """
        c = self.config
        q, k, v = (
            linear(z, c.dtype).reshape(*z.shape[:-1], HEADS, -1).astype(c.dtype)
            for linear, z in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        options = {"precision": precision_of(c.dtype), "preferred_element_type": jnp.float32}
        scores = jnp.einsum("bnhd,mhd->bhnm", q, k, **options) * q.shape[-1] ** -0.5
        seen = True
        if counts is not None:
            seen = counts[:, None, None] > 0
            scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
            scores = scores + jnp.log(jnp.maximum(counts, 1.0))[:, None, None]
        weights = jnp.where(seen, jax.nn.softmax(scores, -1), 0.0).astype(c.dtype)
        y = jnp.einsum("bhnm,mhd->bnhd", weights, v, **options).reshape(x.shape)
        return self.output(y, c.dtype)


class Refiner(nnx.Module):
    """Gated correction of a plan by the constraints it attends to (R-10).

        c = attention(plan, constraints) ;  ref = MLP(LN(plan + c))
        g = sigma(W [plan ; ref]) ;  out = LN(g ref + (1 - g) plan)

    Nothing in it is symbolic; `constraints.py` has what can be checked.
    """

    def __init__(self, config: RNKConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        draw = 0.02 * jax.random.normal(rngs.params(), (c.constraints, c.width), jnp.float32)
        self.constraints = nnx.Param(draw)
        self.attention = ConstraintAttention(c, rngs=rngs)
        self.norm = LayerNorm(c.width)
        self.mlp = MLP(c.width, c.hidden_size, c.width, rngs=rngs)
        self.gate = Linear(2 * c.width, c.width, undecayed=EVERY_COLUMN, rngs=rngs)
        self.norm_out = LayerNorm(c.width)

    def __call__(self, plan):
        """Refine plans (B, N, d) -> (refined (B, N, d), gates (B, N, d))."""
        c = self.config
        read = self.attention(plan, self.constraints[...])
        refined = self.mlp(self.norm(plan + read), c.dtype)
        gate = jax.nn.sigmoid(self.gate(jnp.concatenate([plan, refined], -1), c.dtype))
        return self.norm_out(gate * refined + (1.0 - gate) * plan), gate
