"""Search in large fields: candidates by a coarse quantizer (F-12).

Above some 20,000 tensors the distances to all of them cost more than the answer. A quantizer sorts
the anchors into cells of similar direction; an input looks only into the cells nearest to it, so
that time depends on cells and their capacity, not on N.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.cells.hypertensor.field import Field, FieldConfig, unit_rows
from jaxmodels.cells.hypertensor.relocation import k_means
from jaxmodels.cells.hypertensor.split import every_row, gather_rows
from jaxmodels.errors import UserError
from jaxmodels.ops.common.precision import EXACT


@struct.dataclass
class Quantizer:
    """Cells of tensors.

    Attributes:
      centres: (M, d), unit vectors, in the dtype of the field.
      members: int32 (M, capacity), tensors of each cell; -1 for an empty place.
      lost: int32 scalar, tensors that found no place: they are never candidates.
    """

    centres: jax.Array
    members: jax.Array
    lost: jax.Array


SLACK = 2.0  # capacity of a cell, in multiples of N / M
SAMPLE = 32_768  # most anchors that the centres are fitted on


def empty_quantizer(field: Field, cells: int) -> Quantizer:
    """Return a quantizer of the size of `build_quantizer`'s, with `lost` = -1: it is not built."""
    members = jnp.full((cells, _capacity(len(field.offset), cells, SLACK)), -1, jnp.int32)
    return Quantizer(jnp.zeros_like(field.normal[:cells]), members, jnp.int32(-1))


def build_quantizer(
    config: FieldConfig,
    field: Field,
    cells: int,
    key: jax.Array,
    slack: float = SLACK,
    sample: int = SAMPLE,
) -> Quantizer:
    """Sort the anchors of a field into cells.

    Args:
      config: settings.
      field: the field, or a device's part: all get the same cells. The anchors' directions are
        clustered.
      cells: M; with a constant number of tensors per cell, time hardly depends on N.
      key: draws the first centres.
      slack: capacity of a cell, in multiples of N / M.
      sample: most anchors that the centres are fitted on.

    Raises:
      UserError: more cells than tensors, or slack below 1.
    """
    tensors = config.tensors
    if not 1 <= cells <= min(tensors, sample):
        raise UserError(f"a quantizer has 1 to {min(tensors, sample)} cells, got {cells}")
    if slack < 1.0:
        raise UserError(f"slack must be 1 or more, or cells cannot hold all tensors; got {slack}")
    anchors = -field.offset.astype(jnp.float32)[:, None] * field.normal.astype(jnp.float32)
    step = -(-tensors // sample)
    some = gather_rows(config, field, anchors, jnp.arange(0, tensors, step))
    centres = unit_rows(k_means(some, cells, key)[0]).astype(field.normal.dtype)
    labels = jnp.argmax(_similarity(unit_rows(anchors), centres), -1)
    labels = every_row(config, field, labels)
    order = jnp.argsort(labels, stable=True)
    ordered = labels[order]
    starts = jnp.searchsorted(ordered, jnp.arange(cells))
    rank = jnp.arange(tensors) - starts[ordered]
    capacity = _capacity(tensors, cells, slack)
    members = jnp.full((cells, capacity), -1, jnp.int32)
    place = jnp.where(rank < capacity, rank, capacity)  # beyond the end: dropped
    members = members.at[ordered, place].set(order.astype(jnp.int32), mode="drop")
    return Quantizer(centres, members, jnp.sum(rank >= capacity, dtype=jnp.int32))


def _capacity(tensors: int, cells: int, slack: float) -> int:
    return int(-(-tensors * slack // cells))


def candidates(quantizer: Quantizer, x: jax.Array, probes: int) -> jax.Array:
    """Return the tensors of the `probes` nearest cells: int32 (B, probes capacity), -1 = none.

    Cells without tensors come last: an input that got no candidate at all would have no answer.
    """
    probes = min(probes, len(quantizer.centres))
    similarity = _similarity(x.astype(jnp.float32), quantizer.centres)
    similarity = jnp.where(quantizer.members[None, :, 0] >= 0, similarity, -jnp.inf)
    near = jax.lax.top_k(similarity, probes)[1]
    return quantizer.members[near].reshape(len(x), -1)


def _similarity(x, centres):
    return jnp.einsum("nd,cd->nc", x, centres.astype(jnp.float32), precision=EXACT)


def recall(found: jax.Array, exact: jax.Array) -> jax.Array:
    """Return the mean fraction of the exact K nearest (B, K) that were found (B, K')."""
    return (exact[:, :, None] == found[:, None, :]).any(-1).astype(jnp.float32).mean()
