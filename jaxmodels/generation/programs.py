"""The compiled programs of an engine: read a piece, place a row, take a row, decode, look again.

There is one of each for a model, a number of slots and a size of pieces, whatever the requests are:
what a row computes then depends on nobody else, neither on what others do nor on how many there
are. Shapes: S slots, V vocabulary, K most tokens of a call, E end tokens, N top tokens.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmodels.generation.request import MOST_ENDS
from jaxmodels.generation.sampling import Options, draw, uniforms

CONTINUED, BLANK, PLACED = 0, 1, 2  # how a slot begins a call
ENDED, BROKEN = 1, 2  # why it ended, if not at its most tokens
TOP = 20  # most likely tokens whose log-probabilities can be given


@struct.dataclass
class Pool:
    """What the slots have read.

    Attributes:
      state: leaves (S, ...) float32.
      logits: of the next token, float32 (S, V).
      seen: bool (S, V), tokens of the request so far.
      drawn: int32 (S,), tokens drawn since the session began.
      left: int32 (S,), tokens to draw; 0 for a slot without a request.
    """

    state: Any
    logits: jax.Array
    seen: jax.Array
    drawn: jax.Array
    left: jax.Array


class Orders(NamedTuple):
    """What the slots do in a call, NumPy arrays.

    Attributes:
      count: most steps, at most K, int32 ().
      begin: int32 (S,), CONTINUED; BLANK, from the initial state; PLACED, from a placed one.
      halt: bool (S,), there is no request, or no more.
      forced: int32 (S, K), tokens to read before the first is drawn; reading (S,) counts them.
      most: int32 (S,), most tokens to draw in this call.
      left, drawn: int32 (S,), of requests that begin, see `Pool`.
      seed: uint32 (S,).
      ends: int32 (S, E), -1 where there is none.
      options: see `Options`.
    """

    count: np.ndarray
    begin: np.ndarray
    halt: np.ndarray
    forced: np.ndarray
    reading: np.ndarray
    most: np.ndarray
    left: np.ndarray
    drawn: np.ndarray
    seed: np.ndarray
    ends: np.ndarray
    options: Options

    @classmethod
    def none(cls, slots: int, most: int) -> "Orders":
        """Return the orders of a call in which nothing happens."""
        ints = np.zeros((7, slots), np.int32)
        return cls(
            count=np.int32(0),
            begin=ints[0],
            halt=np.ones(slots, bool),
            forced=np.zeros((slots, most), np.int32),
            reading=ints[1],
            most=ints[2] + most,
            left=ints[3],
            drawn=ints[4],
            seed=np.zeros(slots, np.uint32),
            ends=np.full((slots, MOST_ENDS), -1, np.int32),
            options=Options(*np.ones((5, slots), np.float32)).replace(
                top_k=np.full(slots, 2**30, np.int32), min_p=np.zeros(slots, np.float32)
            ),
        )


class Drawn(NamedTuple):
    """What came of a call.

    Attributes:
      tokens: int32 (S, K), those drawn; count (S,) says how many.
      left: int32 (S,), as in `Pool`; why: int32 (S,), 0, ENDED or BROKEN.
    """

    tokens: jax.Array
    count: jax.Array
    left: jax.Array
    why: jax.Array


class Look(NamedTuple):
    """What a call did on the way, at the tokens read and drawn, S x K.

    Attributes:
      logprobs: float32 (S, K), of the tokens; top_ids, top_logprobs: (S, K, N), the most likely.
      watch: leaves (S, K, ...), or None.
    """

    logprobs: jax.Array
    top_ids: jax.Array
    top_logprobs: jax.Array
    watch: Any


class Programs(NamedTuple):
    """Compiled functions of the leaves of a model; see the functions of these names below."""

    start: Callable
    read_piece: Callable
    place: Callable
    take: Callable
    decode: Callable
    look: Callable


@functools.lru_cache(maxsize=16)
def programs_of(treedef, slots: int, most: int, watch: Callable | None) -> Programs:
    """Return the programs of models of a tree structure, compiled on their first call."""

    def compiled(function, **options):
        @functools.wraps(function)
        def run(leaves, *args):
            return function(jax.tree.unflatten(treedef, leaves), *args, **options)

        return jax.jit(run)

    return Programs(
        start=compiled(start, slots=slots),
        read_piece=compiled(read_piece),
        place=jax.jit(place),
        take=jax.jit(take),
        decode=compiled(decode, most=most),
        look=compiled(look, watch=watch),
    )


def start(model, *, slots: int) -> Pool:
    """Return a pool whose slots are all empty."""
    state = model.initial_state(slots)
    token = jnp.zeros((slots,), jnp.int32)
    vocab = jax.eval_shape(model.step, state, token)[1].logits.shape[-1]
    logits, seen = (jnp.zeros((slots, vocab), kind) for kind in (jnp.float32, bool))
    return Pool(state, logits, seen, token, token)


def read_piece(model, state, tokens):
    """Return the state of one row after tokens int32 (1, size)."""
    return model(state, tokens)[0]


def place(pool: Pool, slot, state, logits, seen) -> Pool:
    """Put the state of one row, its logits (1, V) and tokens seen (V,) into a slot."""
    put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=slot, axis=0)
    return pool.replace(
        state=jax.tree.map(lambda x, row: put(x, row[0]), pool.state, state),
        logits=put(pool.logits, logits[0]),
        seen=put(pool.seen, seen),
    )


def take(pool: Pool, slot):
    """Return (state of one row, logits (1, V)) of a slot."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, slot, 1, 0), (pool.state, pool.logits)
    )


