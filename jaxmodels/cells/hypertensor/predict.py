"""Prediction of a field: the nearest tensors, their weights, and the sum of what they say.

    d_i = n_i . x + delta_i ;  D_i = |x + delta_i n_i|
    w   = softmax(-D / temperature) over the K nearest
    y   = sum_i w_i C_i alpha(d_i)

Two forms of the same function. `index` None: every tensor is evaluated, the others at weight 0, as
products of matrices. `index` (B, K): only the rows of the chosen tensors are read (`sparse.py`).
Shapes: B rows, N tensors, K of them chosen (N without `index`), d inputs, V outputs.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.cells.hypertensor import sparse as sparse_products
from jaxmodels.cells.hypertensor.field import Field, FieldConfig
from jaxmodels.cells.hypertensor.split import AXIS, agreed, first_tensor, is_split
from jaxmodels.ops.common.precision import EXACT
from jaxmodels.ops.field import ONE_SIDED, distance, interpolate, weigh

BLOCK = 8000  # tensors that are converted to float32 together, in a large field
ROWS = 8  # inputs whose candidates are gathered together


@struct.dataclass
class Reading:
    """How a field answers inputs, float32.

    Attributes:
      index: int32 (B, K), the tensors; None if all N are evaluated.
      weight: (B, K), summing to 1.
      distance: (B, K), by which they were chosen; inf for those that were not.
      projected: (B, K), n . x.
      alpha: (3, B, K), weights of the columns; slope: their derivative along the signed distance.
      split: whether these are the tensors of one device out of several, see `split.py`. The weights
        of a row then sum to 1 over all of them.
      used: number of neighbouring columns of a tensor that can have a weight, 2 or 3.
    """

    index: jax.Array | None
    weight: jax.Array
    distance: jax.Array
    projected: jax.Array
    alpha: jax.Array
    slope: jax.Array
    split: bool = struct.field(pytree_node=False, default=False)
    used: int = struct.field(pytree_node=False, default=3)

    @property
    def activation(self) -> jax.Array:
        """Return the weight of each column in the output, (3, B, K), summing to 1."""
        return self.weight[None] * self.alpha

    def total(self, x: jax.Array) -> jax.Array:
        """Return the sum of x, from this device's tensors, over the devices of a split field."""
        return jax.lax.psum(x, AXIS) if self.split else x


def read(
    config: FieldConfig, field: Field, x: jax.Array, *, sparse: bool = False, candidates=None
) -> Reading:
    """Find the tensors that answer x, and their weights.

    Args:
      config: settings of the field.
      field: the field, or this device's part of one (`split.py`), which is read `sparse` always.
      x: float (B, d).
      sparse: return an index of K tensors instead of all N, in the order of their distance.
      candidates: int32 (B, M), the only tensors to consider, from a coarse quantizer; -1 for none.
        Implies `sparse`.

    Returns:
      The reading. Of equal distances at rank K, the tensor with the lower number answers.
    """
    c = config
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, -1, keepdims=True)
    if candidates is not None:
        return _read_candidates(c, field, x, square, candidates)
    sparse = sparse or is_split(c, field)
    projected, normal_square = _projected(field, x, in_blocks=sparse and len(field.offset) > BLOCK)
    offset = field.offset.astype(jnp.float32)[None]
    far = distance(c.distance, projected, square, offset, normal_square[None])
    if sparse:
        return _nearest(c, field, far, projected, None)
    if c.nearest < c.tensors:
        order = jax.lax.top_k(jax.lax.stop_gradient(-far), c.nearest)[1]
        rows = jnp.arange(len(far))[:, None]
        near = jnp.zeros(far.shape, bool).at[rows, order].set(True, unique_indices=True)
        far = jnp.where(near, far, jnp.inf)
    bands = jnp.broadcast_to(field.bands.astype(jnp.float32)[None], (*far.shape, 2))
    alpha, slope = interpolate(projected + offset, bands, c.interpolation)
    return Reading(None, weigh(c.weighting, far, c.temperature), far, projected, alpha, slope)


def _projected(field, x, in_blocks):
    """Return n . x (B, N) and |n|^2 (N,); in blocks, no float32 copy of all normals is made."""

    if in_blocks:

        def of(normal):
            normal = normal.astype(jnp.float32)
            along = jnp.einsum("bd,d->b", x, normal, precision=EXACT)
            return along, jnp.sum(normal * normal, -1)

        along, square = jax.lax.map(of, field.normal, batch_size=BLOCK)
        return along.T, square
    normal = field.normal.astype(jnp.float32)
    along = jnp.einsum("bd,nd->bn", x, normal, precision=EXACT)
    return along, jnp.sum(normal * normal, -1)


def _read_candidates(config, field, x, square, candidates):
    tensors = len(field.offset)
    candidates = jnp.where(candidates < 0, -1, candidates - first_tensor(config, field))
    missing = (candidates < 0) | (candidates >= tensors)
    safe = jnp.clip(candidates, 0, tensors - 1)

    def of(row):
        normal = field.normal[row[1]].astype(jnp.float32)
        return jnp.einsum("d,md->m", row[0], normal, precision=EXACT), jnp.sum(normal * normal, -1)

    projected, normal_square = _by_rows(of, (x, safe))
    offset = field.offset[safe].astype(jnp.float32)
    far = distance(config.distance, projected, square, offset, normal_square)
    return _nearest(config, field, jnp.where(missing, jnp.inf, far), projected, safe)


def _nearest(config, field, far, projected, among):
    count = min(config.nearest, far.shape[1])
    order = jax.lax.top_k(jax.lax.stop_gradient(-far), count)[1]
    far = jnp.take_along_axis(far, order, 1)
    projected = jnp.take_along_axis(projected, order, 1)
    index = order if among is None else jnp.take_along_axis(among, order, 1)
    signed = projected + field.offset[index].astype(jnp.float32)
    bands = field.bands[index].astype(jnp.float32)
    alpha, slope = interpolate(signed, bands, config.interpolation)
    split, used = is_split(config, field), 2 if config.interpolation in ONE_SIDED else 3
    if split:
        weight, far = agreed(config, far)
    else:
        weight = weigh(config.weighting, far, config.temperature)
    return Reading(index, weight, far, projected, alpha, slope, split, used)


def combine(field: Field, reading: Reading) -> jax.Array:
    """Return the output y, float32 (B, V)."""
    if reading.index is None:
        columns = field.columns.astype(jnp.float32)
        parts = (jnp.dot(reading.activation[a], columns[:, a], precision=EXACT) for a in range(3))
        return sum(parts)
    own = sparse_products.mix(field.columns, reading.activation, reading.index, reading.used)
    return reading.total(own)


def predict(config: FieldConfig, field: Field, x: jax.Array, *, sparse: bool = False) -> jax.Array:
    """Return the output for x (B, d), float32 (B, V)."""
    return combine(field, read(config, field, x, sparse=sparse))


def respond(field: Field, reading: Reading, coefficients: jax.Array, g: jax.Array) -> jax.Array:
    """Return g (B, V) times n combinations of columns, by coefficients (n, 3, B, K): (n, B, K)."""
    if reading.index is None:
        columns = field.columns.astype(jnp.float32)
        e = jnp.stack([jnp.dot(g, columns[:, a].T, precision=EXACT) for a in range(3)])
        return jnp.sum(coefficients * e[None], 1)
    return sparse_products.respond(field.columns, coefficients, g, reading.index, reading.used)


def _by_rows(function, rows):
    """Map over rows, a few at a time: what is gathered for all would not fit into memory."""
    return jax.lax.map(function, rows, batch_size=min(ROWS, len(rows[0])))
