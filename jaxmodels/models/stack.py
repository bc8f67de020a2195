"""Language model around any cell: pre-norm residual layers of the cell and SwiGLU.

    x <- x + Cell(RMSNorm x) ;  x <- x + SwiGLU(RMSNorm x) ;  RMSNorm before the head

Used to compare cells with everything else equal.
"""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells import CELLS
from jaxmodels.cells.base import Cell, not_negative
from jaxmodels.cells.layers import Embedding, Linear, RMSNorm
from jaxmodels.cli import did_you_mean
from jaxmodels.errors import UserError
from jaxmodels.models.language import LanguageConfig, LanguageModel, stack


@dataclasses.dataclass(frozen=True)
class StackConfig(LanguageConfig):
    """Configuration of a stack; see `LanguageConfig` for further fields.

    Attributes:
      cell: a name in `jaxmodels.cells.CELLS`.
      cell_fields: further fields of that cell's config, a dict or pairs (name, value).
      mlp_size: hidden width of SwiGLU; None means 8/3 of the width, rounded up to a multiple of 32;
        0 means no SwiGLU.
      tie_embeddings: share the embedding table with the head.
    """

    cell: str = "gated_delta"
    cell_fields: tuple | dict = ()
    mlp_size: int | None = None
    tie_embeddings: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.cell not in CELLS:
            raise UserError(f"unknown cell {self.cell!r}{did_you_mean(self.cell, CELLS)}")
        if self.mlp_size is None:
            object.__setattr__(self, "mlp_size", -(-8 * self.width // 3 // 32) * 32)
        not_negative(self, "mlp_size")
        fields = self.cell_fields
        pairs = fields.items() if isinstance(fields, dict) else fields
        object.__setattr__(self, "cell_fields", tuple((k, _frozen(v)) for k, v in pairs))
        names = [field.name for field in dataclasses.fields(CELLS[self.cell][0])]
        settable = [name for name in names if name not in ("width", "dtype")]
        for name, _ in self.cell_fields:
            if name not in settable:
                hint = did_you_mean(name, settable)
                raise UserError(f"cell_fields: {self.cell} has no field {name!r} to set{hint}")
        if dict(self.cell_fields).get("value_residual"):
            raise UserError(
                "cell_fields: value_residual needs the values of the first layer, which a stack "
                "does not hand on; leave it out, or use model rwkv"
            )
        _ = self.cell_config  # validates its own fields

    @property
    def cell_config(self):
        """Return the config of the cell."""
        return CELLS[self.cell][0](width=self.width, dtype=self.dtype, **dict(self.cell_fields))


PRESETS = {name: {"cell": name} for name in CELLS}


def _frozen(value):
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


class SwiGLU(nnx.Module):
    """SwiGLU, down(silu(gate(x)) * up(x)); gate and up are one matrix."""

    def __init__(self, width: int, hidden: int, *, out_init, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(0.02)
        self.up = Linear(width, 2 * hidden, bias=False, init=normal, rngs=rngs)
        self.down = Linear(hidden, width, bias=False, init=out_init, rngs=rngs)

    def __call__(self, x, dtype):
        """Apply the layer to x (..., width) -> (..., width) float32."""
        gate, up = jnp.split(self.up(x, dtype), 2, -1)
        return self.down(jax.nn.silu(gate) * up, dtype)


class StackLayer(Cell):
    """Cell and SwiGLU on the residual stream; x, y: (B, width).

    Args:
      config: has the fields `width`, `num_layers`, `mlp_size` and `dtype`.
      make_cell: called with rngs, and with layer and num_layers if it has these parameters.
    """

    def __init__(self, config, make_cell, *, rngs: nnx.Rngs, layer: int = 0):
        c = self.config = config
        self.norm_cell = RMSNorm(c.width)
        depth = {"layer": layer, "num_layers": c.num_layers}
        accepted = inspect.signature(make_cell).parameters
        self.cell = make_cell(rngs=rngs, **{k: v for k, v in depth.items() if k in accepted})
        if c.mlp_size:
            self.norm_mlp = RMSNorm(c.width)
            # As in GPT-2, residual outputs start smaller the deeper the stack.
            small = nnx.initializers.normal(0.02 / (2 * c.num_layers) ** 0.5)
            self.mlp = SwiGLU(c.width, c.mlp_size, out_init=small, rngs=rngs)

    def initial_state(self, batch_size: int):
        """Return the cell's initial state."""
        return self.cell.initial_state(batch_size)

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        state, y = self.cell.step(state, self.norm_cell(x), key)
        return state, self._feed_forward(x + y)

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`."""
        state, ys = self.cell(state, self.norm_cell(xs), reset, key, lengths=lengths)
        return state, self._feed_forward(xs + ys)

    def _feed_forward(self, x):
        if not self.config.mlp_size:
            return x
        return x + self.mlp(self.norm_mlp(x), self.config.dtype)


class Stack(LanguageModel):
    """Language model around a cell."""

    def __init__(self, config: StackConfig, *, rngs: nnx.Rngs):
        cell_class = CELLS[config.cell][1]
        make_cell = functools.partial(cell_class, config.cell_config)
        super().__init__(config, **residual_parts(config, make_cell, rngs))

    @property
    def replicated_only(self) -> bool:
        """See `Traits`."""
        return dict(self.config.cell_fields).get("kernel") == "pallas"


def residual_parts(config, make_cell, rngs: nnx.Rngs) -> dict:
    """Return the parts of a `LanguageModel` of `StackLayer`s."""
    c = config
    normal = nnx.initializers.normal(0.02)
    embed = Embedding(c.vocab_size, c.width, init=normal, rngs=rngs)
    layers = [StackLayer(c, make_cell, rngs=rngs, layer=layer) for layer in range(c.num_layers)]
    head = None
    if not c.tie_embeddings:
        head = Linear(c.width, c.vocab_size, bias=False, init=normal, rngs=rngs)
    return {"embed": embed, "layers": stack(layers), "norm": RMSNorm(c.width), "head": head}
