"""A small model around any cell, with sizes for equal parameter counts.

    embedding -> num_layers x [x + cell(RMSNorm x) ; x + SwiGLU(RMSNorm x)] -> RMSNorm -> head

Models differ only in the cell.
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
from jaxmodels.errors import UserError

LECUN = nnx.initializers.lecun_normal()
# Fields for widths of 16 to 128, where the defaults of the cells are too large; they also make
# the states of different cells similar in size. A cell uses those that its config has.
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
      vocab_size: V, vocabulary of inputs and answers.
      seq_len: length of the rows, and the window of an attention cell.
      width: C.
      hidden: H, width of the SwiGLU layer.
      num_layers: number of blocks.
    """

    cell: str
    vocab_size: int
    seq_len: int
    width: int = 48
    hidden: int = 96
    num_layers: int = 2

    def __post_init__(self):
        for name in ("vocab_size", "seq_len", "width", "hidden", "num_layers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


class Block(nnx.Module):
    """A cell followed by channel mixing, each with a residual connection."""

    def __init__(self, config: ProbeConfig, layer: int, *, rngs: nnx.Rngs):
        width, hidden = config.width, config.hidden
        self.norm = RMSNorm(width)
        self.cell = make_cell(config, layer, rngs=rngs)
        self.mix_norm = RMSNorm(width)
        self.mix = Linear(width, 2 * hidden, bias=False, init=LECUN, rngs=rngs)
        self.mix_out = Linear(hidden, width, bias=False, init=LECUN, rngs=rngs)

    def __call__(self, state, x, reset=None):
        """Map x (batch, time, C) to (state, x)."""
        state, y = self.cell(state, self.norm(x), reset)
        x = x + y
        gate, value = jnp.split(self.mix(self.mix_norm(x)), 2, -1)
        return state, x + self.mix_out(jax.nn.silu(gate) * value)


class ProbeModel(nnx.Module):
    """Language model: tokens int32 (batch, time) -> logits float32 (batch, time, V)."""

    def __init__(self, config: ProbeConfig, *, rngs: nnx.Rngs):
        self.embedding = Embedding(config.vocab_size, config.width, rngs=rngs)
        self.blocks = nnx.List(
            [Block(config, layer, rngs=rngs) for layer in range(config.num_layers)]
        )
        self.norm = RMSNorm(config.width)
        self.head = Linear(config.width, config.vocab_size, bias=False, init=LECUN, rngs=rngs)

    def initial_state(self, batch_size: int) -> list:
        """Return the initial state, one per block."""
        return [block.cell.initial_state(batch_size) for block in self.blocks]

    def __call__(self, state: list, tokens: jax.Array, reset: jax.Array | None = None):
        """Return (state, logits)."""
        x, states = self.embedding(tokens), []
        for block, before in zip(self.blocks, state, strict=True):
            after, x = block(before, x, reset)
            states.append(after)
        return states, self.head(self.norm(x))


def make_cell(config: ProbeConfig, layer: int, *, rngs: nnx.Rngs):
    """Build the cell at the model's width, with the `SMALL` fields that its config has."""
    config_class, cell_class = CELLS[config.cell]
    fields = SMALL | {"window": config.seq_len}
    small = {name: fields[name] for name in _fields(config.cell) & fields.keys()}
    depth = {"layer": layer, "num_layers": config.num_layers}
    if "layer" not in inspect.signature(cell_class).parameters:
        depth = {}
    return cell_class(config_class(width=config.width, **small), rngs=rngs, **depth)


def state_bytes(model: ProbeModel) -> int:
    """Return the bytes of the recurrent state of one sequence over all layers."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model.initial_state(1)))


def equal_parameters(
    cell: str, vocab_size: int, seq_len: int, parameters: int, num_layers: int = 2
) -> ProbeConfig:
    """Return sizes with `parameters` parameters within 2 %.

    For every width (a multiple of the head size, or of 8) the SwiGLU layer takes the remaining
    parameters; of the sizes within 2 %, selects the one with `hidden` nearest to twice the width.

    Raises:
      UserError: no size is within 2 %.
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
            f"{parameters:,} parameters within {TOLERANCE:.0%}; choose another number"
        )
    return min(fitting, key=lambda candidate: candidate[:2])[2]


def _fields(cell: str) -> set[str]:
    return {field.name for field in dataclasses.fields(CELLS[cell][0])}


@functools.cache
def _cell_parameters(cell: str, width: int, num_layers: int) -> int:
    """Count the parameters of the cells of all layers from shapes."""
    config = ProbeConfig(cell, 1, 1, width, 1, num_layers)

    def cells():
        return [make_cell(config, i, rngs=nnx.Rngs(0)) for i in range(num_layers)]

    return count_parameters(jax.eval_shape(cells))
