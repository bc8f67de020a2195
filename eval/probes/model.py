"""A small model around any cell, and the sizes that give every cell the same number of parameters.

    embedding -> num_layers x [x + cell(RMSNorm x) ; x + SwiGLU(RMSNorm x)] -> RMSNorm -> head

Everything but the cell is the same for all, so that a difference in a table is the cell's.
"""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels import count_parameters
from jaxmodels.cells import CELLS
from jaxmodels.cells.layers import Embedding, Linear, RMSNorm
from jaxmodels.cli import did_you_mean
from jaxmodels.errors import UserError

LECUN = nnx.initializers.lecun_normal()
# The defaults of a cell's config suit a width of hundreds; these suit 16 to 128, and bring the
# states of different cells to like sizes. A cell takes those that its config has.
SMALL = {
    "head_size": 16,
    "state_size": 16,
    "ranks": (16, 16, 16, 16),
    "mix_rank": 8,
    "decay_rank": 16,
    "symbol_slots": 4,
    "role_slots": 2,
}
WIDEST = 256
TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Sizes of a probe model.

    Attributes:
      cell: a name in `CELLS`.
      vocab_size: V, of inputs and answers.
      seq_len: of the rows; an attention cell's window.
      width: C.
      hidden: H, of the SwiGLU layer.
      num_layers: blocks.
    """

    cell: str
    vocab_size: int
    seq_len: int
    width: int = 48
    hidden: int = 96
    num_layers: int = 2

    def __post_init__(self):
        if self.cell not in CELLS:
            raise UserError(f"no cell {self.cell!r}{did_you_mean(self.cell, CELLS)}")
        for name in ("vocab_size", "seq_len", "width", "hidden", "num_layers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


class Block(nnx.Module):
    """The cell and, after it, the channel mixing; each on a residual path."""

    def __init__(self, config: ProbeConfig, layer: int, *, rngs: nnx.Rngs):
        width, hidden = config.width, config.hidden
        self.norm = RMSNorm(width)
        self.cell = make_cell(config, layer, rngs=rngs)
        self.mix_norm = RMSNorm(width)
        self.mix = Linear(width, 2 * hidden, bias=False, init=LECUN, rngs=rngs)
        self.mix_out = Linear(hidden, width, bias=False, init=LECUN, rngs=rngs)

    def __call__(self, state, x, reset=None):
        """x (batch, time, C) -> (state, x)."""
        state, y = self.cell(state, self.norm(x), reset)
        x = x + y
        gate, value = jnp.split(self.mix(self.mix_norm(x)), 2, -1)
        return state, x + self.mix_out(jax.nn.silu(gate) * value)


class ProbeModel(nnx.Module):
    """Tokens int32 (batch, time) -> logits float32 (batch, time, V); state in, state out."""

    def __init__(self, config: ProbeConfig, *, rngs: nnx.Rngs):
        self.embedding = Embedding(config.vocab_size, config.width, rngs=rngs)
        self.blocks = nnx.List(
            [Block(config, layer, rngs=rngs) for layer in range(config.num_layers)]
        )
        self.norm = RMSNorm(config.width)
        self.head = Linear(config.width, config.vocab_size, bias=False, init=LECUN, rngs=rngs)

    def initial_state(self, batch_size: int) -> list:
        """One state a block."""
        return [block.cell.initial_state(batch_size) for block in self.blocks]

    def __call__(self, state: list, tokens: jax.Array, reset: jax.Array | None = None):
        """-> (state, logits)."""
        x, states = self.embedding(tokens), []
        for block, before in zip(self.blocks, state, strict=True):
            after, x = block(before, x, reset)
            states.append(after)
        return states, self.head(self.norm(x))


def make_cell(config: ProbeConfig, layer: int, *, rngs: nnx.Rngs):
    """The cell at the model's width, with those of the `SMALL` fields that its config has."""
    config_class, cell_class = CELLS[config.cell]
    wanted = SMALL | {"window": config.seq_len}
    small = {name: wanted[name] for name in _fields(config.cell) & wanted.keys()}
    depth = {"layer": layer, "num_layers": config.num_layers}
    if "layer" not in inspect.signature(cell_class).parameters:
        depth = {}
    return cell_class(config_class(width=config.width, **small), rngs=rngs, **depth)


def state_bytes(model: ProbeModel) -> int:
    """What the model carries from token to token, for one sequence, over all layers."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model.initial_state(1)))


def equal_parameters(
    cell: str, vocab_size: int, seq_len: int, parameters: int, num_layers: int = 2
) -> ProbeConfig:
    """The sizes with which a cell has nearly that many parameters, within 2 %.

    Widths are whole heads, or multiples of 8; at each, the SwiGLU layer takes what the cell leaves.
    Of those within 2 %, the one whose SwiGLU layer is nearest to twice as wide as the model.

    Raises:
      UserError: there is none.
    """
    fitting = []
    unit = SMALL["head_size"] if "head_size" in _fields(cell) else 8
    for width in range(max(unit, 16), WIDEST + 1, unit):
        bare = _cell_parameters(cell, width, num_layers)
        bare += width * (2 * vocab_size + 2 * num_layers + 1)  # embedding, head, norms
        a_channel = 3 * width * num_layers
        hidden = round((parameters - bare) / a_channel)
        if hidden < 1:
            break
        if abs(bare + hidden * a_channel - parameters) <= TOLERANCE * parameters:
            config = ProbeConfig(cell, vocab_size, seq_len, width, hidden, num_layers)
            fitting.append((abs(hidden / width - 2.0), width, config))
    if not fitting:
        raise UserError(
            f"{cell}: no model of {num_layers} layers for {vocab_size} tokens has "
            f"{parameters:,} parameters within {TOLERANCE:.0%}; ask for another number"
        )
    return min(fitting, key=lambda found: found[:2])[2]


def _fields(cell: str) -> set[str]:
    return {field.name for field in dataclasses.fields(CELLS[cell][0])}


@functools.cache
def _cell_parameters(cell: str, width: int, num_layers: int) -> int:
    """Of the cells of all layers, counted without making them."""
    config = ProbeConfig(cell, 1, 1, width, 1, num_layers)

    def cells():
        return [make_cell(config, i, rngs=nnx.Rngs(0)) for i in range(num_layers)]

    return count_parameters(jax.eval_shape(cells))
