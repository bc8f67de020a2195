"""Subsampled randomized Hadamard transforms (F-04, F-07); Ailon and Chazelle 2006, Tropp 2011.

A Walsh-Hadamard matrix of size a b is the Kronecker product of those of sizes a and b, so the
transform of a row is H_a X H_b with the row reshaped to X (a, b): two small products, O(n sqrt(n)),
which take a fraction of the time of log2(n) butterflies on CPUs, and use the matrix unit of
accelerators.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.ops.common.precision import EXACT


@functools.cache
def _hadamard(size: int) -> np.ndarray:
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def walsh_hadamard(x: jax.Array) -> jax.Array:
    """Return x H, H the Walsh-Hadamard matrix in natural order, entries -1 and 1.

    Args:
      x: (..., n), n a power of two; any float dtype, summed in float32.

    Returns:
      float32 (..., n), of |x| sqrt(n) norm.

    Raises:
      UserError: n is no power of two.
    """
    size = x.shape[-1]
    bits = size.bit_length() - 1
    if size != 1 << bits:
        raise UserError(f"a Walsh-Hadamard transform needs a power of two, got {size}")
    left, right = _hadamard(1 << (bits + 1) // 2), _hadamard(1 << bits // 2)
    grid = x.astype(jnp.float32).reshape(-1, len(left), len(right))
    rows = jnp.einsum("bij,jk->bik", grid, right, precision=EXACT)
    return jnp.einsum("il,bik->blk", left, rows, precision=EXACT).reshape(x.shape)


def srht(x: jax.Array, size: int, seed: int) -> jax.Array:
    """Return sqrt(D'/m) P H S x / sqrt(D'): signs S, all of H, then m random rows P.

    Args:
      x: (..., D), padded to D', the next power of two.
      size: m <= D'.
      seed: determines signs and rows.

    Returns:
      float32 (..., m); squared norms are preserved in expectation.

    Raises:
      UserError: m is larger than D'; `apply_block_srht` repeats blocks.
    """
    inputs = x.shape[-1]
    padded = 1 << max(inputs - 1, 0).bit_length()
    if not 1 <= size <= padded:
        raise UserError(f"an SRHT of {inputs} inputs has 1 to {padded} outputs, got {size}")
    rng = np.random.default_rng((seed, inputs, size))
    signs = rng.integers(0, 2, padded).astype(np.float32) * 2 - 1
    rows = rng.permutation(padded)[:size]
    x = jnp.pad(x.astype(jnp.float32), [(0, 0)] * (x.ndim - 1) + [(0, padded - inputs)])
    y = walsh_hadamard(x * jnp.broadcast_to(signs, x.shape))
    return y[..., rows] * np.float32(size**-0.5)


def apply_block_srht(x: jax.Array, size: int, seed: int, block: int = 4096) -> jax.Array:
    """Return the SRHTs of consecutive blocks, each with its own signs and rows, concatenated.

    Nothing is mixed between blocks, so that a permutation or a CountSketch should come before.

    Args:
      x: (..., D), padded to a multiple of `block`.
      size: m, spread evenly over the blocks. More than D outputs are further transforms of the
        blocks, with new signs, as often as needed.
      seed: determines signs and rows.
      block: a power of two; at most D rounded up to one.

    Returns:
      float32 (..., m); the squared norm of each block is preserved in expectation.

    Raises:
      UserError: the block is no power of two, or there are fewer outputs than blocks.
    """
    inputs = x.shape[-1]
    if block < 1 or block & (block - 1):
        raise UserError(f"block must be a power of two, got {block}")
    block = min(block, 1 << max(inputs - 1, 0).bit_length())
    count = -(-inputs // block)
    if size < count:
        raise UserError(f"{count} blocks of {block} need at least {count} outputs, got {size}")
    x = jnp.pad(x.astype(jnp.float32), [(0, 0)] * (x.ndim - 1) + [(0, count * block - inputs)])
    parts = []
    for i in range(count):
        own = (i + 1) * size // count - i * size // count
        parts.append(_tiled(x[..., i * block : (i + 1) * block], own, seed + 7919 * i))
    return jnp.concatenate(parts, -1)


def _tiled(x, size: int, seed: int):
    """Return `size` outputs of one block, of as many transforms as that takes; norm preserved."""
    block = x.shape[-1]
    parts, left, repeat = [], size, 0
    while left > 0:
        own = min(left, block)
        # `srht` scales its `own` outputs to the norm of x; here they are own / size of the result.
        parts.append(srht(x, own, seed + 104729 * repeat) * np.float32((own / size) ** 0.5))
        left, repeat = left - own, repeat + 1
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)


def srht_views(x: jax.Array, size: int, seed: int, views: int, block: int = 4096) -> jax.Array:
    """Return `views` independent block SRHTs of x (..., D), concatenated: float32 (..., m views).

    Divided by sqrt(views), so that squared norms are preserved in expectation.
    """
    parts = [apply_block_srht(x, size, seed + 15485863 * v, block) for v in range(views)]
    return jnp.concatenate(parts, -1) * np.float32(views**-0.5)
