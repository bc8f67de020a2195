"""Products of inputs with the few tensors that answer them.

Two forms of each, chosen by the platform. On a CPU, loops over slices: float16 columns are read,
converted and used at once, where a gather writes all that is chosen to memory as float32; and the
sums of a tensor are formed for all inputs that it answers before they are written, so that an input
moves K rows through memory instead of 6 K. Elsewhere, gathers and scatters.

Shapes: B rows, N tensors, K of them chosen for each row, a columns of a tensor, V outputs.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.common.precision import EXACT

ROWS = 8  # inputs whose columns are gathered together
GROUP = 8  # inputs of a tensor whose sum is formed together


def mix(
    columns: jax.Array, activation: jax.Array, index: jax.Array, used: int | None = None
) -> jax.Array:
    """Return sum over K and a of activation (a, B, K) x columns (N, a, V), float32 (B, V).

    used: that many neighbouring columns of a tensor have a weight, None for all; a CPU reads no
    others.
    """
    slices = functools.partial(_mix_slices, used or columns.shape[1])
    return lax.platform_dependent(
        columns, jnp.moveaxis(activation, 1, 0), index, cpu=slices, default=_mix_gathered
    )


def respond(
    columns: jax.Array,
    coefficients: jax.Array,
    g: jax.Array,
    index: jax.Array,
    used: int | None = None,
) -> jax.Array:
    """Return the product of g with combinations of the columns of each chosen tensor.

    Args:
      columns: (N, a, V).
      coefficients: float32 (n, a, B, K), n combinations.
      g: float32 (B, V).
      index: int32 (B, K).
      used: see `mix`.

    Returns:
      float32 (n, B, K).
    """
    by_row = jnp.moveaxis(coefficients, 2, 0)
    slices = functools.partial(_respond_slices, used or columns.shape[1])
    e = lax.platform_dependent(columns, by_row, g, index, cpu=slices, default=_respond_gathered)
    return jnp.moveaxis(e, 1, 0)


def sum_by_tensor(weights: jax.Array, rows: jax.Array, index: jax.Array, tensors: int) -> jax.Array:
    """Return the weighted sums of the rows that each tensor answers.

    Args:
      weights: float32 (n, B, K).
      rows: float32 (B, V).
      index: int32 (B, K), distinct in a row.
      tensors: N.

    Returns:
      float32 (N, n, V).
    """
    forms = (functools.partial(form, tensors) for form in (_sum_groups, _sum_scattered))
    grouped, scattered = forms
    return lax.platform_dependent(weights, rows, index, cpu=grouped, default=scattered)


def _at(*starts):
    """Return the starts of a slice as int32: with x64, numbers would be int64, and not fit."""
    return tuple(jnp.asarray(start, jnp.int32) for start in starts)


def _slice(used, columns, i, first):
    part = lax.dynamic_slice(columns, _at(i, first, 0), (1, used, columns.shape[2]))
    return part[0].astype(jnp.float32)


def _narrowed(used, weights):
    """Return (the `used` neighbours among weights (n, a, K) that may differ from 0, the first)."""
    start, taken = jnp.zeros(weights.shape[2:], jnp.int32), weights[:, :used]
    for a in range(1, weights.shape[1] - used + 1):
        right = ~jnp.any(weights[:, :a] != 0.0, (0, 1))
        start = jnp.where(right, a, start)
        taken = jnp.where(right[None, None], weights[:, a : a + used], taken)
    return taken, start


def _at_once(chosen: int, most: int) -> int:
    return next(n for n in (8, 4, 2, 1) if n <= most and chosen % n == 0)


def _weighted(weights, columns):
    """Return the sum of weights (a,) x columns (a, V), as a chain of products that can be fused."""
    return sum(weights[a] * columns[a] for a in range(len(columns)))


def _mix_slices(used, columns, activation, index):
    step = _at_once(index.shape[1], 8)

    def one(row):
        activation, index = row
        activation, first = _narrowed(used, activation[None])

        def some(j, y):
            for k in range(step):
                k = j * step + k
                y = y + _weighted(activation[0, :, k], _slice(used, columns, index[k], first[k]))
            return y

        zeros = jnp.zeros(columns.shape[2:], jnp.float32)
        return lax.fori_loop(0, len(index) // step, some, zeros)

    return lax.map(one, (activation, index))


def _mix_gathered(columns, activation, index):
    def one(row):
        chosen = columns[row[1]].astype(jnp.float32)
        return jnp.einsum("ak,kav->v", row[0], chosen, precision=EXACT)

    return lax.map(one, (activation, index), batch_size=min(ROWS, len(index)))


def _respond_slices(used, columns, coefficients, g, index):
    step = _at_once(index.shape[1], 4)
    count = coefficients.shape[1]

    def one(row):
        coefficients, g, index = row
        coefficients, first = _narrowed(used, coefficients)

        def some(j, e):
            vectors = []
            for k in range(step):
                k = j * step + k
                own = _slice(used, columns, index[k], first[k])
                vectors += [_weighted(coefficients[n, :, k], own) for n in range(count)]
            part = jnp.dot(jnp.stack(vectors), g, precision=EXACT).reshape(step, count)
            return lax.dynamic_update_slice(e, part, _at(j * step, 0))

        zeros = jnp.zeros((len(index), count), jnp.float32)
        return lax.fori_loop(0, len(index) // step, some, zeros).T

    return lax.map(one, (coefficients, g, index))


def _respond_gathered(columns, coefficients, g, index):
    def one(row):
        coefficients, g, index = row
        e = jnp.einsum("v,kav->ak", g, columns[index].astype(jnp.float32), precision=EXACT)
        return jnp.sum(coefficients * e[None], 1)

    return lax.map(one, (coefficients, g, index), batch_size=min(ROWS, len(index)))


def _sum_scattered(tensors, weights, rows, index):
    def add(sums, row):
        weights, row, index = row
        return sums.at[index].add(weights.T[..., None] * row[None, None]), None

    sums = jnp.zeros((tensors, len(weights), rows.shape[1]), jnp.float32)
    return lax.scan(add, sums, (jnp.moveaxis(weights, 1, 0), rows, index))[0]


def _sum_groups(tensors, weights, rows, index):
    """Sort the pairs of an input and a tensor by tensor, and sum some of the same at a time."""
    count, chosen = len(weights), index.shape[1]
    weights = weights.reshape(count, -1)
    # Pairs without weight come last and belong to no tensor.
    tensor = jnp.where(jnp.any(weights != 0.0, 0), index.reshape(-1), tensors)
    order = jnp.argsort(tensor).astype(jnp.int32)
    every = jnp.arange(tensors + 1, dtype=jnp.int32)
    first = jnp.searchsorted(tensor[order], every).astype(jnp.int32)
    groups = -(-(first[1:] - first[:-1]) // GROUP)
    ends = jnp.cumsum(groups, dtype=jnp.int32)
    number = jnp.arange(tensor.size // GROUP + tensors, dtype=jnp.int32)
    owner = jnp.searchsorted(ends, number, side="right").astype(jnp.int32)
    owner = jnp.minimum(owner, tensors - 1)
    start = first[owner] + GROUP * (number - (ends - groups)[owner])
    order = jnp.pad(order, (0, GROUP))

    def add(j, sums):
        pair = lax.dynamic_slice(order, _at(start[j]), (GROUP,))
        own = start[j] + jnp.arange(GROUP, dtype=jnp.int32) < first[owner[j] + 1]
        weight = jnp.where(own[None], weights[:, pair], 0.0)
        part = lax.dynamic_slice(sums, _at(owner[j], 0, 0), (1, *sums.shape[1:]))
        for k in range(GROUP):
            row = lax.dynamic_slice(rows, _at(pair[k] // chosen, 0), (1, rows.shape[1]))
            part = part + (weight[:, k, None] * row)[None]
        return lax.dynamic_update_slice(sums, part, _at(owner[j], 0, 0))

    sums = jnp.zeros((tensors, count, rows.shape[1]), jnp.float32)
    return lax.fori_loop(0, ends[-1], add, sums)
