"""Any cell of the zoo as a language model: pre-norm residual layers of the cell and SwiGLU.

    x <- x + Cell(RMSNorm x) ;  x <- x + SwiGLU(RMSNorm x) ;  RMSNorm before the head

The even ground on which cells are compared: everything but the cell is the same. With attention as
the cell it is the transformer of `models/transformer.py`.
"""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells import CELLS
from jaxmodels.cells.base import Cell, not_negative, one_of, positive
from jaxmodels.cells.layers import Embedding, Linear, RMSNorm
from jaxmodels.cli import did_you_mean
from jaxmodels.errors import UserError
from jaxmodels.models.language import LanguageModel, stack


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Sizes of the stack.

    Attributes:
      cell: a name in `jaxmodels.cells.CELLS`.
      cell_fields: further fields of that cell's config, a dict or pairs (name, value).
      vocab_size, width, num_layers: as everywhere.
      mlp_size: hidden width of SwiGLU; None means 8/3 of the width, up to a multiple of 32; 0 means
        no SwiGLU at all.
      tie_embeddings: the head is the embedding's table.
      l2_wrap: weight of a penalty on the largest logit; 0 = off.
      remat: keep only each layer's input for the backward pass.
      remat_chunk: if positive, read so many tokens at a time and keep only the states between them.
      dtype: of the matrix products, "float32" or "bfloat16"; parameters and states are float32.
    """

    cell: str = "gated_delta"
    cell_fields: tuple = ()
    vocab_size: int = 256
    width: int = 256
    num_layers: int = 6
    mlp_size: int | None = None
    tie_embeddings: bool = False
    l2_wrap: float = 0.0
    remat: bool = False
    remat_chunk: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        if self.cell not in CELLS:
            raise UserError(f"unknown cell {self.cell!r}{did_you_mean(self.cell, CELLS)}")
        positive(self, "vocab_size", "width", "num_layers")
        one_of(self, "dtype", ("float32", "bfloat16"))
        if self.mlp_size is None:
            object.__setattr__(self, "mlp_size", -(-8 * self.width // 3 // 32) * 32)
        if self.mlp_size < 0:
            raise UserError(f"mlp_size must not be negative, got {self.mlp_size}")
        not_negative(self, "l2_wrap", "remat_chunk")
        fields = self.cell_fields
        pairs = fields.items() if isinstance(fields, dict) else fields
        object.__setattr__(self, "cell_fields", tuple((k, _frozen(v)) for k, v in pairs))
        known = [field.name for field in dataclasses.fields(CELLS[self.cell][0])]
        for name, _ in self.cell_fields:
            if name not in known or name in ("width", "dtype"):
                own = did_you_mean(name, [n for n in known if n not in ("width", "dtype")])
                raise UserError(f"cell_fields: {self.cell} has no {name!r} to set{own}")
        _ = self.cell_config  # validates its own fields

    @property
    def cell_config(self):
        """The config of the cell."""
        return CELLS[self.cell][0](width=self.width, dtype=self.dtype, **dict(self.cell_fields))


PRESETS = {name: {"cell": name} for name in CELLS}


def _frozen(value):
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix."""

    def __init__(self, width: int, hidden: int, *, out_init, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(0.02)
        self.up = Linear(width, 2 * hidden, bias=False, init=normal, rngs=rngs)
        self.down = Linear(hidden, width, bias=False, init=out_init, rngs=rngs)

    def __call__(self, x, dtype):
        """(..., width) -> (..., width) float32."""
        gate, up = jnp.split(self.up(x, dtype), 2, -1)
        return self.down(jax.nn.silu(gate) * up, dtype)


class StackLayer(Cell):
    """A cell and SwiGLU on the residual stream; x, y: (B, width).

    Args:
      config: with `width`, `num_layers`, `mlp_size` and `dtype`.
      make_cell: called with rngs, and with layer and num_layers if it has such arguments.
    """

    def __init__(self, config, make_cell, *, rngs: nnx.Rngs, layer: int = 0):
        c = self.config = config
        self.norm_cell = RMSNorm(c.width)
        depth = {"layer": layer, "num_layers": c.num_layers}
        taken = inspect.signature(make_cell).parameters
        self.cell = make_cell(rngs=rngs, **{k: v for k, v in depth.items() if k in taken})
        if c.mlp_size:
            self.norm_mlp = RMSNorm(c.width)
            # GPT-2's rule: what is added to the stream starts smaller the deeper the stack.
            small = nnx.initializers.normal(0.02 / (2 * c.num_layers) ** 0.5)
            self.mlp = SwiGLU(c.width, c.mlp_size, out_init=small, rngs=rngs)

    def initial_state(self, batch_size: int):
        """The cell's."""
        return self.cell.initial_state(batch_size)

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        state, y = self.cell.step(state, self.norm_cell(x), key)
        return state, self._feed_forward(x + y)

    def __call__(self, state, xs, reset=None, key=None):
        """See `Cell.scan`."""
        state, ys = self.cell(state, self.norm_cell(xs), reset, key)
        return state, self._feed_forward(xs + ys)

    def _feed_forward(self, x):
        if not self.config.mlp_size:
            return x
        return x + self.mlp(self.norm_mlp(x), self.config.dtype)


class Stack(LanguageModel):
    """A cell of the zoo as a language model, under the contract of a model."""

    def __init__(self, config: StackConfig, *, rngs: nnx.Rngs):
        cell_class = CELLS[config.cell][1]
        make_cell = functools.partial(cell_class, config.cell_config)
        super().__init__(config, **residual_parts(config, make_cell, rngs))

    @property
    def replicated_only(self) -> bool:
        """See `Traits`."""
        return dict(self.config.cell_fields).get("kernel") == "pallas"


def residual_parts(config, make_cell, rngs: nnx.Rngs) -> dict:
    """The parts of a `LanguageModel` around a cell; see `StackLayer`."""
    c = config
    normal = nnx.initializers.normal(0.02)
    embed = Embedding(c.vocab_size, c.width, init=normal, rngs=rngs)
    layers = [StackLayer(c, make_cell, rngs=rngs, layer=layer) for layer in range(c.num_layers)]
    head = None
    if not c.tie_embeddings:
        head = Linear(c.width, c.vocab_size, bias=False, init=normal, rngs=rngs)
    return {"embed": embed, "layers": stack(layers), "norm": RMSNorm(c.width), "head": head}
