"""Packing of P heads into the 128 lanes of a TPU register, for heads smaller than 128.

With M = H / P packs, arrays of a chunk are (B, M, c, P size), matrices over pairs of tokens
(B, M, c, P c), and a pack's state is block-diagonal, (B, M, P K, P V). Right-hand factors are
spread first: each head's lanes in separate rows, zeros elsewhere. On a CPU, which gains nothing
from multiplying by zeros, P = 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.common.chunk_loop import chunk_loop, rows_within
from jaxmodels.ops.common.precision import EXACT
from jaxmodels.ops.common.triangular import unit_lower_inverse

LANES = 128
VMEM_ENTRIES = 2**19  # size limit of a chunk's array: some dozens fit into a TPU's VMEM


def platform_dispatch(run, heads: int, widest: int, pack: int | None, *arguments):
    """Return run(pack, *arguments); if `pack` is None, the platform determines P.

    Args:
      run: called as run(P, *arguments); traced for each possible P, compiled for one.
      heads: number of heads, H.
      widest: largest head size, of keys or values.
      pack: P, a divisor of H; None means 1 on a CPU, elsewhere as many heads as fill the lanes.
    """
    if pack is None:
        fitting = max(1, LANES // widest)
        pack = max(p for p in range(1, heads + 1) if p <= fitting and heads % p == 0)
        if pack > 1:
            alone, packed = (functools.partial(run, p) for p in (1, pack))
            return jax.lax.platform_dependent(*arguments, cpu=alone, default=packed)
    return run(pack, *arguments)


def in_chunks(chunk, size: int, pack: int, state, tokens, shared, reset):
    """Run `chunk_loop` in the packed layout.

    Args:
      chunk: a body of `chunk_loop` with P as its first argument. It gets the state as (B, M, P K,
        P V), tokens as (B, M, c, P n) and shared as (1, M, 1, P n), and returns y (B, M, c, P V).
      size: tokens per chunk.
      pack: P.
      state: (B, H, K, V).
      tokens: tuple of (B, T, H, n), or of (B, T, H), passed as (B, 1, c, H).
      shared: pytree of (H, n).
      reset: bool (B, T).

    Returns:
      (state after the last token, y (B, T, H, V)).
    """
    batch = reset.shape[0]
    rows = rows_within(batch, size * tokens[0][0, 0].size, VMEM_ENTRIES)
    turned = functools.partial(map, functools.partial(_pack, pack))
    body, axis = functools.partial(chunk, pack), 2
    if pack == 1:  # a CPU transposes what is in its cache, a TPU what leaves a matmul

        def body(state, tokens, reset, shared, kept):
            (state, y), kept = chunk(1, state, tuple(turned(tokens)), reset, shared, kept)
            return (state, y.swapaxes(1, 2)), kept

        axis = 1
    state, y = chunk_loop(
        body,
        _pack_state(pack, state),
        tokens if pack == 1 else tuple(turned(tokens)),
        reset,
        jax.tree.map(lambda x: _pack(pack, x[None, None]), shared),
        chunk_size=size,
        time_axis=axis,
        rows=rows,
    )
    return _unpack_state(pack, state), y if pack == 1 else _unpack(pack, y)


def _pack(pack, x):
    """Pack (B, T, H, size) as (B, M, T, P size), or (B, T, H) as (B, 1, T, H)."""
    if x.ndim == 3:
        return x[:, None]
    batch, time, heads, size = x.shape
    return x.reshape(batch, time, heads // pack, pack * size).swapaxes(1, 2)


def _unpack(pack, x):
    """Invert `_pack`: (B, M, T, P size) -> (B, T, H, size)."""
    batch, packs, time, lanes = x.shape
    return x.swapaxes(1, 2).reshape(batch, time, packs * pack, lanes // pack)


def _pack_state(pack, state):
    """Arrange (B, H, K, V) as block-diagonal (B, M, P K, P V)."""
    batch, heads, keys, values = state.shape
    state = state.reshape(batch, heads // pack, pack, keys, values)
    if pack == 1:
        return state[:, :, 0]
    zeros = jnp.zeros_like(state[:, :, 0])
    rows = [[state[:, :, p] if p == q else zeros for q in range(pack)] for p in range(pack)]
    return jnp.concatenate([jnp.concatenate(row, -1) for row in rows], -2)


def _unpack_state(pack, state):
    """Invert `_pack_state`."""
    batch, packs, keys, values = state.shape
    state = state.reshape(batch, packs, pack, keys // pack, pack, values // pack)
    state = jnp.stack([state[:, :, p, :, p] for p in range(pack)], 2)
    return state.reshape(batch, packs * pack, keys // pack, values // pack)


def block_diagonal(pack: int, state):
    """Zero the off-diagonal blocks of a packed state."""
    if pack == 1:
        return state
    return jnp.where(_blocks(pack, state.shape[2] // pack, state.shape[3] // pack), state, 0.0)


def product(x, y):
    """Return x @ y in float32, independent of the default matmul precision."""
    return jnp.matmul(x, y, precision=EXACT)


def spread(pack: int, x):
    """Spread (B, M, c, P size) to (B, M, P c, P size), each head in separate rows."""
    if pack == 1:
        return x
    own = _blocks(pack, x.shape[2], x.shape[3] // pack)
    return jnp.where(own, jnp.concatenate([x] * pack, 2), 0.0)


def head_sum(pack: int, x, size: int | None = None):
    """Sum (B, M, c, P n) over each head, broadcastable to heads of `size` (default n)."""
    if pack == 1:
        return jnp.sum(x, -1, keepdims=True)
    ones = _blocks(pack, x.shape[3] // pack, size or x.shape[3] // pack)[0, 0]
    return product(x, ones.astype(np.float32))


def inverse(pack: int, strict):
    """Return (I - strict)^-1 of each head's (c, c) in (B, M, c, P c); see `unit_lower_inverse`."""
    if pack == 1:
        return unit_lower_inverse(strict)
    size = strict.shape[2]
    i, j = np.arange(size)[:, None], np.arange(pack * size)[None] % size

    def below(block):  # off-diagonal blocks of this size, one per pair of diagonal blocks
        mask = (i // (2 * block) == j // (2 * block)) & (i // block > j // block)
        return jnp.where(mask[None, None], strict, 0.0)

    result = below(1) + np.float32(i == j)[None, None]
    block = 2
    while block < size:
        missing = product(below(block), spread(pack, result))
        result = result + product(result, spread(pack, missing))
        block *= 2
    return result


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def solved(pack: int, known_inverse, strict, right):
    """Solve u = strict u + right with known_inverse = (I - strict)^-1, a constant in gradients.

    Args:
      pack: P.
      known_inverse, strict: (B, M, c, P c).
      right: (B, M, c, P V).
    """
    return product(known_inverse, spread(pack, right))


def _solved_forward(pack, known_inverse, strict, right):
    u = product(known_inverse, spread(pack, right))
    return u, (known_inverse, u)


def _solved_backward(pack, saved, d_u):
    known_inverse, u = saved
    d_right = product(known_inverse.swapaxes(2, 3), d_u)
    if pack > 1:  # the transpose of `spread`
        own = _blocks(pack, u.shape[2], u.shape[3] // pack)
        d_right = sum(jnp.split(jnp.where(own, d_right, 0.0), pack, 2))
    return None, product(d_right, spread(pack, u).swapaxes(2, 3)), d_right


solved.defvjp(_solved_forward, _solved_backward)


def _blocks(pack, rows, columns):
    """Return the mask of diagonal blocks, bool (1, 1, P rows, P columns)."""
    i, j = np.arange(pack * rows) // rows, np.arange(pack * columns) // columns
    return (i[:, None] == j[None])[None, None]
