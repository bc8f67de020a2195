"""How HFT learns from a batch: local gradients, tensors put at contexts, and relocation.

Devices hold equal fields, or equal parts of one (`cells/hypertensor/split.py`). Each forms the sums
over its rows, one reduction adds them, and all take the same step, with random bits from the number
of the update: what is learned does not depend on the number of devices, except for the order in
which float32 sums are formed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.cells.hypertensor import (
    Field,
    FieldConfig,
    apply_gradients,
    gradients,
    predict,
)
from jaxmodels.cells.hypertensor.candidates import Quantizer, build_quantizer
from jaxmodels.cells.hypertensor.field import store_parameters
from jaxmodels.cells.hypertensor.relocation import (
    Queue,
    best_of,
    dead_tensors,
    k_means,
    plant,
    push,
)
from jaxmodels.cells.hypertensor.split import first_tensor
from jaxmodels.models.hft.config import HFTConfig
from jaxmodels.models.hft.context import SEED
from jaxmodels.ops.common.precision import EXACT
from jaxmodels.ops.losses import token_nll

SHOWN = 2.0  # nats by which a relocated tensor favours the target that was missed
FADE = 0.9  # of the losses in the queue, per update: what waits too long gives way


def learn(config: HFTConfig, field, compressor, queue: Queue, seeded, out, batch, axis_name: str):
    """Return (field, compressor, queue, seeded, tensors relocated) after a batch.

    Args:
      config: settings.
      field, compressor, queue: what is learned, equal on all devices; compressor may be None.
      seeded: int32 scalar, tensors that were put at contexts so far.
      out: the model's output for `batch`, with its readings.
      batch: this device's rows.
      axis_name: axis of the devices.
    """
    c = config
    targets = batch["targets"].reshape(-1)
    weights = batch["weights"].astype(jnp.float32).reshape(-1)
    logits = out.logits.reshape(len(targets), -1)
    loss = jnp.where(weights > 0, token_nll(logits, targets), 0.0)
    wanted = batch.get("teacher")  # probabilities (B, T, V) to match instead of the targets
    taught = wanted is not None
    wanted = wanted if taught else jax.nn.one_hot(targets, c.vocab_size)
    wanted = wanted.reshape(logits.shape).astype(jnp.float32)
    g = jax.nn.softmax(logits, -1) - wanted
    g = jnp.where((weights > 0)[:, None], g * weights[:, None], 0.0)
    rows = jax.lax.psum(weights.sum(), axis_name)

    two = compressor is not None
    grads, dz = gradients(
        c.predictor, field, out.reading, out.inputs, g, loss, weights, want_inputs=two
    )
    field = apply_gradients(c.predictor, field, jax.lax.psum(grads, axis_name), rows)
    if two:
        dy = _compressor_gradient(c, dz[:, c.features :], out, batch, weights)
        firsts, _ = gradients(c.first, compressor, out.first, out.features, dy, loss, weights)
        compressor = apply_gradients(c.first, compressor, jax.lax.psum(firsts, axis_name), rows)
    contexts = Queue(out.inputs, targets, loss)
    if c.seeding != "random":
        places = functools.partial(
            _places, c, weights=weights, shape=batch["targets"].shape, axis_name=axis_name
        )
        if two:  # at the first batch, since the predictor's tensors are put where its outputs are
            compressor = jax.lax.cond(
                seeded == 0,
                lambda f: _plant_next(c.first, f, 0, *places(out.features))[0],
                lambda f: f,
                compressor,
            )
        seen = jnp.sum(wanted * weights[:, None], 0)
        field, seeded = _seed(c, field, seeded, contexts.x, seen, taught, places, axis_name)
    moved = jnp.int32(0)
    if c.relocate_every:
        queue = _enqueue(c, queue, contexts, axis_name)
        due = field.updates % c.relocate_every == 0
        if c.seeding != "random":
            due &= seeded >= c.tensors
        field, queue, moved = jax.lax.cond(
            due, lambda f, q: relocate(c, f, q), lambda f, q: (f, q, jnp.int32(0)), field, queue
        )
    return field, compressor, queue, seeded, moved


def _compressor_gradient(c: HFTConfig, by_prediction, out, batch, weights):
    """Return the gradient of the compressor's outputs (n, compressed), by what it learns from."""
    if c.compressor_learns == "prediction":
        return by_prediction
    y = out.inputs[:, c.features :]
    by_hidden = (y - stage_one_target(c, batch["hidden"].reshape(len(y), -1))) * weights[:, None]
    return by_hidden if c.compressor_learns == "hidden" else by_hidden + by_prediction


