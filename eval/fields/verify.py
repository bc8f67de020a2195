"""What a trained field does: the checks F-24, F-25, F-27 and F-28 on held-out text.

sketches    variance and cosines of contexts, raw against projected; FAIL if off by a tenth
tensors     how often each answers and how far its inputs are; those that never answer
locality    share of the nearest tensors that neighbouring contexts have in common
features    R^2 of the model's logits from the projected contexts, by ridge regression
relocation  loss at missed contexts before and after dead tensors were moved there
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.cells.hypertensor import FieldConfig, predict, random_field, read
from jaxmodels.cells.hypertensor.relocation import Queue
from jaxmodels.models.hft.config import HFTConfig
from jaxmodels.models.hft.context import raw_entries
from jaxmodels.models.hft.learn import relocate
from jaxmodels.ops.losses import token_nll

LIMIT = 0.1  # by which a projection may change the variance or the cosines (F-24)
PAIRS, EVENTS = 2000, 256
PART = 1024  # contexts that are scored together


def sketch_check(
    config: HFTConfig, windows: jax.Array, positions: jax.Array, features: np.ndarray
) -> dict[str, Any]:
    """Compare contexts before and after the projection (F-24).

    Args:
      config: of the model; a block norm is part of what is checked.
      windows: int32 (n, L); positions: int32 (n,).
      features: float (n, d), their projections.

    Returns:
      Total variance projected / raw; mean and largest per-dimension variance, over their median;
      mean absolute error of cosines of random pairs; correlation of cosines; verdict.
    """
    ids, values = (np.asarray(x) for x in raw_entries(config, windows, positions))
    raw = [_merged(i, v) for i, v in zip(ids, values, strict=True)]
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, len(raw), (PAIRS, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    norms = np.array([np.sqrt(sum(v * v for v in r.values())) for r in raw])
    features = np.asarray(features, np.float64)
    lengths = np.linalg.norm(features, axis=1)
    exact = np.array([_inner(raw[a], raw[b]) / (norms[a] * norms[b]) for a, b in pairs])
    unit = features / np.maximum(lengths, 1e-12)[:, None]
    projected = np.einsum("nd,nd->n", unit[pairs[:, 0]], unit[pairs[:, 1]])
    mean_raw = _merged(ids.ravel(), values.ravel() / len(raw))
    total = float((norms**2).mean() - sum(v * v for v in mean_raw.values()))
    by_dimension = features.var(0)
    ratio = float(by_dimension.sum() / total)
    lost = float(np.abs(projected - exact).mean())
    return {
        "variance_ratio": ratio,
        "variance_max_over_median": float(by_dimension.max() / np.median(by_dimension)),
        "norm_error": float(np.abs(lengths / norms - 1.0).mean()),
        "cosine_error": lost,
        "cosine_correlation": float(np.corrcoef(projected, exact)[0, 1]),
        "verdict": "PASS" if abs(ratio - 1.0) < LIMIT and lost < LIMIT else "FAIL",
    }


def _merged(ids, values) -> dict[int, float]:
    """Return the non-zero entries of a raw vector, of equal ids the sum."""
    unique, place = np.unique(ids, return_inverse=True)
    sums = np.bincount(place, np.asarray(values, np.float64))
    return dict(zip(unique.tolist(), sums.tolist(), strict=True))


def _inner(a: dict[int, float], b: dict[int, float]) -> float:
    return sum(value * b[i] for i, value in a.items() if i in b)


def tensor_check(config: FieldConfig, field, x: jax.Array) -> dict[str, Any]:
    """Return how often tensors answer inputs x (n, d), and from how far (F-25)."""
    reading = jax.jit(lambda f, x: read(config, f, x, sparse=True))(field, x)
    index, signed = np.asarray(reading.index), np.asarray(reading.projected)
    signed = np.abs(signed + np.asarray(field.offset, np.float32)[index])
    counts = np.bincount(index.ravel(), minlength=config.tensors)
    heights, edges = np.histogram(np.log10(np.maximum(counts, 0.5)), bins=12)
    return {
        "contexts": len(index),
        "never_answering": float((counts == 0).mean()),
        "answers_of_the_busiest_percent": float(
            np.sort(counts)[-max(config.tensors // 100, 1) :].sum() / counts.sum()
        ),
        "mean_absolute_distance": float(signed.mean()),
        "effective_tensors": float((1 / np.square(np.asarray(reading.weight)).sum(1)).mean()),
        "log10_count_histogram": {"counts": heights.tolist(), "edges": edges.tolist()},
    }


def locality_check(config: FieldConfig, field, x: np.ndarray) -> dict[str, float]:
    """Return the share of nearest tensors in common with a neighbour, by its cosine (F-25)."""
    rng = np.random.default_rng(0)
    x = np.asarray(x, np.float32)[:256]
    noise = rng.standard_normal(x.shape).astype(np.float32)
    noise -= x * ((noise * x).sum(1) / np.maximum((x * x).sum(1), 1e-12))[:, None]
    noise *= (np.linalg.norm(x, axis=1) / np.linalg.norm(noise, axis=1))[:, None]
    find = jax.jit(lambda f, x: read(config, f, x, sparse=True).index)
    own, shares = np.asarray(find(field, x)), {}
    for cosine in (0.99, 0.95, 0.9, 0.7, 0.0):
        near = np.asarray(find(field, cosine * x + np.sqrt(1 - cosine**2) * noise))
        common = [len(set(a) & set(b)) / len(a) for a, b in zip(own, near, strict=True)]
        shares[f"{cosine:g}"] = float(np.mean(common))
    return shares


def regression_r2(
    features: np.ndarray, outputs: np.ndarray, held_out: float = 0.25, ridge: float = 1e-2
) -> float:
    """Return R^2 on held-out rows of a ridge regression of outputs on features (F-27).

    A lower bound of what the features tell about the outputs: for Gaussians, information is
    -log(1 - R^2) / 2.
    """
    n = int(len(features) * (1 - held_out))
    x = np.concatenate([features, np.ones((len(features), 1))], 1).astype(np.float64)
    y = np.asarray(outputs, np.float64)
    gram = x[:n].T @ x[:n]
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    fitted = x[n:] @ np.linalg.solve(gram, x[:n].T @ y[:n])
    spread = np.square(y[n:] - y[:n].mean(0)).sum()
    return float(1.0 - np.square(y[n:] - fitted).sum() / spread)


def relocation_check(config: HFTConfig, field, x: jax.Array, targets: jax.Array) -> dict[str, Any]:
    """Move the least used tensors to the contexts with the highest loss, and score both (F-28).

    Delta: loss at a context before minus after its tensor came; positive is success.

    Args:
      config: of the model.
      field: the trained field; it is not changed.
      x: float (n, inputs), contexts; targets: int32 (n,).
    """
    c, settings = config.predictor, config
    part = jax.jit(lambda f, x, y: token_nll(predict(c, f, x, sparse=True), y))

    def score(field):
        parts = [slice(i, i + PART) for i in range(0, len(x), PART)]
        return np.concatenate([np.asarray(part(field, x[s], targets[s])) for s in parts])

    before = score(field)
    count = min(EVENTS, settings.relocated, settings.queue)
    missed = np.argsort(-before, kind="stable")[: settings.queue]
    every = []
    forced = dataclasses.replace(settings, dead_usage=1e9)  # the least used are taken for dead
    move = jax.jit(lambda f, q: relocate(forced, f, q)[0])
    for first in range(0, len(missed) - count + 1, count):
        chosen = missed[first : first + count]
        queue = Queue(x[chosen], targets[chosen], jnp.asarray(before[chosen]))
        queue = jax.tree.map(lambda leaf: _padded(leaf, settings.queue), queue)
        after = score(move(field, queue))
        every.append((before[chosen] - after[chosen], (before - after).mean()))
    if not every:
        return {"events": 0}
    deltas = np.concatenate([d for d, _ in every])
    return {
        "events": len(deltas),
        "positive": float((deltas > 0).mean()),
        "mean_delta": float(deltas.mean()),
        "quantiles_10_50_90": np.quantile(deltas, [0.1, 0.5, 0.9]).tolist(),
        "mean_delta_of_all_contexts": float(np.mean([m for _, m in every])),
    }


def _padded(leaf, size: int):
    return jnp.pad(leaf, [(0, size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1))


def random_locality(config: FieldConfig, x: np.ndarray) -> dict[str, dict[str, float]]:
    """Return `locality_check` of the source's random field, by anchor and by plane."""
    field = random_field(config, jax.random.key(0))
    kinds = ("euclidean", "planar")
    configs = {kind: dataclasses.replace(config, distance=kind) for kind in kinds}
    return {kind: locality_check(c, field, x) for kind, c in configs.items()}
