"""What a reply may consist of: one line of valid UTF-8, however few bytes it may have.

`Guided` wraps a model so that the sampler draws only bytes that keep to this. Shapes: B batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmodels.data.chat.exchange import BEGIN, END

STOPS = (END, ord("\n"))  # models that were not trained on conversations end a line, not a reply
PLACES = FIRST, START, OVER, TAIL1, TAIL2, TAIL3, C2, E0, ED, F0, F4, FREE, READING = tuple(
    range(13)
)
# Bytes that complete the character.
LACKS = np.array([0, 0, 0, 1, 2, 3, 1, 2, 2, 3, 3, 0, 0], np.int32)
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
    table[FREE], table[READING] = FREE, READING
    table[READING, BEGIN] = FIRST
    return table


TABLE = _table()


@struct.dataclass
class Cursor:
    """Where a reply stands, each (B,).

    Attributes:
      place: int32, one of PLACES: FREE for text without rules, READING for a prompt, whose mark
        begins the reply, and within the reply what may follow.
      left: int32, bytes that it may still have.
      stop: float32, the stop head's probability that it ends within the chunk of the next byte.
      ending: bool, it must end with the current character.
    """

    place: jax.Array
    left: jax.Array
    stop: jax.Array
    ending: jax.Array


class Drawn(NamedTuple):
    """Logits (B, 256) of a step, -inf for bytes that are not allowed, and the model's output."""

    logits: jax.Array
    out: Any


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

    def initial_state(self, batch_size: int):
        """Return the state before a text without rules."""
        return self.model.initial_state(batch_size), cursor(FREE, 0, batch_size)

    def begin(self, state, logits, stop, most: int):
        """Return ((state, cursor), logits) before a reply of at most `most` bytes.

        state, logits (1, 256), stop (1,): the model's after the prompt; stop is a probability.
        """
        first = cursor(FIRST, most).replace(stop=stop)
        return (state, first), masked(logits, first)

    def step(self, state, token):
        """Read a token int (B,) -> (state, `Drawn`)."""
        state, cursor = state
        state, out = self.model.step(state, token)
        place = jnp.asarray(TABLE)[cursor.place, token]
        replying = (cursor.place != FREE) & (cursor.place != READING)
        new = cursor.replace(place=place, left=cursor.left - replying)
        if self.stop_above is not None:
            expected = out.ends.closes & (cursor.stop > self.stop_above) & (place != OVER)
            ending = cursor.ending | (expected & replying)
            new = new.replace(stop=jax.nn.sigmoid(out.stop), ending=ending)
        return (state, new), Drawn(masked(out.logits, new), out)

    def __call__(self, state, tokens):
        """Read a part of a prompt, int (B, T), without its mark -> (state, the model's output)."""
        state, cursor = state
        state, out = self.model(state, tokens)
        return (state, cursor), out


def cursor(place: int, most: int, batch_size: int = 1) -> Cursor:
    """Return where a text stands that begins at a place and may have `most` bytes."""
    place, most = (jnp.full((batch_size,), value, jnp.int32) for value in (place, most))
    return Cursor(place, most, jnp.zeros(batch_size), jnp.zeros(batch_size, bool))


def masked(logits, cursor: Cursor):
    """Return logits (B, 256) whose largest is 0, -inf for bytes that are not allowed."""
    following = jnp.asarray(TABLE)[cursor.place]
    fits = jnp.asarray(LACKS)[following] <= jnp.maximum(cursor.left - 1, 0)[:, None]
    must_end = cursor.ending & (cursor.place == START)
    allowed = (following >= 0) & fits & (~must_end[:, None] | (following == OVER))
    # At least one stays finite, however extreme the logits and low the temperature.
    kept = jnp.where(allowed, jnp.nan_to_num(logits), -jnp.inf)
    kept = kept - jnp.max(kept, -1, keepdims=True)
    free = (cursor.place == FREE) | (cursor.place == READING)
    return jnp.where(free[:, None], logits, kept)
