"""How HFT learns from a batch: local gradients, tensors put at contexts, and relocation.

Devices hold equal fields. Each forms the sums over its rows, one reduction adds them, and all take
the same step, with random bits from the number of the update: what is learned does not depend on
the number of devices, except for the order in which float32 sums are formed.
"""

import jax
import jax.numpy as jnp

from jaxmodels.cells.hypertensor import (
    Field,
    apply_gradients,
    combine,
    gradients,
    predict,
    read,
)
from jaxmodels.cells.hypertensor.field import store
from jaxmodels.cells.hypertensor.relocation import Queue, best_of, dead_tensors, plant, push
from jaxmodels.models.hft.config import HFTConfig
from jaxmodels.ops.losses import token_nll

SHOWN = 2.0  # nats by which a relocated tensor favours the target that was missed
FADE = 0.9  # of the losses in the queue, per update: what waits too long gives way


def learn(config: HFTConfig, field, compressor, queue: Queue, out, batch, axis_name: str):
    """Return (field, compressor, queue, tensors relocated) after a batch.

    Args:
      config: settings.
      field, compressor, queue: what is learned, equal on all devices; compressor may be None.
      out: the model's output for `batch`, with its readings.
      batch: this device's rows.
      axis_name: axis of the devices.
    """
    c = config
    targets = batch["targets"].reshape(-1)
    weights = batch["weights"].astype(jnp.float32).reshape(-1)
    logits = out.logits.reshape(len(targets), -1)
    loss = jnp.where(weights > 0, token_nll(logits, targets), 0.0)
    g = jax.nn.softmax(logits, -1) - jax.nn.one_hot(targets, c.vocab_size)
    g = jnp.where((weights > 0)[:, None], g * weights[:, None], 0.0)
    rows = jax.lax.psum(weights.sum(), axis_name)

    two = compressor is not None
    grads, dz = gradients(c.predictor, field, out.reading, out.inputs, g, loss, want_inputs=two)
    field = apply_gradients(c.predictor, field, jax.lax.psum(grads, axis_name), rows)
    if two:
        dy = dz[:, c.features :]
        firsts, _ = gradients(c.first, compressor, out.first, out.features, dy, loss)
        compressor = apply_gradients(c.first, compressor, jax.lax.psum(firsts, axis_name), rows)
    contexts = Queue(out.inputs, targets, loss)
    if c.seeding == "contexts":
        shape = batch["targets"].shape
        field = _seed(c, field, contexts, weights, shape, axis_name)
    moved = jnp.int32(0)
    if c.relocate_every:
        queue = _enqueue(c, queue, contexts, axis_name)
        due = field.updates % c.relocate_every == 0
        due &= field.updates > 2 * seeding_plan(c, batch["targets"].shape, axis_name)[1]
        field, queue, moved = jax.lax.cond(
            due, lambda f, q: relocate(c, f, q), lambda f, q: (f, q, jnp.int32(0)), field, queue
        )
    return field, compressor, queue, moved


def seeding_plan(config: HFTConfig, shape: tuple[int, int], axis_name: str) -> tuple[int, int]:
    """Return (contexts that an update seeds, updates in which all tensors get one).

    Args:
      config: settings.
      shape: (B, T) on this device.
      axis_name: axis of the devices.
    """
    count = jax.lax.axis_size(axis_name) * shape[0] * -(-shape[1] // config.seed_stride)
    return count, -(-config.tensors // count)


def _seed(c: HFTConfig, field: Field, contexts: Queue, weights, shape, axis_name) -> Field:
    """Put the next tensors at contexts of this batch, while there are tensors without one.

    Contexts are taken at every `seed_stride`-th position of every row, in the order of the global
    batch, so that they do not depend on the number of devices.
    """
    count, updates = seeding_plan(c, shape, axis_name)
    done = field.updates - 1  # updates before this one

    def pick(x):
        own = x.reshape(*shape, *x.shape[1:])[:, :: c.seed_stride]
        own = own.reshape(-1, *x.shape[1:])
        return jax.lax.all_gather(own, axis_name, tiled=True)

    def at_start(field):
        seen = jax.nn.one_hot(contexts.target, c.vocab_size) * weights[:, None]
        seen = jax.lax.psum(seen.sum(0), axis_name) + 1.0 / c.vocab_size
        columns = jnp.broadcast_to(jnp.log(seen / seen.sum()), field.columns.shape)
        return field.replace(columns=store(c.predictor, columns, field.updates, 32))

    def seed(field):
        field = jax.lax.cond(done == 0, at_start, lambda f: f, field)
        x, real = pick(contexts.x), pick(weights) > 0
        index = (done * count + jnp.arange(count)) % c.tensors
        keep = real & (done * count + jnp.arange(count) < c.tensors)
        if count > c.tensors:
            x, index, keep = x[: c.tensors], index[: c.tensors], keep[: c.tensors]
        outputs = predict(c.predictor, field, x)
        return plant(c.predictor, field, index, x, outputs, keep)

    # In updates: the number of contexts so far does not fit into int32 in a long run.
    return jax.lax.cond(done < updates, seed, lambda f: f, field)


def _enqueue(c: HFTConfig, queue: Queue, contexts: Queue, axis_name) -> Queue:
    """Merge the queue with the contexts of highest loss of all devices: each sends its best."""
    own = best_of(contexts, min(c.queue, len(contexts.loss)))
    every = jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), own)
    return push(queue.replace(loss=FADE * queue.loss), every)


def relocate(c: HFTConfig, field: Field, queue: Queue) -> tuple[Field, Queue, jax.Array]:
    """Move dead tensors to the contexts with the highest losses (F-15).

    A moved tensor says what the field said there, but for the target that was missed.

    Returns:
      (field, the queue without the contexts that got a tensor, number of tensors moved).
    """
    count = min(c.relocated, c.queue)
    index, dead = dead_tensors(field, count, c.dead_usage, c.dead_movement)
    first = jax.tree.map(lambda leaf: leaf[:count], queue)
    keep = dead & (first.loss > 0.0)
    x = first.x.astype(jnp.float32)
    outputs = combine(field, read(c.predictor, field, x))
    outputs += SHOWN * jax.nn.one_hot(first.target, c.vocab_size)
    field = plant(c.predictor, field, index, x, outputs, keep)
    loss = queue.loss.at[:count].set(jnp.where(keep, 0.0, first.loss))
    return field, queue.replace(loss=loss), jnp.sum(keep, dtype=jnp.int32)
