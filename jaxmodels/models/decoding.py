"""Answers token by token in mode "prefix_ar", nothing computed twice.

A position's thoughts depend on those of positions that it sees, call by call: so each block of each
call keeps keys and values of its own, H (Lc + 1) times a transformer's cache (HRM-Text, SYSTEMS
7.9). Equal to reading the whole row again after each token.

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
    """What reading left behind.

    Attributes:
      low: keys and values of the low module's blocks, (H, Lc, layers, B, S, N, D) each; of a plain
        transformer of all blocks, (layers, B, S, N, D).
      high: of the high module's, (H, layers, B, S, N, D); () of a transformer.
      lengths: int32 (B,), tokens read.
      hidden: bool (B, S), places that nobody sees.
    """

    low: tuple
    high: tuple
    lengths: jax.Array
    hidden: jax.Array


def prefill(model, tokens, lengths=None):
    """Reads prompts, each filled up with PAD to the length of a row.

    Args:
      model: an `HRLM` in mode "prefix_ar".
      tokens: int (B, S); prompts may differ in length.
      lengths: int (B,) of the prompts, at least 1; None: a prompt ends with its first SEP. A
        prompt's tokens all see each other.

    Returns:
      (cache, logits float32 (B, V) of the first token of each answer).

    Raises:
      UserError: a model of another mode.
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
    """Reads one more token of each row, int (B,) -> (cache, logits (B, V) of the next).

    A row that is full already reads nothing more: its logits are then without meaning.
    """
    c, at = model.config, cache.lengths
    rows, places = jnp.arange(token.shape[0]), jnp.arange(cache.hidden.shape[1])
    hidden = cache.hidden.at[rows, at].set(c.mask_pad & (token == PAD))
    seen = (places[None] <= at[:, None]) & ~hidden
    if c.window is not None:
        seen = seen & (at[:, None] - places[None] < c.window)
    past = (cache.low, cache.high, at)
    read, low, high = _think(model, token[:, None], seen[:, None], at[:, None], past)
    after = jnp.minimum(at + 1, places.shape[0])
    return DecodeCache(low, high, after, hidden), model.head(read[:, 0], c.dtype)


def generate(model, tokens, max_tokens: int | None = None, lengths=None):
    """The likeliest answer to each prompt, token by token until EOS or the end of the row.

    Args:
      tokens, lengths: as in `prefill`.
      max_tokens: of an answer; None means as many as a row has places.

    Returns:
      int32 (B, max_tokens); EOS is the config's `eos_id`, and stands behind an answer (PAD, if it
      is None).
    """
    batch, size = tokens.shape
    most = size if max_tokens is None else min(max_tokens, size)
    end = model.config.eos_id
    behind = PAD if end is None else end

    def goes_on(carry):
        _, _, _, done, count = carry
        return (count < most) & ~done.all()

    def body(carry):
        cache, logits, answer, done, count = carry
        token = jnp.where(done, behind, jnp.argmax(logits, -1)).astype(jnp.int32)
        answer = answer.at[:, count].set(token)
        done = done | (cache.lengths >= size)
        if end is not None:
            done = done | (token == end)
        cache, logits = decode_step(model, cache, token)
        return cache, logits, answer, done, count + 1

    cache, logits = prefill(model, tokens, lengths)
    answer = jnp.full((batch, most), behind, jnp.int32)
    start = (cache, logits, answer, jnp.zeros(batch, bool), jnp.int32(0))
    return jax.lax.while_loop(goes_on, body, start)[2]


def _think(model, tokens, mask, positions, past):
    """One round over (B, T) tokens -> (z_H (B, T, C), keys and values of low and of high).

    past: (low, high, slots) of a `DecodeCache`, or None.
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
