"""Autoregressive decoding for HRLM in mode "prefix_ar", with a key-value cache.

Every block keeps its keys and values separately for each recurrent call, so the cache is H (Lc + 1)
times that of a transformer (HRM-Text, arXiv 2605.20613). The logits equal those of a full forward
pass after each token.

Shapes: B batch, S row length, N heads, D head size, H and Lc cycles.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.cells.hrm import HRMState
from jaxmodels.data.tokenizers.special import PAD
from jaxmodels.errors import UserError
from jaxmodels.models.hrlm.model import prefix_of


@struct.dataclass
class DecodeCache:
    """Key-value cache of the tokens read so far.

    Attributes:
      low: keys and values of the low module, (H, Lc, layers, B, S, N, D) each; with
        `recurrent=False`, those of all blocks, (layers, B, S, N, D).
      high: keys and values of the high module, (H, layers, B, S, N, D); () if not recurrent.
      lengths: int32 (B,), tokens read.
      hidden: bool (B, S), positions masked for all queries.
    """

    low: tuple
    high: tuple
    lengths: jax.Array
    hidden: jax.Array


def prefill(model, tokens, lengths=None):
    """Read prompts, padded with PAD to the row length.

    Args:
      model: an `HRLM` in mode "prefix_ar".
      tokens: int (B, S).
      lengths: prompt lengths, int (B,), at least 1; None: a prompt ends with its first SEP.
        Attention within a prompt is bidirectional.

    Returns:
      (cache, logits float32 (B, V) of the first answer token).

    Raises:
      UserError: the model has another mode.
    """
    c = model.config
    if c.mode != "prefix_ar":
        raise UserError(f"mode {c.mode!r} does not answer token by token; prefix_ar does")
    lengths = prefix_of(tokens).sum(-1) if lengths is None else jnp.asarray(lengths)
    lengths = lengths.astype(jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    hidden = (tokens == PAD) if c.mask_pad else jnp.zeros(tokens.shape, bool)
    read, low, high = _think(model, tokens, model.mask(tokens, lengths), positions, None)
    last = jnp.take_along_axis(read, (lengths - 1)[:, None, None], 1)[:, 0]
    return DecodeCache(low, high, lengths, hidden), model.head(last, c.dtype)


def decode_step(model, cache: DecodeCache, token):
    """Read one token per row, int (B,) -> (cache, logits float32 (B, V) of the next token).

    The logits of a row that is already full are meaningless.
    """
    c, at = model.config, cache.lengths
    rows, slots = jnp.arange(token.shape[0]), jnp.arange(cache.hidden.shape[1])
    hidden = cache.hidden.at[rows, at].set(c.mask_pad & (token == PAD))
    visible = (slots[None] <= at[:, None]) & ~hidden
    if c.window is not None:
        visible = visible & (at[:, None] - slots[None] < c.window)
    past = (cache.low, cache.high, at)
    read, low, high = _think(model, token[:, None], visible[:, None], at[:, None], past)
    lengths = jnp.minimum(at + 1, slots.shape[0])
    return DecodeCache(low, high, lengths, hidden), model.head(read[:, 0], c.dtype)


def generate(model, tokens, max_tokens: int | None = None, lengths=None):
    """Decode greedily, until EOS or the end of the row.

    Args:
      model, tokens, lengths: as in `prefill`.
      max_tokens: limit per answer; None means the row length.

    Returns:
      int32 (B, max_tokens), filled up after an answer with the config's `eos_id`, or with PAD if
      that is None.
    """
    batch, size = tokens.shape
    limit = size if max_tokens is None else min(max_tokens, size)
    end = model.config.eos_id
    fill = PAD if end is None else end

    def unfinished(carry):
        _, _, _, done, count = carry
        return (count < limit) & ~done.all()

    def body(carry):
        cache, logits, answer, done, count = carry
        token = jnp.where(done, fill, jnp.argmax(logits, -1)).astype(jnp.int32)
        answer = answer.at[:, count].set(token)
        done = done | (cache.lengths >= size)
        if end is not None:
            done = done | (token == end)
        cache, logits = decode_step(model, cache, token)
        return cache, logits, answer, done, count + 1

    cache, logits = prefill(model, tokens, lengths)
    answer = jnp.full((batch, limit), fill, jnp.int32)
    start = (cache, logits, answer, jnp.zeros(batch, bool), jnp.int32(0))
    return jax.lax.while_loop(unfinished, body, start)[2]


def _think(model, tokens, mask, positions, past):
    """Run one ACT step: tokens (B, T) -> (z_H (B, T, C), low, high), as in `DecodeCache`.

    past: (low, high, lengths) of a `DecodeCache`, or None.
    """
    c, x = model.config, model.embed_tokens(tokens)
    slots = None if past is None else past[2]

    def through(net, z, kept):
        return net.with_keys(z, mask, positions, None if kept is None else (*kept, slots))

    if not c.recurrent:
        read, low = through(model.core, x, None if past is None else past[0])
        return read, low, ()

    thoughts = model.initial_carry(*tokens.shape)
    if not c.inject:
        thoughts = thoughts.replace(high=x)
    cell = model.core
    high_net = cell.low if cell.high is None else cell.high

    def low_call(state, kept):
        z = state.low + state.high + (x if c.inject else 0.0)
        z, kept = through(cell.low, z, kept)
        return state.replace(low=z), kept

    def cycle(state: HRMState, kept):
        low, high = (None, None) if kept is None else kept
        state, low = jax.lax.scan(low_call, state, low, c.low_cycles)
        z, high = through(high_net, state.high + state.low, high)
        return state.replace(high=z), (low, high)

    before = None if past is None else past[:2]
    state, (low, high) = jax.lax.scan(cycle, thoughts, before, c.high_cycles)
    return state.high, low, high
