"""Where tensors are put: at contexts, at the means of clusters, and anew where the loss is high.

A tensor at x has n = x / |x| and delta = -c |x|, so that its anchor is c x and, of inputs of equal
norm, the nearest anchor belongs to the nearest context. With c below 1 the plane lies between the
context and the origin: d is positive for similar inputs and negative for others, and all three
columns are used. (The source seeds n at a cluster's first principal direction, which puts the
anchor elsewhere: the nearest tensor is then that of the own cluster in 1 % of the cases.)
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.cells.hypertensor.field import Field, FieldConfig, store, unit_rows
from jaxmodels.cells.hypertensor.split import mean_of, places, smallest
from jaxmodels.errors import UserError
from jaxmodels.ops.common.precision import EXACT

CENTRE = 0.6  # c above: where a tensor's plane cuts the way from the origin to its context
TINY = 1e-30
BANDS = -0.6, 0.4  # over |x|: from orthogonal inputs to the context itself


def plant(
    config: FieldConfig,
    field: Field,
    index: jax.Array,
    x: jax.Array,
    outputs: jax.Array,
    keep: jax.Array,
) -> Field:
    """Put tensors at contexts.

    A tensor starts with the given output in all columns, without history: it learns quickly, and is
    not taken for dead before it has had as much usage as the mean tensor.

    Args:
      config: settings.
      field: the field.
      index: int32 (R,), tensors to replace, distinct.
      x: float (R, d), contexts.
      outputs: float (R, V); the field's own prediction changes the function least.
      keep: bool (R,), False leaves that tensor as it is.
    """
    c = config
    x = x.astype(jnp.float32)
    length = jnp.sqrt(jnp.sum(x * x, -1))
    keep = keep & (length > 0.0)
    columns = jnp.broadcast_to(outputs[:, None], (len(x), 3, c.outputs))
    mean = {name: mean_of(c, field, getattr(field, name)) for name in ("usage", "movement")}
    place = places(c, field, index)
    new = {
        "normal": unit_rows(x),
        "offset": -CENTRE * length,
        "bands": length[:, None] * jnp.array([BANDS]),
        "columns": columns,
        "mass": jnp.zeros((len(x), 3), jnp.float32),
        "usage": jnp.broadcast_to(mean["usage"], length.shape),
        "error": jnp.zeros_like(length),
        "movement": jnp.broadcast_to(mean["movement"], length.shape),
        "travel": jnp.zeros_like(length),
    }
    changed = {}
    for stream, (name, value) in enumerate(new.items()):
        old = getattr(field, name)
        mask = keep.reshape(-1, *[1] * (value.ndim - 1))
        value = jnp.where(mask, store(c, value, field.updates, 16 + stream), old[place])
        changed[name] = old.at[place].set(value, unique_indices=True)
    if field.rest is not None:  # what was left of the former tensors
        gone = jnp.where(keep, 0.0, 1.0).astype(c.dtype)

        def without(leaf):
            scale = gone.reshape(-1, *[1] * (leaf.ndim - 1))
            return leaf.at[place].multiply(scale, unique_indices=True)

        changed["rest"] = jax.tree.map(without, field.rest)
    return field.replace(**changed)


@struct.dataclass
class Queue:
    """The contexts with the highest losses seen, waiting for a tensor (F-15).

    Attributes:
      x: (Q, d), float16 or as the field is stored.
      target: int32 (Q,), what should have been predicted.
      loss: float32 (Q,), highest first; 0 for an empty place.
    """

    x: jax.Array
    target: jax.Array
    loss: jax.Array


def empty_queue(config: FieldConfig, size: int) -> Queue:
    """Return a queue of `size` empty places."""
    return Queue(
        x=jnp.zeros((size, config.inputs), config.dtype),
        target=jnp.zeros((size,), jnp.int32),
        loss=jnp.zeros((size,), jnp.float32),
    )


def best_of(queue: Queue, size: int) -> Queue:
    """Return the `size` entries with the highest losses, highest first."""
    order = jax.lax.top_k(queue.loss, size)[1]
    return jax.tree.map(lambda leaf: leaf[order], queue)


def push(queue: Queue, others: Queue) -> Queue:
    """Merge two queues into one of the first one's size."""
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), queue, others)
    return best_of(both, len(queue.loss))


def dead_tensors(config: FieldConfig, field: Field, count: int, usage: float, movement: float):
    """Return (the `count` tensors that are most nearly dead, which of them are: bool (count,)).

    Dead: usage below `usage` times the mean, or movement below `movement` times the mean; a factor
    of 0 switches that off.
    """

    def relative(statistic, limit):
        statistic = statistic.astype(jnp.float32)
        if not limit:
            return jnp.full_like(statistic, jnp.inf)
        mean = mean_of(config, field, statistic)
        return statistic / jnp.maximum(limit * mean, TINY)  # below 1: dead

    life = jnp.minimum(relative(field.usage, usage), relative(field.movement, movement))
    life, index = smallest(config, field, life, count)
    return index, life < 1.0


def k_means(
    x: jax.Array,
    clusters: int,
    key: jax.Array,
    rounds: int = 10,
    weights: jax.Array | None = None,
) -> tuple:
    """Cluster directions (spherical k-means): the seeds of a field, and a coarse quantizer.

    Args:
      x: float (n, d), n >= clusters.
      clusters: number of clusters.
      key: draws the first centres among the samples.
      rounds: of assigning samples and averaging.
      weights: float32 (n,), how much each sample counts; None for 1. Those of weight 0, padding,
        are the first centres only if there are no others.

    Returns:
      (centres float32 (clusters, d), the samples' mean in each; labels int32 (n,)).

    Raises:
      UserError: fewer samples than clusters.
    """
    if len(x) < clusters:
        raise UserError(f"k-means of {clusters} clusters needs as many samples, got {len(x)}")
    x = x.astype(jnp.float32)
    directions = unit_rows(x)
    weights = jnp.ones(len(x), jnp.float32) if weights is None else weights
    order = jax.random.permutation(key, len(x))
    start = order[jnp.argsort(weights[order] <= 0.0, stable=True)][:clusters]

    def nearest(centres):
        return jnp.argmax(jnp.einsum("nd,cd->nc", directions, centres, precision=EXACT), -1)

    def mean(labels, old):
        sums = jnp.zeros((clusters, x.shape[1]), jnp.float32).at[labels].add(weights[:, None] * x)
        counts = jnp.zeros((clusters,), jnp.float32).at[labels].add(weights)[:, None]
        return jnp.where(counts > 0.0, sums / jnp.where(counts > 0.0, counts, 1.0), old)

    def body(_, centres):
        return mean(nearest(unit_rows(centres)), centres)

    centres = jax.lax.fori_loop(0, rounds, body, x[start])
    return centres, nearest(unit_rows(centres))
