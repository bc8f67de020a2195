"""The raw vector of a context, segment by segment, and its projection (F-01 to F-07).

A context is the last `window` tokens. Its raw vector is the concatenation of segments:

    tokens      one-hot of each token by distance, decaying; before the document: token V
    ngrams      hashed indicators of the last n tokens, of every order n
    order       hashes of (token, distance modulo a period), so that permutations differ
    embeddings  decaying sum of fixed random embeddings
    phases      cosines and sines of the position in the document, RoPE's frequencies
    hidden      a teacher's vectors, as given; so are queries, keys and values, of its attention

Each has a norm of about 1, and so has the whole. It is long and sparse, so it is built as (ids,
values) and goes straight into a CountSketch, then a block SRHT. Every context is projected once: a
segment of text hands its last tokens to the next. Shapes: B rows, T tokens, L = window, F entries
of a raw vector.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.models.hft.config import TAUGHT, HFTConfig
from jaxmodels.ops.sketch import count_sketch, hash_ngrams, hash_order, srht_views

SEED = 20231  # of all hashes, signs and rows: stored here instead of matrices


class Segment(NamedTuple):
    """A part of the raw vector: its name, where it starts, and its size."""

    name: str
    offset: int
    size: int


def segment_table(config: HFTConfig) -> tuple[Segment, ...]:
    """Return the offset table of the raw vector, in order of `config.segments`."""
    c = config
    sizes = {
        "tokens": c.window * (c.vocab_size + 1),
        "ngrams": len(c.ngram_orders) * c.ngram_bins,
        "order": c.ngram_bins,
        "embeddings": c.embedding_size,
        "phases": 2 * c.phases,
    } | {name: getattr(c, size) for name, size in TAUGHT.items()}
    table, offset = [], 0
    for name in c.segments:
        table.append(Segment(name, offset, sizes[name]))
        offset += sizes[name]
    return tuple(table)


def raw_size(config: HFTConfig) -> int:
    """Return D, the size of the raw vector."""
    last = segment_table(config)[-1]
    return last.offset + last.size


def windows_of(before: jax.Array, tokens: jax.Array, reset: jax.Array | None) -> jax.Array:
    """Return the window that ends at each token, -1 before the start of its document.

    Args:
      before: int32 (B, L), the tokens read so far, newest last.
      tokens: int32 (B, T).
      reset: bool (B, T) or None; True where a document starts.

    Returns:
      int32 (B, T, L), newest last.
    """
    length, time = before.shape[1], tokens.shape[1]
    whole = jnp.concatenate([before, tokens], 1)
    places = np.arange(time)[:, None] + np.arange(1, length + 1)[None]
    windows = whole[:, places]
    if reset is None:
        return windows
    starts = jnp.where(reset, jnp.arange(time)[None] + length, 0)
    first = jax.lax.cummax(starts, axis=1)  # place in `whole` of the document's first token
    return jnp.where(places[None] >= first[..., None], windows, -1)


def positions_of(before: jax.Array, reset: jax.Array | None, time: int) -> jax.Array:
    """Return the position of each token in its document, int32 (B, T); `before`: (B,)."""
    index = jnp.arange(time, dtype=jnp.int32)[None]
    if reset is None:
        return before[:, None] + index
    start = jax.lax.cummax(jnp.where(reset, index, -1), axis=1)
    return jnp.where(start < 0, before[:, None] + index, index - start)


def raw_entries(
    config: HFTConfig,
    windows: jax.Array,
    positions: jax.Array,
    vectors: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the non-zero entries of raw vectors: ids int32 and values float32, (..., F).

    Args:
      config: names the segments.
      windows: int32 (..., L), newest last, -1 for no token.
      positions: int32 (...), in the document.
      vectors: (..., size) of each segment out of `TAUGHT`, by its name; others are not read.

    Raises:
      UserError: such a segment without its vectors, or with those of another width.
    """
    ids, values, vectors = [], [], vectors or {}
    for segment in segment_table(config):
        if segment.name in TAUGHT:
            own, value = _given(segment, vectors)
        else:
            own, value = _ENTRIES[segment.name](config, windows, positions)
        ids.append(segment.offset + own)
        values.append(jnp.broadcast_to(value, own.shape).astype(jnp.float32))
    norm = np.float32(np.sqrt(sum(_norm(config, name) ** 2 for name in config.segments)))
    return jnp.concatenate(ids, -1), jnp.concatenate(values, -1) / norm


