"""Base class of cells, which are defined by one step, and checks of config fields."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.arguments import checked
from jaxmodels.errors import UserError
from jaxmodels.ragged import keep_held

State = Any
# Config field `kernel` -> argument `implementation` of the ops.
KERNELS = {"xla": "auto", "pallas": "pallas"}
BOOKKEEPING = "bookkeeping"
MOST_LAYERS = 10_000  # that many take minutes to build


def bookkeeping():
    """Declare a field of a state that counts, marks or scales, or that only a marker makes read.

    Such an array is not learned as part of an initial state (`jaxmodels/tuning`).
    """
    return struct.field(metadata={BOOKKEEPING: True})


def where_reset(reset: jax.Array, initial: State, state: State) -> State:
    """Select per row: `initial` where `reset` (batch,) is True, else `state`.

    Selected, not multiplied by zero, so that a NaN of a finished document does not spread.
    """

    def select(initial, state):
        return jnp.where(reset.reshape((-1,) + (1,) * (state.ndim - 1)), initial, state)

    return jax.tree.map(select, initial, state)


class Cell(nnx.Module):
    """A recurrence, defined by `initial_state` and `step`; `__call__` may be a faster equivalent.

    A cell is a pytree of its parameters, and its methods are pure functions. The arguments of
    `step`, `scan` and `__call__`, also of a subclass, are checked by `jaxmodels.arguments`, which
    adds `hold`, the places without a token (`jaxmodels.ragged`).
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("step", "scan", "__call__"):
            if name in cls.__dict__:
                setattr(cls, name, checked(cls.__dict__[name]))

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first token: float32 arrays, batch first."""
        raise NotImplementedError

    def step(self, state: State, x: jax.Array, key: jax.Array | None = None):
        """Read one token x (batch, width) -> (state, y (batch, width) float32).

        `key` enables dropout; most cells ignore it.
        """
        raise NotImplementedError

    @checked
    def scan(
        self,
        state: State,
        xs: jax.Array,
        reset: jax.Array | None = None,
        key: jax.Array | None = None,
        *,
        step=None,
        hold: jax.Array | None = None,
    ):
        """Run `step` over time by `jax.lax.scan`: the reference implementation.

        Args:
          state: state before the first token.
          xs: (batch, time, width); with argument `step` any pytree of (batch, time, ...).
          reset: bool (batch, time) or None; True sets the initial state before this token.
          key: see `step`.
          step: replaces `self.step`, with the same arguments; may return any pytree as y.
          hold: bool (batch, time) or None; True leaves the row's state as it is, whatever xs and
            reset are, and makes y zero. `lengths`, int (batch,), holds the places after them.

        Returns:
          (state after the last token, ys (batch, time, width) float32).
        """
        step = step or self.step
        batch, time = jax.tree.leaves(xs)[0].shape[:2]
        initial = self.initial_state(batch)
        keys = None if key is None else jax.random.split(key, time)

        def body(state, inputs):
            x, reset, hold, key = inputs
            if reset is not None:
                state = where_reset(reset, initial, state)
            after, y = step(state, x, key)
            return after if hold is None else keep_held(hold, state, after), y

        by_time = jax.tree.map(lambda x: x.swapaxes(0, 1), (xs, reset, hold))
        state, ys = jax.lax.scan(body, state, (*by_time, keys))
        return state, jax.tree.map(lambda y: y.swapaxes(0, 1), ys)

    @checked
    def __call__(
        self,
        state: State,
        xs: jax.Array,
        reset: jax.Array | None = None,
        key: jax.Array | None = None,
    ):
        """Compute `scan` by the fastest implementation: same arguments, equal up to rounding.

        One that takes `lengths`, int (batch,) or None, gets rows with their tokens at the front and
        zeros after them, whatever `hold` was given, and must return the state after `lengths`
        tokens. `hold` runs `scan` if it does not.
        """
        return self.scan(state, xs, reset, key)


def positive(config, *names: str) -> None:
    """Raise UserError unless each named field is a positive integer that an index can hold.

    Layers are built one by one: of `..._layers` there are at most `MOST_LAYERS`.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} must be a positive integer, got {value!r}")
        most = MOST_LAYERS if name.endswith("_layers") else 2**31 - 1
        if value > most:
            raise UserError(f"{name} must be at most {most:,}, got {value:,}")


def not_negative(config, *names: str) -> None:
    """Raise UserError unless each named field is a number that is 0 or more."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
            raise UserError(f"{name} must be a number, 0 or more; got {value!r}")


def one_of(config, name: str, options: tuple[str, ...]) -> None:
    """Raise UserError unless the named field is one of the options."""
    value = getattr(config, name)
    if value not in options:
        raise UserError(f"{name} must be one of {', '.join(options)}; got {value!r}")


def head_size_of(width: int, head_size: int | None, usual: int = 64) -> int:
    """Return the head size; None means `usual`, or `width` if that is smaller.

    Raises:
      UserError: the head size does not divide the width.
    """
    if not isinstance(width, int) or width < 1:
        raise UserError(f"width must be a positive integer, got {width!r}")
    size = min(usual, width) if head_size is None else head_size
    if size < 1 or width % size:
        raise UserError(f"head_size={size} must divide width={width}")
    return size
