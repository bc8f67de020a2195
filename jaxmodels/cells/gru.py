"""Gated recurrent unit, the plain recurrent baseline.

    y = h' = GRU(W x + b_w, h)    (`ops/gru.py`)

Source: arXiv 1406.1078, in the convention of cuDNN and PyTorch.

Shapes: B batch, T time, C width.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.base import Cell, one_of, positive
from jaxmodels.cells.layers import Linear, symmetric_uniform
from jaxmodels.ops.gru import gru, gru_step
from jaxmodels.ragged import hold_after


@dataclasses.dataclass(frozen=True)
class GRUConfig:
    """Configuration of the cell.

    Attributes:
      width: C.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and state are float32.
    """

    width: int
    dtype: str = "float32"

    def __post_init__(self):
        positive(self, "width")
        one_of(self, "dtype", ("float32", "bfloat16"))


class GRUCell(Cell):
    """GRU; x, y: (B, C); the state is h, float32 (B, C).

    `kernel` (C, 3 C) and `bias` (3 C,) are U and b of the gates r, z and n. Drawn as PyTorch draws
    them, uniformly within 1 / sqrt(C), with zero biases.
    """

    def __init__(self, config: GRUConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        uniform = symmetric_uniform(c.width**-0.5)
        gates = ((0, 2 * c.width),)
        self.inputs = Linear(c.width, 3 * c.width, init=uniform, undecayed=gates, rngs=rngs)
        kernel = uniform(rngs.params(), (c.width, 3 * c.width))
        self.kernel = nnx.Param(kernel, undecayed=gates)
        self.bias = nnx.Param(jnp.zeros((3 * c.width,), jnp.float32))

    def initial_state(self, batch_size: int):
        """Return zeros."""
        return jnp.zeros((batch_size, self.config.width), jnp.float32)

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        dtype = self.config.dtype
        kernel = self.kernel[...].astype(dtype)
        state = gru_step(state, self.inputs(x, dtype), kernel, self.bias[...])
        return state, state

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`; inputs are projected for all tokens at once."""
        dtype = self.config.dtype
        kernel = self.kernel[...].astype(dtype)
        keep = None if reset is None else ~reset.T
        real = None if lengths is None else ~hold_after(lengths, xs.shape[1]).T
        inputs = self.inputs(xs.swapaxes(0, 1), dtype)
        state, hs = gru(state, inputs, kernel, self.bias[...], keep=keep, active=real)
        return state, hs.swapaxes(0, 1)
