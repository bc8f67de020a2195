"""The local update of a field: closed forms, no differentiation through a program.

With g = d loss / d y, E = g . C_i (3 values a tensor) and slopes d alpha / d d:

    C_i     <- w_i g alpha_i^T
    n_i     <- w_i (E . slope) x                delta_i <- w_i (E . slope)
    and, through the weights of a softmax over distances D, with q = E . alpha:
    dD_i     = -w_i (q_i - sum_j w_j q_j) / temperature

`gradients` equals automatic differentiation of the loss, with the weights held constant or not; the
set of the nearest is constant in both. Shapes as in `predict`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.cells.hypertensor.field import (
    Field,
    FieldConfig,
    check_closed_form,
    store,
    store_parameters,
    unit_rows,
)
from jaxmodels.cells.hypertensor.predict import Reading, combine, read, respond
from jaxmodels.cells.hypertensor.sparse import sum_by_tensor
from jaxmodels.cells.hypertensor.split import first_tensor
from jaxmodels.ops.common.precision import EXACT

EPS = 1e-6
MASS_LIMIT = 2.0**15  # a column remembers that many contexts: float16 ends at 65,504
USAGE_DECAY = 0.995  # of the statistics, per update, as in the source


@struct.dataclass
class Gradients:
    """Sums over rows of the gradients of a loss, and of statistics; all float32.

    N tensors, or those of a device's part of the field.

    Attributes:
      columns: (N, 3, V).
      normal: (N, d) and offset: (N,), or None without `geometry_rate`.
      mass: (N, 3), weight that each column had.
      error: (N,), weighted sum of the rows' losses.
    """

    columns: jax.Array
    normal: jax.Array | None
    offset: jax.Array | None
    mass: jax.Array
    error: jax.Array


def gradients(
    config: FieldConfig,
    field: Field,
    reading: Reading,
    x: jax.Array,
    g: jax.Array,
    loss: jax.Array | None = None,
    weights: jax.Array | None = None,
    *,
    want_inputs: bool = False,
) -> tuple[Gradients, jax.Array | None]:
    """Return the gradients of a field and, if wanted, of its inputs.

    Args:
      config: settings; `geometry_rate` 0 skips normals and offsets.
      field: the field that was read.
      reading: of x.
      x: float32 (B, d).
      g: float32 (B, V), gradient of the loss of each row; 0 in rows that do not count.
      loss: float32 (B,), for the statistics; None for 0.
      weights: float32 (B,), how much each row counts in mass and error; `g` holds them already.
        None: 1 where g is not 0.
      want_inputs: also return d loss / d x.

    Returns:
      (gradients, float32 (B, d) or None).
    """
    c, index, tensors = config, reading.index, len(field.offset)
    weights = jnp.any(g != 0.0, -1).astype(jnp.float32) if weights is None else weights
    counts = weights[:, None]
    loss = jnp.zeros(len(x), jnp.float32) if loss is None else loss
    normal = offset = dx = None
    numbers = [*(reading.activation * counts[None]), reading.weight * (counts * loss[:, None])]
    if c.geometry_rate or want_inputs:
        by_projected, by_offset, by_square, pull = _geometry(c, field, reading, g)
    if c.geometry_rate:
        numbers += [by_offset, by_square]
    numbers = _count(jnp.stack(numbers), index, tensors)
    if c.geometry_rate:
        normal = _spread(by_projected, x, index, tensors)
        normal += 2.0 * numbers[:, 5:] * field.normal.astype(jnp.float32)
        offset = numbers[:, 4]
    if want_inputs:
        dx = _of_inputs(field, reading, x, by_projected, pull)
    columns = _columns(reading, g, index, tensors)
    return Gradients(columns, normal, offset, mass=numbers[:, :3], error=numbers[:, 3]), dx


def _columns(reading, g, index, tensors):
    activation = reading.activation
    if index is None:
        return jnp.stack([jnp.dot(activation[a].T, g, precision=EXACT) for a in range(3)], 1)
    return sum_by_tensor(activation, g, index, tensors)


def _geometry(c: FieldConfig, field: Field, reading: Reading, g):
    """Return the derivatives of the loss along n . x, delta, |n|^2 and |x|^2 / 2, each (B, K)."""
    wanted = [reading.slope, reading.alpha] if c.through_weights else [reading.slope]
    e = respond(field, reading, jnp.stack(wanted), g)
    by_signed = reading.weight * e[0]
    if not c.through_weights:
        none = jnp.zeros_like(by_signed)
        return by_signed, by_signed, none, none
    check_closed_form(c)
    q = e[1]
    mean = reading.total(jnp.sum(reading.weight * q, -1, keepdims=True))
    near = jnp.isfinite(reading.distance)
    d = jnp.where(near, reading.distance, 1.0)
    # d loss / d D over D: normals, offsets and inputs enter D^2 / 2.
    pull = jnp.where(near, -reading.weight * (q - mean) / (c.temperature * d), 0.0)
    offset, square = _offset_and_square(field, reading)
    return (
        by_signed + pull * offset,
        by_signed + pull * (reading.projected + offset * square),
        0.5 * pull * offset * offset,
        pull,
    )


def _offset_and_square(field, reading):
    normal = field.normal.astype(jnp.float32)
    offset, square = field.offset.astype(jnp.float32), jnp.sum(normal * normal, -1)
    if reading.index is None:
        shape = reading.projected.shape
        return jnp.broadcast_to(offset[None], shape), jnp.broadcast_to(square[None], shape)
    return offset[reading.index], square[reading.index]


def _of_inputs(field, reading, x, by_projected, pull):
    if reading.index is not None:
        by_projected = _dense(by_projected, reading.index, len(field.normal))
    along = jnp.einsum("bn,nd->bd", by_projected, field.normal.astype(jnp.float32), precision=EXACT)
    return reading.total(along + pull.sum(-1, keepdims=True) * x)


def _spread(values, x, index, tensors):
    """Return the sum over rows of values (B, K) times x (B, d), by tensor: (N, d)."""
    if index is not None:
        return sum_by_tensor(values[None], x, index, tensors)[:, 0]
    return jnp.einsum("bn,bd->nd", values, x, precision=EXACT)


def _count(values, index, tensors):
    """Return the sums over rows of values (n, B, K) by tensor: (N, n)."""
    if index is None:
        return values.sum(1).T
    sums = jnp.zeros((tensors, len(values)), jnp.float32)
    return sums.at[index].add(jnp.moveaxis(values, 0, -1))


def _dense(values, index, tensors):
    rows = jnp.broadcast_to(jnp.arange(len(values))[:, None], index.shape)
    return jnp.zeros((len(values), tensors), jnp.float32).at[rows, index].add(values)


def apply_gradients(
    config: FieldConfig, field: Field, grads: Gradients, rows: float = 1.0
) -> Field:
    """Take one step against gradients that are sums over rows, and update the statistics.

    Args:
      config: settings.
      field: the field.
      grads: of all rows, over all devices.
      rows: number of rows, for the decaying statistics, which are per row.

    Returns:
      The new field, in its dtype of storage.
    """
    c, counter, first = config, field.updates, first_tensor(config, field)
    # Beyond the limit steps shrink no more, and what was learned earlier is forgotten.
    mass = jnp.minimum(field.mass.astype(jnp.float32) + grads.mass, MASS_LIMIT)
    columns = field.whole("columns") - c.rate * _scaled(c, grads.columns, mass, grads.mass)
    parameters = {"columns": (columns, 1)}
    new = {"mass": store(c, mass, counter, 2, first)}
    movement = jnp.sqrt(jnp.sum(jnp.square(grads.columns), (1, 2)))
    if c.geometry_rate:
        normal, offset, travel = _moved(c, field, grads)
        parameters |= {"normal": (normal, 8), "offset": (offset, 9)}
        new["travel"] = store(c, travel, counter, 10, first)
    new |= store_parameters(c, field, parameters, first)
    used = grads.mass.sum(1)
    heard = used > 0.0
    share = jnp.where(heard, used / (used + rows / c.tensors), 0.0)
    error = field.error.astype(jnp.float32)
    error += share * (jnp.where(heard, grads.error / jnp.maximum(used, EPS), 0.0) - error)
    for stream, (name, value) in enumerate(
        (
            ("usage", _decayed(field.usage) + (1.0 - USAGE_DECAY) * used),
            ("movement", _decayed(field.movement) + (1.0 - USAGE_DECAY) * movement),
            ("error", error),
        )
    ):
        new[name] = store(c, value, counter, 5 + stream, first)
    return field.replace(**new, updates=counter + 1)


def _moved(c: FieldConfig, field: Field, grads: Gradients) -> tuple[jax.Array, ...]:
    """Return normal, offset and travel after a step, float32.

    A step divided by the root of the summed squares cannot exceed the rate: near ties of distances,
    where the gradient through the weights is large, tensors would otherwise be thrown away.
    """
    squares = jnp.sum(jnp.square(grads.normal), 1) + jnp.square(grads.offset)
    travel = jnp.sqrt(jnp.square(field.travel.astype(jnp.float32)) + squares)
    rate = c.geometry_rate * jnp.ones_like(travel)
    if c.step != "fixed":
        rate = rate / jnp.maximum(travel, EPS)
    before = field.whole("normal")
    normal = unit_rows(before - rate[:, None] * grads.normal)
    # Stored normals are not quite of unit length: scaled and rounded anew, silent ones would drift.
    normal = jnp.where((squares > 0.0)[:, None], normal, before)
    return normal, field.whole("offset") - rate * grads.offset, travel


def _decayed(statistic):
    return USAGE_DECAY * statistic.astype(jnp.float32)


def _scaled(c: FieldConfig, gradient, mass, batch):
    """Divide a gradient (N, a, n) as the step rule says, by mass (N, a) of all or of this batch."""
    if c.step == "fixed":
        return gradient
    divisor = batch + EPS if c.step == "normalized" else (1.0 + mass) ** c.power
    return gradient / divisor[..., None]


def update_rows(config: FieldConfig, field: Field, x: jax.Array, loss_of, candidates=None):
    """Learn from one input, touching only the tensors that answer it: the source's rule, in place.

    For fields too large to form sums over all tensors: with a donated `field`, memory beyond it is
    a few rows. Equal to `gradients` and `apply_gradients` of a batch of one, except that `usage`
    and `movement` of the other tensors do not decay, and but for the random bits.

    Args:
      config: settings.
      field: the field.
      x: float (d,).
      loss_of: y (V,) -> (loss, d loss / d y (V,)).
      candidates: int32 (M,), see `read`.

    Returns:
      (field, loss).
    """
    x = x.astype(jnp.float32)[None]
    among = None if candidates is None else candidates[None]
    reading = read(config, field, x, sparse=True, candidates=among)
    loss, g = loss_of(combine(field, reading)[0])
    index = reading.index[0]
    few = dataclasses.replace(config, tensors=len(index))
    counter, arrays = field.updates, field.replace(updates=())
    rows = jax.tree.map(lambda leaf: leaf[index], arrays).replace(updates=counter)
    grads, _ = gradients(few, rows, reading.replace(index=None), x, g[None], loss[None])
    rows = apply_gradients(few, rows, grads, len(index) / config.tensors)  # 1 / N of a row each
    # A missing candidate is read as tensor 0, which may be among the others; it is not written.
    beyond = config.tensors + jnp.arange(len(index))
    place = jnp.where(jnp.isfinite(reading.distance[0]), index, beyond)
    new = jax.tree.map(
        lambda leaf, row: leaf.at[place].set(row, mode="drop", unique_indices=True),
        arrays,
        rows.replace(updates=()),
    )
    return new.replace(updates=rows.updates), loss
