"""A field whose tensors are split over devices, along the mesh axis "tensor".

Of D devices, device p holds the tensors p N / D to (p + 1) N / D - 1, and N in the settings says
that there are more; all else is equal on the devices. An input is read by every device; each
proposes its K nearest tensors, and one collective tells all of them which K are the nearest of all.
Outputs are sums over devices. Nothing here communicates for a whole field.
"""

import jax
import jax.numpy as jnp

from jaxmodels.cells.hypertensor.field import Field, FieldConfig
from jaxmodels.ops.field import weigh

AXIS = "tensor"


def is_split(config: FieldConfig, field: Field) -> bool:
    """Return whether `field` is a device's part of the field."""
    return len(field.offset) < config.tensors


def first_tensor(config: FieldConfig, field: Field) -> int | jax.Array:
    """Return the number of the first tensor of `field`."""
    return jax.lax.axis_index(AXIS) * len(field.offset) if is_split(config, field) else 0


def total(config: FieldConfig, field: Field, x):
    """Return the sum over devices of what each has computed from its part, a pytree."""
    return jax.lax.psum(x, AXIS) if is_split(config, field) else x


def mean_of(config: FieldConfig, field: Field, x: jax.Array) -> jax.Array:
    """Return the mean over all tensors of x (tensors of the part,), float32 scalar."""
    return total(config, field, x.astype(jnp.float32).sum()) / config.tensors


def places(config: FieldConfig, field: Field, index: jax.Array) -> jax.Array:
    """Return the places of tensors in the part, int32 (R,).

    Those of tensors that other devices hold lie beyond its end and are distinct, so that nothing is
    written there.
    """
    if not is_split(config, field):
        return index
    own = len(field.offset)
    place = index - first_tensor(config, field)
    beyond = own + jnp.arange(len(index), dtype=place.dtype)
    return jnp.where((place >= 0) & (place < own), place, beyond)


def gather_rows(config: FieldConfig, field: Field, rows: jax.Array, index: jax.Array) -> jax.Array:
    """Return the rows (R, ...) of some tensors, out of the part's rows."""
    if not is_split(config, field):
        return rows[index]
    place = places(config, field, index)
    own = (place < len(rows)).reshape(-1, *[1] * (rows.ndim - 1))
    return jax.lax.psum(jnp.where(own, rows[jnp.minimum(place, len(rows) - 1)], 0), AXIS)


def every_row(config: FieldConfig, field: Field, rows: jax.Array) -> jax.Array:
    """Return the rows (N, ...) of all tensors, out of the part's rows."""
    return jax.lax.all_gather(rows, AXIS, tiled=True) if is_split(config, field) else rows


def smallest(config: FieldConfig, field: Field, values: jax.Array, count: int) -> tuple:
    """Return the `count` tensors with the smallest of values (tensors of the part,).

    Returns:
      (values (count,), smallest first; tensors int32 (count,); of equal ones the lower number).
    """
    near, index = jax.lax.top_k(-values, min(count, len(values)))
    if is_split(config, field):
        index = index + first_tensor(config, field)
        near, index = (jax.lax.all_gather(x, AXIS, tiled=True) for x in (near, index))
        near, order = jax.lax.top_k(near, count)
        index = index[order]
    return -near, index


def agreed(config: FieldConfig, distance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Agree with the other devices on the tensors that answer.

    Args:
      config: settings.
      distance: float32 (B, K), of the part's K nearest.

    Returns:
      (weight, distance) (B, K): weights among the nearest of all devices, 0 for the part's others,
      whose distances are infinite. Of equal distances, all devices form the same weights as one
      would; at rank K the tensor with the lower number answers.
    """
    count = distance.shape[1]
    every = jax.lax.all_gather(distance, AXIS, axis=1, tiled=True)
    order = jax.lax.top_k(jax.lax.stop_gradient(-every), min(config.nearest, every.shape[1]))[1]
    near = jnp.take_along_axis(every, order, 1)
    rows = jnp.arange(len(near))[:, None]
    start = jax.lax.axis_index(AXIS) * count

    def own(values, others):
        whole = jnp.full(every.shape, others, jnp.float32)
        whole = whole.at[rows, order].set(values, unique_indices=True)
        return jax.lax.dynamic_slice_in_dim(whole, start, count, 1)

    weight = weigh(config.weighting, near, config.temperature)
    return own(weight, 0.0), own(near, jnp.inf)
