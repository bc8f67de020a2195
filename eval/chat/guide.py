"""What a reply may consist of: one line of valid UTF-8, however few bytes it may have.

`Guided` wraps a model so that the sampler draws only bytes that keep to this. Shapes: B batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmodels.data.chat.exchange import END

STOPS = (END, ord("\n"))  # models that were not trained on conversations end a line, not a reply
PLACES = FIRST, START, OVER, TAIL1, TAIL2, TAIL3, C2, E0, ED, F0, F4 = tuple(range(11))
LACKS = np.array([0, 0, 0, 1, 2, 3, 1, 2, 2, 3, 3], np.int32)  # bytes that complete the character
# (place, first byte, last byte, next place): table 3-7 of the Unicode standard, less the control
# characters (U+0000 to U+001F, U+007F to U+009F), with which text could steer a terminal.
_MOVES = (
    *((START, 0x20, 0x7E, START), (START, 0xC2, 0xC2, C2), (START, 0xC3, 0xDF, TAIL1)),
    *((START, 0xE0, 0xE0, E0), (START, 0xE1, 0xEF, TAIL2), (START, 0xED, 0xED, ED)),
    *((START, 0xF0, 0xF0, F0), (START, 0xF1, 0xF3, TAIL3), (START, 0xF4, 0xF4, F4)),
    *((TAIL1, 0x80, 0xBF, START), (TAIL2, 0x80, 0xBF, TAIL1), (TAIL3, 0x80, 0xBF, TAIL2)),
    *((C2, 0xA0, 0xBF, START), (E0, 0xA0, 0xBF, TAIL1), (ED, 0x80, 0x9F, TAIL1)),
    *((F0, 0x90, 0xBF, TAIL2), (F4, 0x80, 0x8F, TAIL2)),
)


def _table() -> np.ndarray:
    """Return the next place after each place and byte, int32 (places, 256); -1 = not allowed."""
    table = np.full((len(PLACES), 256), -1, np.int32)
    for place, first, last, following in _MOVES:
        table[place, first : last + 1] = following
    table[FIRST] = table[START]  # a reply is not empty
    table[START, STOPS] = table[OVER, STOPS] = OVER
    return table


TABLE = _table()


@struct.dataclass
class Cursor:
    """Where a reply stands, each (B,).

    Attributes:
      place: int32, one of PLACES.
      left: int32, bytes that it may still have.
      stop: float32, the stop head's probability that it ends within the chunk of the next byte.
      ending: bool, it must end with the current character.
    """

    place: jax.Array
    left: jax.Array
    stop: jax.Array
    ending: jax.Array


class Drawn(NamedTuple):
    """The logits (B, 256) of a step, -inf for bytes that are not allowed."""

    logits: jax.Array


@struct.dataclass
class Guided:
    """A model whose steps allow only what a reply may consist of, with state (state, `Cursor`).

    Attributes:
      model: a model of bytes with the trait `step`.
      stop_above: end the reply with the chunk for which the stop head's probability exceeds this;
        None = never.
    """

    model: Any
    stop_above: float | None = struct.field(pytree_node=False, default=None)

    def begin(self, state, logits, stop, most: int):
        """Return ((state, cursor), logits) before a reply of at most `most` bytes.

        state, logits (B, 256), stop (B,): the model's after the prompt.
        """
        ones = jnp.ones_like(stop, jnp.int32)
        cursor = Cursor(FIRST * ones, most * ones, stop, jnp.zeros_like(stop, bool))
        return (state, cursor), masked(logits, cursor)

    def step(self, state, token):
        """Read a token int (B,) -> (state, `Drawn`)."""
        state, cursor = state
        state, out = self.model.step(state, token)
        place = jnp.asarray(TABLE)[cursor.place, token]
        new = cursor.replace(place=place, left=cursor.left - 1)
        if self.stop_above is not None:
            expected = out.ends.closes & (cursor.stop > self.stop_above) & (place != OVER)
            new = new.replace(stop=jax.nn.sigmoid(out.stop), ending=cursor.ending | expected)
        return (state, new), Drawn(masked(out.logits, new))


def masked(logits, cursor: Cursor):
    """Return logits (B, 256) whose largest is 0, -inf for bytes that are not allowed."""
    following = jnp.asarray(TABLE)[cursor.place]
    fits = jnp.asarray(LACKS)[following] <= jnp.maximum(cursor.left - 1, 0)[:, None]
    must_end = cursor.ending & (cursor.place == START)
    allowed = (following >= 0) & fits & (~must_end[:, None] | (following == OVER))
    # At least one stays finite, however extreme the logits and low the temperature.
    logits = jnp.where(allowed, jnp.nan_to_num(logits), -jnp.inf)
    return logits - jnp.max(logits, -1, keepdims=True)
