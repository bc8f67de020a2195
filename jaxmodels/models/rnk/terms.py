"""RNK's losses and metrics.

    total = token + 0.5 stop + 0.2 intent + 0.3 answerable + 0.1 contrastive

and, as options, a penalty on the number of stops, the ratio loss of learned chunks, and the
source's latent and relevance losses. The token loss is a mean over the bytes of responses, the
others are means over rows. The stop loss of a row is -log P(its number of chunks), if the head is
the chance that a response which has not ended yet ends in this chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.models.contract import Term, label_terms, num_targets, token_terms
from jaxmodels.models.rnk.chunking import Ends
from jaxmodels.ops import losses


class Responses(NamedTuple):
    """The chunks of a segment.

    Attributes:
      mean: (B, n, d), mean features of the bytes; it has read nothing but them.
      plan: (B, n, d), the plan after each chunk.
      answers: bool (B, n), chunks of the response to the row's last prompt.
      gates: (B, n, d), the refiner's, or None.
      index: int32 (B, T), the chunk before each byte, from 1; 0 if none in this segment, n + 1 if
        none in this document.
    """

    mean: jax.Array
    plan: jax.Array
    answers: jax.Array
    gates: jax.Array | None
    index: jax.Array


@struct.dataclass
class RNKOutput:
    """Predictions; leading axes (B, T) for bytes, in `step` (B,).

    Attributes:
      logits: float32 (B, T, V), of the next byte.
      stop: (B, T), logit that the response ends within the chunk of the next byte.
      ends: where chunks end, bool (B, T).
      context: (B, d), the Mamba's output at the end of the row's last prompt, else 0.
      intent: (B, intents), logits; answerable: (B,), logit; both read `context` alone.
      chance: (B, T), of learned boundaries, else None.
      chunks: the segment's chunks; None in `step`.
      latent: (B, n - 1, d), predicted next plans; relevance: (B, 2), logits that a response answers
        the row's prompt, of its own response and of another row's. Only with `extras`.
    """

    logits: jax.Array
    stop: jax.Array
    ends: Ends
    context: jax.Array
    intent: jax.Array
    answerable: jax.Array
    chance: jax.Array | None = None
    chunks: Responses | None = None
    latent: jax.Array | None = None
    relevance: jax.Array | None = None

    def map_tokens(self, function) -> "RNKOutput":
        """Apply a function to the arrays of bytes, in `step` all; see `jaxmodels.ragged`."""
        if self.chunks is None:
            return jax.tree.map(function, self)
        logits, stop, ends, chance, index = function(
            (self.logits, self.stop, self.ends, self.chance, self.chunks.index)
        )
        chunks = self.chunks._replace(index=index)
        return self.replace(logits=logits, stop=stop, ends=ends, chance=chance, chunks=chunks)

    @property
    def label_logits(self) -> dict[str, jax.Array]:
        """Return the logits of labelled losses, as `label_terms` reads them."""
        no = jnp.zeros_like(self.answerable)
        return {"intent": self.intent, "answerable": jnp.stack([no, self.answerable], -1)}


def response_of(out: RNKOutput) -> jax.Array:
    """Return the mean features (B, d) of the response, 0 without one."""
    weights = out.chunks.answers.astype(jnp.float32)[..., None]
    return jnp.sum(weights * out.chunks.mean, 1) / jnp.maximum(weights.sum(1), 1.0)


def stop_targets(config, ends: Ends, batch) -> jax.Array:
    """Return float32 (B, T): 1 where the response ends within the chunk of the target byte."""
    time = batch["targets"].shape[1]
    places = jnp.arange(time)[None]
    last = (batch["targets"] == config.end) & (batch["weights"] > 0)
    next_end = _next(jnp.where(last, places, 2 * time))
    # Target t is byte t + 1, so its chunk closes at the first end after t.
    closes = jnp.where(ends.closes, places, 2 * time)[:, 1:]
    next_close = _next(jnp.pad(closes, [(0, 0), (0, 1)], constant_values=2 * time))
    return (next_end + 1 <= next_close).astype(jnp.float32)


def _next(places):
    """Return the smallest value at or after each place."""
    return jax.lax.cummin(places, axis=1, reverse=True)


def terms_of(config) -> tuple[Term, ...]:
    """Return the terms of a model with this config."""
    c = config

    def stop(out, batch):
        labels = stop_targets(c, out.ends, batch)
        # Once per chunk, at its first byte, and not divided by their number: that would weigh ends
        # of short responses more than chunks of long ones, and the chance would be too large.
        starts = ((batch["weights"] > 0) & out.ends.closes).astype(jnp.float32)
        # -log sigmoid(logit) of the true class.
        nll = jax.nn.softplus(jnp.where(labels > 0, -out.stop, out.stop))
        return jnp.sum(starts * nll)

    terms = [
        *token_terms(),
        Term("stop", stop, _responses, c.stop_weight),
        *label_terms("intent", _intent, c.intent_weight),
        *label_terms("answerable", _answerable, c.answerable_weight),
        Term("contrastive", _contrastive(c.temperature), _responses, c.contrastive_weight),
    ]
    if c.consistency_weight:
        terms.append(Term("consistency", _consistency, _responses, c.consistency_weight))
    if c.chunking == "learned":
        ratio = _ratio(c.ratio_target)
        terms.append(Term("ratio", ratio, num_targets, c.ratio_weight))
    if c.latent_weight:
        terms.append(Term("latent", _latent, _responses, c.latent_weight))
    if c.relevance_weight:
        terms.append(Term("relevance", _relevance, _responses, c.relevance_weight))
    return tuple(terms)


def _intent(batch):
    return batch.get("intent")


def _answerable(batch):
    return batch.get("answerable")


def _has_response(batch):
    return (batch["weights"] > 0).any(1)


def _responses(batch):
    """Count the rows with a response."""
    return jnp.sum(_has_response(batch), dtype=jnp.float32)


def _contrastive(temperature):
    """Return InfoNCE of prompts and responses, the other rows' responses as negatives (R-17).

    The response's side has not read the prompt, or the loss would be trivial. Negatives are those
    of the device's rows.
    """

    def info_nce(out, batch):
        present = _has_response(batch)
        logits = losses.similarities(out.context, response_of(out), temperature)
        logits = jnp.where(present[None], logits, jnp.finfo(jnp.float32).min)
        rows = jnp.arange(len(present))
        return losses.cross_entropy_sum(logits, rows, present.astype(jnp.float32))

    return info_nce


def _consistency(out, batch):
    """Sum over rows of (expected number of stops - 1)^2, one vote per chunk of the response."""
    starts = (batch["weights"] > 0) & out.ends.closes
    stops = jnp.sum(jnp.where(starts, jax.nn.sigmoid(out.stop), 0.0), 1)
    return jnp.sum(jnp.where(_has_response(batch), jnp.square(stops - 1.0), 0.0))


def _ratio(target):
    """Return H-Net's ratio loss times the number of targets: least at one chunk in `target`."""

    def ratio(out, batch):
        weights = batch["weights"].astype(jnp.float32)
        count = jnp.maximum(weights.sum(), 1.0)
        share = jnp.sum(weights * (out.chance >= 0.5)) / count
        chance = jnp.sum(weights * out.chance) / count
        value = (target - 1.0) * share * chance + (1.0 - share) * (1.0 - chance)
        return weights.sum() * target / (target - 1.0) * value

    return ratio


def _latent(out, batch):
    """Sum over rows of the mean squared error of predicted next plans within the response."""
    both = (out.chunks.answers[:, 1:] & out.chunks.answers[:, :-1]).astype(jnp.float32)
    target = jax.lax.stop_gradient(out.chunks.plan[:, 1:])
    error = jnp.square(out.latent - target).mean(-1)
    mean = jnp.sum(both * error, 1) / jnp.maximum(both.sum(1), 1.0)
    return jnp.sum(jnp.where(_has_response(batch), mean, 0.0))


def _relevance(out, batch):
    """Sum over rows of the mean cross-entropy of both judgements."""
    nll = jax.nn.softplus(jnp.stack([-out.relevance[:, 0], out.relevance[:, 1]], 1)).mean(1)
    return jnp.sum(jnp.where(_has_response(batch), nll, 0.0))
