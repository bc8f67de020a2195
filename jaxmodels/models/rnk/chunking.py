"""Where chunks end, and the mean of their bytes; one rule, read byte by byte.

A rule sees the bytes read so far, never the next one: a boundary that looked ahead would tell the
model what it must predict. The parallel form is a `lax.scan` of the same step over cheap values.

Shapes: B batch, T bytes, d width, n chunks (static, `RNKConfig.most_chunks`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.cells.base import where_reset
from jaxmodels.ragged import keep_held, without


@struct.dataclass
class OpenChunk:
    """The chunk that is being read, float32.

    Attributes:
      total: (B, d), sum of the features of its bytes.
      size: (B,), number of these bytes; padding has none.
      position: (B,), bytes since the last boundary; with fixed chunks, padding counts.
      last: (B,), the last byte, -1 at the start.
      cooldown: (B,), bytes for which the end of a prompt is not recognised.
    """

    total: jax.Array
    size: jax.Array
    position: jax.Array
    last: jax.Array
    cooldown: jax.Array


class Ends(NamedTuple):
    """What follows a byte, each (B,) or (B, T).

    Attributes:
      closes: bool, a chunk ends with this byte.
      emits: bool, a chunk with at least one byte that is no padding ends here.
      prompt: bool, a prompt ends here.
    """

    closes: jax.Array
    emits: jax.Array
    prompt: jax.Array


class Chunks(NamedTuple):
    """The chunks that end within a segment.

    Attributes:
      mean: (B, n, d), mean features.
      at: int32 (B, n), index of the last byte; T where there is no chunk.
      index: int32 (B, T), chunks that ended up to and including this byte.
    """

    mean: jax.Array
    at: jax.Array
    index: jax.Array


def open_chunk(batch_size: int, width: int) -> OpenChunk:
    """Return the empty chunk at the start of a document."""
    zero = jnp.zeros((batch_size,), jnp.float32)
    total = jnp.zeros((batch_size, width), jnp.float32)
    return OpenChunk(total=total, size=zero, position=zero, last=zero - 1.0, cooldown=zero)


def is_space_like(byte):
    """Return where SpaceByte sees a space: neither letter, digit nor UTF-8 continuation byte."""
    digit = (byte >= ord("0")) & (byte <= ord("9"))
    letter = ((byte | 32) >= ord("a")) & ((byte | 32) <= ord("z"))
    return ~(digit | letter | ((byte >= 0x80) & (byte < 0xC0)))


def phases(position, width: int):
    """Return 1 + sin and 1 + cos of a byte's place in its chunk, (..., width), as in attention.

    A mean of bytes times these keeps their order; a mean of sums would not.
    """
    rates = jnp.exp(-jnp.log(1e4) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    angles = position[..., None] * rates.reshape((1,) * position.ndim + (-1,))
    return 1.0 + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def read_byte(config, chunk: OpenChunk, token, features, chance):
    """Read one byte of each row.

    Args:
      config: `RNKConfig`.
      chunk: the open chunk before this byte.
      token: int (B,).
      features: (B, d), the byte's embedding.
      chance: (B,), of a learned boundary after this byte; None unless chunking="learned".

    Returns:
      (the chunk with this byte, `Ends`). If it closes, `after(chunk, ends)` is the next one.
    """
    c, real = config, token != config.pad
    fixed = c.chunking == "fixed"
    mine = jnp.where(real[:, None], features * phases(chunk.position, c.width), 0.0)
    one = real.astype(jnp.float32)
    position = chunk.position + (1.0 if fixed else one)
    read = OpenChunk(
        total=chunk.total + mine,
        size=chunk.size + one,
        position=position,
        last=jnp.where(real, token.astype(jnp.float32), chunk.last),
        cooldown=jnp.maximum(chunk.cooldown - 1.0, 0.0),
    )
    if c.chunking == "space":
        last = chunk.last.astype(jnp.int32)
        boundary = is_space_like(token) & ~is_space_like(last) & (last >= 0)
    elif c.chunking == "learned":
        boundary = chance >= 0.5
    if not fixed:
        boundary = boundary & (position >= c.min_chunk) & real
    prompt = (token == c.begin) & (chunk.cooldown == 0.0)
    closes = (position >= c.chunk_size) | prompt
    closes = closes if fixed else closes | boundary
    return read, Ends(closes, closes & (read.size > 0.0), prompt)


def after(config, chunk: OpenChunk, ends: Ends) -> OpenChunk:
    """Return the chunk that the next byte is read into."""
    kept = chunk.replace(
        total=jnp.where(ends.closes[:, None], 0.0, chunk.total),
        size=jnp.where(ends.closes, 0.0, chunk.size),
        position=jnp.where(ends.closes, 0.0, chunk.position),
    )
    gap = jnp.float32(config.prompt_gap)
    return kept.replace(cooldown=jnp.where(ends.prompt, gap, chunk.cooldown))


def mean_of(chunk: OpenChunk):
    """Return the mean features (B, d) of a chunk, 0 if it is empty."""
    return chunk.total / jnp.maximum(chunk.size, 1.0)[:, None]


def read_bytes(config, chunk: OpenChunk, tokens, features, chance, reset, hold=None):
    """Read segments: `read_byte` over time.

    Args:
      config: `RNKConfig`.
      chunk: the open chunk before the segment.
      tokens: int (B, T).
      features: (B, T, d).
      chance: (B, T) or None.
      reset: bool (B, T); a document starts at each True.
      hold: bool (B, T) or None; True is no byte, not even one of the padding that chunks count.

    Returns:
      (the open chunk after it, `Ends` (B, T), `Chunks`).
    """
    batch, time = tokens.shape
    fresh = open_chunk(batch, config.width)

    def body(chunk, inputs):
        token, feature, chance, reset, hold = inputs
        chunk = where_reset(reset, fresh, chunk)
        read, ends = read_byte(config, chunk, token, feature, chance)
        following = after(config, read, ends)
        if hold is not None:
            following, ends = keep_held(hold, chunk, following), without(hold, ends)
        return following, (ends, mean_of(read))

    by_time = jax.tree.map(lambda x: x.swapaxes(0, 1), (tokens, features, chance, reset, hold))
    chunk, out = jax.lax.scan(body, chunk, by_time)
    ends, means = jax.tree.map(lambda x: x.swapaxes(0, 1), out)
    size = config.most_chunks(time)
    at = jax.vmap(lambda row: jnp.nonzero(row, size=size, fill_value=time)[0])(ends.emits)
    place = jnp.minimum(at, time - 1)[..., None]
    mean = jnp.where(at[..., None] < time, jnp.take_along_axis(means, place, 1), 0.0)
    index = jnp.cumsum(ends.emits.astype(jnp.int32), 1)
    return chunk, ends, Chunks(mean, at.astype(jnp.int32), index)


def of_bytes(values, index):
    """Return values (n,) of the last chunk that ended before each byte, 0 before the first."""
    return jnp.pad(values, 1)[index]


def look_up(table, index):
    """Look up table (B, m, ...) at index (B, T) -> (B, T, ...)."""
    flat = table.reshape(*table.shape[:2], -1)
    return jnp.take_along_axis(flat, index[..., None], 1).reshape(*index.shape, *table.shape[2:])


def look_up_by_time(table, index):
    """Look up table (B, m, d) at index (T, B) -> (T, B, d), the last entry beyond the table."""
    batch, size, width = table.shape
    rows = jnp.minimum(index, size - 1) + size * jnp.arange(batch, dtype=index.dtype)[None]
    return table.reshape(-1, width).at[rows].get(mode="promise_in_bounds")


def last_prompts(state, m, first, prompt):
    """Return (context (B, n, d), prompted (B, n)) after each chunk, with output m (B, n, d)."""

    def body(carry, inputs):
        context, prompted = carry
        m, first, prompt = inputs
        context = jnp.where(first[:, None], 0.0, context)
        context = jnp.where(prompt[:, None], m, context)
        prompted = jnp.where(first, 0.0, prompted)
        prompted = jnp.maximum(prompted, prompt.astype(jnp.float32))
        return (context, prompted), (context, prompted)

    inputs = jax.tree.map(lambda x: x.swapaxes(0, 1), (m, first, prompt))
    _, known = jax.lax.scan(body, (state.context, state.prompted), inputs)
    return jax.tree.map(lambda x: x.swapaxes(0, 1), known)
