"""Sums over targets of which PRERNK makes its losses and metrics (P-11 to P-15)."""

import jax
import jax.numpy as jnp

from jaxmodels.models.contract import Term
from jaxmodels.ops import losses


def values_in(field, batch):
    """Return the values to predict, float32 (B, T, R), and their weights (B, T)."""
    weights, values = batch["weights"].astype(jnp.float32), batch[field]
    if field == "values":
        return values, weights
    return values[..., None].astype(jnp.float32), jnp.where(values >= 0, weights, 0.0)


def squared_error(field, out, batch):
    """Sum the squared errors of the predicted values."""
    values, weights = values_in(field, batch)
    error = jnp.square(out.values - values).mean(-1)
    return jnp.sum(jnp.where(weights > 0, error * weights, 0.0))


def num_values(field, batch):
    """Return the number of values to predict."""
    return jnp.sum(values_in(field, batch)[1])


def norm(level, out):
    """Return the norm of the abstraction at a level, (B, T)."""
    return jnp.sqrt(jnp.sum(jnp.square(jax.lax.stop_gradient(out.abstractions[level])), -1))


def participation(level, out):
    """Return the participation ratio of the abstraction at a level, (B, T)."""
    return losses.participation(jax.lax.stop_gradient(out.abstractions[level]))


def sparsity(kind, out):
    """Return the penalty on all abstractions, (B, T)."""
    penalty = (lambda a: jnp.abs(a).mean(-1)) if kind == "l1" else losses.entropy
    return sum(penalty(a) for a in out.abstractions)


def relation_labels(every, batch):
    """Return relation_labels after tokens n, 2n, ...: (B, T // n, S, K), or None."""
    labels = batch.get("relation_labels")
    return None if labels is None else labels[:, every - 1 :: every]


def targets_in(field, batch):
    """Return a field of the batch, or None."""
    return batch.get(field)


def exact_term(name, labels_of) -> Term:
    """Return the fraction of slots whose labelled roles are all predicted correctly."""

    def exact(out, batch):
        if (labels := labels_of(batch)) is None:
            return jnp.float32(0.0)
        correct = (jnp.argmax(out.label_logits[name], -1) == labels) | (labels < 0)
        return jnp.sum(correct.all(-1) & (labels >= 0).any(-1), dtype=jnp.float32)

    def count(batch):
        labels = labels_of(batch)
        slots = 0.0 if labels is None else jnp.sum((labels >= 0).any(-1), dtype=jnp.float32)
        return jnp.float32(slots)

    return Term(f"{name}_exact", exact, count)


def ramp(progress: jax.Array, kind: str, start: float) -> jax.Array:
    """Return the ramp from 0 at `start` to 1 at the end: "linear", "sigmoid" or "constant" (1)."""
    if kind == "constant":
        return jnp.ones_like(jnp.asarray(progress, jnp.float32))
    late = jnp.clip((progress - start) / (1.0 - start), 0.0, 1.0)
    if kind == "linear":
        return late
    low, high = jax.nn.sigmoid(-6.0), jax.nn.sigmoid(6.0)
    return (jax.nn.sigmoid(12.0 * late - 6.0) - low) / (high - low)
