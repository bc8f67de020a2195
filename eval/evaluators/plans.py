"""What the plans, gates and stop probabilities of an RNK are over held-out conversations.

spread       standard deviation of the plans that responses are begun from, over the root mean
             square of all plans: near 0, every prompt gets the same plan
between      share of their variance that lies between intents
points       their first two principal components, with the intent of each
chunks       by place of the chunk in its response: bits per byte, the refiner's mean gate, and
             the stop head's mean probability where the response ends in it and where it does not
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.data.chat.exchange import ChatRows
from jaxmodels.data.pairs.rows import evenly_spaced, row_eval_stream
from jaxmodels.models.rnk.chunking import of_bytes
from jaxmodels.models.rnk.model import RNK
from jaxmodels.models.rnk.terms import stop_targets
from jaxmodels.ops import losses

MOST = 512  # rows that are looked at
LONGEST = 8  # chunks of a response; later ones count as the last


def describe_plans(model, rows: ChatRows, batch_size: int) -> dict[str, Any] | None:
    """Return the statistics above over at most `MOST` of the rows; None unless the model plans."""
    if not isinstance(model, RNK):
        return None
    chosen = np.array(evenly_spaced(range(len(rows.kept)), MOST))
    rows = ChatRows(*(column[chosen] for column in rows))
    batches = row_eval_stream(rows, batch_size=min(batch_size, len(chosen)), prefetch=0)
    read = [jax.device_get(_read(model, batch)) for batch in batches]
    plans, norms, sums = (np.concatenate(part)[: len(chosen)] for part in zip(*read, strict=True))
    names = [model.config.intents[i] if i >= 0 else "other" for i in rows.intent]
    return plan_spread(plans, names, norms) | {"chunks": _by_chunk(sums.sum(0, dtype=np.float64))}


def plan_spread(plans: np.ndarray, names: list[str], squares: np.ndarray) -> dict[str, Any]:
    """Return spread, between and points of plans (n, d) with these intents.

    squares: (n,), the mean square of all plans of each row.
    """
    centred = plans - plans.mean(0)
    variance = float(np.square(centred).mean())
    scale = float(np.sqrt(squares.mean()))
    groups = [centred[[name == kind for name in names]] for kind in sorted(set(names))]
    within = sum(float(np.square(g - g.mean(0)).sum()) for g in groups) / centred.size
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points = (left * sizes)[:, :2]
    total = float(np.square(sizes).sum())
    return {
        "rows": len(plans),
        "rms": scale,
        "spread": float(np.sqrt(variance)) / scale if scale else 0.0,
        "between": 1.0 - within / variance if variance else 0.0,
        "explained": [float(s**2) / total if total else 0.0 for s in sizes[:2]],
        "points": [[*map(float, np.round(xy, 4)), n] for xy, n in zip(points, names, strict=True)],
    }


@jax.jit
def _read(model, batch):
    """Return plans (B, d) of first chunks, mean squares (B,), sums (B, LONGEST, kinds)."""
    weights, targets = batch["weights"], batch["targets"]
    state = model.initial_state(len(targets))
    _, out = model(state, batch["inputs"], batch["reset"])
    index, ends = out.chunks.index, out.ends
    target = weights > 0
    first = jnp.argmax(target, 1)[:, None]  # the byte before the response
    at = jnp.maximum(jnp.take_along_axis(index, first, 1)[:, :, None] - 1, 0)
    plan = jnp.take_along_axis(out.chunks.plan, at, 1)[:, 0]
    real = jnp.arange(out.chunks.plan.shape[1])[None] < index[:, -1:]
    square = jnp.sum(real * jnp.square(out.chunks.plan).mean(-1), 1) / jnp.maximum(real.sum(1), 1)

    # Chunks of the response from 0, at the byte before the target.
    place = jnp.clip(index - jnp.take_along_axis(index, first, 1), 0, LONGEST - 1)
    starts, last = target & ends.closes, stop_targets(model.config, ends, batch) > 0
    gates = jnp.zeros(index.shape)
    if out.chunks.gates is not None:
        gates = jax.vmap(of_bytes)(out.chunks.gates.mean(-1), index)
    chance = jax.nn.sigmoid(out.stop)
    nll = losses.token_nll(out.logits, targets)
    kinds = (target, target * nll, starts, starts * gates)
    kinds += (starts & last, (starts & last) * chance, (starts & ~last) * chance)
    one_hot = jax.nn.one_hot(place, LONGEST)
    values = jnp.stack([kind.astype(jnp.float32) for kind in kinds], -1)
    return plan, square, jnp.einsum("btl,btk->blk", one_hot, values, precision="highest")


def _by_chunk(sums: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for bytes_, nats, chunks, gate, last, stop_last, stop_before in sums.tolist():
        if not bytes_:
            continue
        before = chunks - last
        rows.append(
            {
                "bytes": int(bytes_),
                "bits_per_byte": nats / np.log(2.0) / bytes_,
                "chunks": int(chunks),
                "gate": gate / chunks if chunks else None,
                "last": last / chunks if chunks else None,
                "stop_if_last": stop_last / last if last else None,
                "stop_if_not": stop_before / before if before else None,
            }
        )
    return rows
