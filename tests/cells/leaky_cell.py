"""An exponential average per channel, read through a gate; its fast form is an associative scan."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.base import Cell
from jaxmodels.cells.layers import Linear


@dataclasses.dataclass(frozen=True)
class LeakyConfig:
    width: int
    dtype: str = "float32"


@struct.dataclass
class LeakyState:
    average: jax.Array  # (batch, width)


class LeakyCell(Cell):
    def __init__(self, config: LeakyConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.inputs = Linear(config.width, config.width, rngs=rngs)
        self.gate = Linear(config.width, config.width, rngs=rngs)
        self.decay_logit = nnx.Param(jnp.linspace(-2.0, 4.0, config.width))

    def initial_state(self, batch_size):
        return LeakyState(jnp.zeros((batch_size, self.config.width), jnp.float32))

    def step(self, state, x, key=None):
        dtype = self.config.dtype
        decay = jax.nn.sigmoid(self.decay_logit[...])[None]
        average = decay * state.average + (1.0 - decay) * self.inputs(x, dtype)
        return LeakyState(average), average * jax.nn.sigmoid(self.gate(x, dtype))

    def __call__(self, state, xs, reset=None, key=None):
        dtype = self.config.dtype
        decay = jax.nn.sigmoid(self.decay_logit[...])[None, None]
        new = (1.0 - decay) * self.inputs(xs, dtype)
        keep = jnp.broadcast_to(decay, new.shape)
        if reset is not None:
            keep = jnp.where(reset[..., None], 0.0, keep)

        def join(a, b):
            return a[0] * b[0], a[1] * b[0] + b[1]

        kept, average = jax.lax.associative_scan(join, (keep, new), axis=1)
        # A selection: after a reset the old state is gone even if it is NaN, and 0 * NaN is not 0.
        average += jnp.where(kept > 0.0, kept * state.average[:, None], 0.0)
        return LeakyState(average[:, -1]), average * jax.nn.sigmoid(self.gate(xs, dtype))
