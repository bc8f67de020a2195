"""Sums over targets of which PRERNK makes its losses and metrics (P-11 to P-15)."""

import jax
import jax.numpy as jnp

from jaxmodels.models.contract import Term
from jaxmodels.ops import logic, losses


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


UNKNOWN = 2.0  # at a logit of 0, bounds are sigmoid(-2) and sigmoid(2): nearly [0, 1]


def bounds_terms(name, labels_of, weight, late) -> tuple[Term, ...]:
    """Return loss, accuracy and contradiction of bounds of truth, for a TensorLNN (P-12).

    `out.label_logits[name]` is (..., classes, 2): logits of the lower and the upper bound of "this
    slot and role holds this class". The loss of a label is -log lower of its class, minus the mean
    of log(1 - upper) over the others, plus the contradictions: bounds that cross, no class that may
    hold, and two classes that both hold. The class with the highest middle is the prediction.
    """

    def bounds(out):
        lower, upper = out.label_logits[name][..., 0], out.label_logits[name][..., 1]
        return lower - UNKNOWN, upper + UNKNOWN

    def crossing(lower, upper):
        lower, upper = jax.nn.sigmoid(lower), jax.nn.sigmoid(upper)
        none = 1.0 - logic.disjunction(upper)
        crossed = jnp.mean(logic.contradiction(lower, upper), -1)
        return crossed + none + logic.both_of_any_two(lower)

    def loss(labels, lower, upper):
        hit = labels[..., None] == jnp.arange(lower.shape[-1]).reshape((1,) * labels.ndim + (-1,))
        true = jnp.sum(jnp.where(hit, jax.nn.log_sigmoid(lower), 0.0), -1)
        false = jnp.sum(jnp.where(hit, 0.0, jax.nn.log_sigmoid(-upper)), -1)
        return crossing(lower, upper) - true - false / (lower.shape[-1] - 1)

    def correct(labels, lower, upper):
        middle = jax.nn.sigmoid(lower) + jax.nn.sigmoid(upper)
        return jnp.float32(jnp.argmax(middle, -1) == labels)

    def summed(value):
        def total(out, batch):
            if (labels := labels_of(batch)) is None:
                return jnp.float32(0.0)
            return jnp.sum(jnp.where(labels >= 0, value(labels, *bounds(out)), 0.0))

        return total

    def count(batch):
        labels = labels_of(batch)
        return jnp.float32(0.0 if labels is None else jnp.sum(labels >= 0, dtype=jnp.float32))

    return (
        Term(name, summed(loss), count, weight, late),
        Term(f"{name}_accuracy", summed(correct), count),
        Term(f"{name}_contradiction", summed(lambda _, *found: crossing(*found)), count),
    )


def ramp(progress: jax.Array, kind: str, start: float) -> jax.Array:
    """Return the ramp from 0 at `start` to 1 at the end: "linear", "sigmoid" or "constant" (1)."""
    if kind == "constant":
        return jnp.ones_like(jnp.asarray(progress, jnp.float32))
    late = jnp.clip((progress - start) / (1.0 - start), 0.0, 1.0)
    if kind == "linear":
        return late
    low, high = jax.nn.sigmoid(-6.0), jax.nn.sigmoid(6.0)
    return (jax.nn.sigmoid(12.0 * late - 6.0) - low) / (high - low)