def _norm(c: HFTConfig, name: str) -> float:
    """Return the norm of a segment, about; that of a whole raw vector is then about 1."""
    return {"ngrams": c.ngram_weight, "phases": 0.5}.get(name, 1.0)


def _tokens(c: HFTConfig, windows, positions):
    back = np.arange(c.window - 1, -1, -1)
    token = jnp.where(windows < 0, c.vocab_size, windows)
    return token + _rows(back * (c.vocab_size + 1), windows), _rows(_decay(c), windows)


def _ngrams(c: HFTConfig, windows, positions):
    ids = [
        (hash_ngrams(windows, order, SEED + k) % c.ngram_bins).astype(jnp.int32) + i * c.ngram_bins
        for i, order in enumerate(c.ngram_orders)
        for k in range(c.hashes)
    ]
    return jnp.stack(ids, -1), np.float32(c.ngram_weight * len(ids) ** -0.5)


def _order(c: HFTConfig, windows, positions):
    hashed = hash_order(windows, c.order_period, SEED) % c.ngram_bins
    return hashed.astype(jnp.int32), _rows(_decay(c), windows)


def _embeddings(c: HFTConfig, windows, positions):
    size = (c.vocab_size + 1, c.embedding_size)
    table = np.random.default_rng(SEED).standard_normal(size, np.float32)
    table *= c.embedding_size**-0.5
    token = jnp.where(windows < 0, c.vocab_size, windows)
    weights = _rows(_decay(c), windows)[..., None]
    vectors = jnp.asarray(table)[token]
    return _dense(jnp.sum(vectors * jnp.broadcast_to(weights, vectors.shape), -2))


def _phases(c: HFTConfig, windows, positions):
    rates = 10000.0 ** (-np.arange(c.phases) / c.phases)
    angles = positions[..., None].astype(jnp.float32) * _rows(rates.astype(np.float32), windows)
    both = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return _dense(both * np.float32(0.5 * c.phases**-0.5))


def _given(segment: Segment, vectors):
    name, x = segment.name, vectors.get(segment.name)
    if x is None or x.shape[-1] != segment.size:
        got = "none" if x is None else f"vectors of {x.shape[-1]}"
        raise UserError(f"segment {name!r} needs {TAUGHT[name]}={segment.size}, got {got}")
    return _dense(x.astype(jnp.float32))


def _dense(vectors):
    ids = jnp.arange(vectors.shape[-1], dtype=jnp.int32)
    return jnp.broadcast_to(ids, vectors.shape), vectors


def _decay(c: HFTConfig):
    """Return the values of tokens, oldest first, as a unit vector."""
    values = c.decay ** np.arange(c.window - 1, -1, -1)
    return (values / np.linalg.norm(values)).astype(np.float32)


def _rows(x, windows):
    """Broadcast (n,) over the leading axes of windows."""
    x = jnp.asarray(x)
    return jnp.broadcast_to(x, (*windows.shape[:-1], *x.shape))


_ENTRIES = {
    "tokens": _tokens,
    "ngrams": _ngrams,
    "order": _order,
    "embeddings": _embeddings,
    "phases": _phases,
}


def project(config: HFTConfig, ids: jax.Array, values: jax.Array) -> jax.Array:
    """Return the projection of raw vectors (..., F): float32 (..., views x width).

    CountSketch, block SRHT of each view, and the source's RMSNorm per block, if it is asked for.
    """
    c = config
    sketch = count_sketch(ids, values, raw_size(c), c.sketch_size, SEED)
    x = srht_views(sketch, c.width, SEED, c.views)
    if not c.block_norm:
        return x
    blocks = x.reshape(*x.shape[:-1], -1, c.block_norm)
    scale = jax.lax.rsqrt(jnp.mean(blocks * blocks, -1, keepdims=True) + 1e-6)
    return (blocks * scale).reshape(x.shape)