def stage_one_target(config: HFTConfig, hidden: jax.Array) -> jax.Array:
    """Return a fixed random projection of a teacher's vectors (..., h): float32 (..., compressed).

    It is what the source's first field is trained to give; its norm is about that of `hidden`.
    """
    size = (config.hidden_size, config.compressed)
    matrix = np.random.default_rng(SEED).standard_normal(size, np.float32)
    matrix *= config.compressed**-0.5
    return jnp.matmul(hidden.astype(jnp.float32), matrix, precision=EXACT)


def _seed(c: HFTConfig, field: Field, seeded, x, seen, taught: bool, places, axis_name):
    """Put the next tensors at contexts x of this batch, while there are tensors without one.

    All start at the batch's distribution, `seen` (V,): counts of targets, or a teacher's.
    """

    def at_start(field):
        counts = jax.lax.psum(seen, axis_name)
        # Good and Turing: what was not seen is as frequent as all that was seen once. A teacher
        # tells of everything.
        once = 1 if taught else jnp.maximum(jnp.sum((counts > 0.0) & (counts <= 1.0)), 1)
        counts += once / c.vocab_size
        columns = jnp.broadcast_to(jnp.log(counts / counts.sum()), field.columns.shape)
        first = first_tensor(c.predictor, field)
        new = store_parameters(c.predictor, field, {"columns": (columns, 32)}, first)
        return field.replace(**new)

    def seed(field):
        field = jax.lax.cond(seeded == 0, at_start, lambda f: f, field)
        field, count = _plant_next(c.predictor, field, seeded, *places(x))
        return field, seeded + count

    return jax.lax.cond(seeded < c.tensors, seed, lambda f: (f, seeded), field)


def _places(c: HFTConfig, x, weights, shape, axis_name):
    """Return (places for tensors (R, d), their weights (R,)) out of a batch's x (B T, d).

    They are every `seed_stride`-th position of every row, or the means of as many clusters of all
    positions; over all devices and in the order of the global batch, so that they do not depend on
    the number of devices.
    """

    def every(x, stride):
        own = x.reshape(*shape, *x.shape[1:])[:, ::stride]
        return jax.lax.all_gather(own.reshape(-1, *x.shape[1:]), axis_name, tiled=True)

    if c.seeding == "contexts":
        return every(x, c.seed_stride), every(weights, c.seed_stride)
    x, weights = every(x, 1), every(weights, 1)
    clusters = max(len(x) // c.seed_stride, 1)
    centres, labels = k_means(x, clusters, jax.random.key(SEED), weights=weights)
    return centres, jnp.zeros((clusters,), jnp.float32).at[labels].add(weights)


def _plant_next(config: FieldConfig, field: Field, seeded, x, weights):
    """Put tensors from number `seeded` on at inputs of positive weight: (field, how many)."""
    real = weights > 0
    index = seeded + jnp.cumsum(real) - 1
    keep = real & (index < config.tensors)
    index = jnp.where(keep, index, config.tensors + jnp.arange(len(index)))  # beyond the last
    first = jnp.argsort(~keep, stable=True)[: min(len(index), config.tensors)]
    x, index, keep = x[first], index[first], keep[first]
    field = plant(config, field, index, x, predict(config, field, x, sparse=True), keep)
    return field, jnp.sum(keep, dtype=jnp.int32)


def requantize(c: HFTConfig, field: Field, quantizer: Quantizer, seeded) -> Quantizer:
    """Sort the tensors into cells anew: when the last one is seeded, then every `rebuild_every`."""
    ready = jnp.bool_(True) if c.seeding == "random" else seeded >= c.tensors
    due = ready & ((quantizer.lost < 0) | (field.updates % c.rebuild_every == 0))
    key = jax.random.fold_in(jax.random.key(0), field.updates)

    def build(field, quantizer):
        del quantizer
        return build_quantizer(c.predictor, field, c.cells, key)

    return jax.lax.cond(due, build, lambda f, q: q, field, quantizer)


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
    index, dead = dead_tensors(c.predictor, field, count, c.dead_usage, c.dead_movement)
    first = jax.tree.map(lambda leaf: leaf[:count], queue)
    keep = dead & (first.loss > 0.0)
    x = first.x.astype(jnp.float32)
    outputs = predict(c.predictor, field, x, sparse=True)
    outputs += SHOWN * jax.nn.one_hot(first.target, c.vocab_size)
    field = plant(c.predictor, field, index, x, outputs, keep)
    loss = queue.loss.at[:count].set(jnp.where(keep, 0.0, first.loss))
    return field, queue.replace(loss=loss), jnp.sum(keep, dtype=jnp.int32)