def decode(model, pool: Pool, orders: Orders, *, most: int):
    """Run the steps of a call -> (pool, `Drawn`); `most` is K.

    A slot reads its forced tokens, then draws. A token that ends the text is not read. Slots that
    do nothing, or no more, are held: their state is that after their last token.
    """
    pool = _begun(model, pool, orders)
    slots = len(orders.begin)
    rows, ints = jnp.arange(slots, dtype=jnp.int32), jnp.zeros((slots,), jnp.int32)
    drawn = Drawn(tokens=jnp.zeros((slots, most), jnp.int32), count=ints, left=ints, why=ints)

    def active(pool, drawn, at):
        reading = at < orders.reading
        # A slot whose forced tokens fill the call draws in the next.
        drawing = ~reading & (pool.left > 0) & (drawn.count < orders.most)
        return reading, drawing

    def unfinished(carry):
        at, pool, drawn = carry
        reading, drawing = active(pool, drawn, at)
        return (at < orders.count) & jnp.any(reading | drawing)

    def body(carry):
        at, pool, drawn = carry
        reading, drawing = active(pool, drawn, at)
        chosen = draw(pool.logits, orders.options, pool.seen, uniforms(orders.seed, pool.drawn))
        largest = jnp.max(pool.logits, -1)  # NaN if there is one
        broken = drawing & ~jnp.isfinite(largest)
        ended = drawing & ~broken & jnp.any(chosen[:, None] == orders.ends, -1)
        drawing = drawing & ~broken & ~ended
        token = jnp.where(reading, orders.forced[:, at], jnp.where(drawing, chosen, 0))
        live = reading | drawing
        one = drawing.astype(jnp.int32)
        state, logits = _stepped(model, pool, token, live)[:2]
        place = jnp.where(drawing, drawn.count, most)  # beyond the end: dropped
        drawn = Drawn(
            tokens=drawn.tokens.at[rows, place].set(token, mode="drop"),
            count=drawn.count + one,
            left=drawn.left,
            why=jnp.where(broken, BROKEN, jnp.where(ended, ENDED, drawn.why)),
        )
        pool = Pool(
            state=state,
            logits=logits,
            seen=pool.seen.at[rows, token].max(live),
            drawn=pool.drawn + one,
            left=jnp.where(broken | ended, 0, pool.left - one),
        )
        return at + 1, pool, drawn

    _, pool, drawn = jax.lax.while_loop(unfinished, body, (jnp.int32(0), pool, drawn))
    return pool, drawn._replace(left=pool.left)


def look(model, pool: Pool, orders: Orders, drawn: Drawn, *, watch: Callable | None) -> Look:
    """Run the steps of a call of `decode` again, for what is told of its tokens.

    Few requests ask for it: `decode` would pay for it at every token of every request.
    """
    pool, top = _begun(model, pool, orders), min(TOP, pool.logits.shape[-1])
    most = drawn.tokens.shape[1]
    at = jnp.arange(most, dtype=jnp.int32)
    drawing = at[None] - orders.reading[:, None]  # number of the drawn token
    tokens = jnp.take_along_axis(drawn.tokens, jnp.maximum(drawing, 0), 1)
    tokens = jnp.where(drawing < 0, orders.forced, tokens)
    steps = orders.reading + drawn.count

    def body(pool, at):
        token, live = tokens[:, at], at < steps
        every = jax.nn.log_softmax(pool.logits, -1)
        values, ids = jax.lax.top_k(every, top)
        logprob = jnp.take_along_axis(every, token[:, None], -1)[:, 0]
        state, logits, after, out = _stepped(model, pool, token, live)
        seen = None if watch is None else watch(model, pool.state, after, out)
        told = Look(logprob, ids.astype(jnp.int32), values, seen)
        return pool.replace(state=state, logits=logits), told

    told = jax.lax.scan(body, pool, at)[1]
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), told)


def _stepped(model, pool, token, live):
    """Return (state, logits, state before rows were held, out) of a step."""
    after, out = model.step(pool.state, token)
    state = jax.tree.map(
        lambda new, old: jnp.where(live.reshape(-1, *[1] * (new.ndim - 1)), new, old),
        after,
        pool.state,
    )
    return state, jnp.where(live[:, None], out.logits, pool.logits), after, out


def _begun(model, pool, orders):
    """Return the pool with the requests that begin, and without those that are halted."""
    blank, begins = orders.begin == BLANK, orders.begin != CONTINUED
    initial = model.initial_state(len(orders.begin))

    def reset(new, old):
        return jnp.where(blank.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    left = jnp.where(begins, orders.left, pool.left)
    return Pool(
        state=jax.tree.map(reset, initial, pool.state),
        logits=pool.logits,
        seen=jnp.where(blank[:, None], False, pool.seen),
        drawn=jnp.where(begins, orders.drawn, pool.drawn),
        left=jnp.where(orders.halt, 0, left),
    )
