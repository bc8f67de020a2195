"""Statistics of recurrent states, as functions of arrays (docs/systems.md, G-47, G-61 to G-68).

Legend: T tokens, L layers, B batch, H heads, K rows of a state (keys, or Mamba's N), V columns.
Reductions are in float64; results are Python numbers unless noted.

Thresholds are those of `9to5ninja-projects/groundthink` (V3_RESEARCH_NOTES 2.19, 9.5, and
gate_g35_diagnostic.py for the labels of movement).
"""

import dataclasses
import functools

import numpy as np

from train.control import health


def entropy_label(entropy: float) -> str:
    """Return "collapse" (< 1), "low" (< 2), "healthy" (<= 5), "diverse" (<= 7) or "chaos"."""
    if entropy < 2.0:
        return "collapse" if entropy < 1.0 else "low"
    return "healthy" if entropy <= 5.0 else "diverse" if entropy <= 7.0 else "chaos"


def effective_rank(state) -> np.ndarray:
    """Return exp of the entropy of the normalized singular values: (..., K, V) -> (...).

    1 for rank 1, min(K, V) for an orthogonal matrix, 0 for zeros.
    """
    values = np.linalg.svd(np.asarray(state, np.float64), compute_uv=False)
    total = values.sum(-1, keepdims=True)
    p = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.where(total[..., 0] > 0, np.exp(-(p * logs).sum(-1)), 0.0)


def utilisation(state) -> float:
    """Return the mean effective rank over its maximum min(K, V), in [0, 1] (G-65)."""
    ranks = effective_rank(state)
    return float(ranks.mean() / min(np.shape(state)[-2:]))


def live_share(samples) -> float:
    """Return the fraction of entries whose variance exceeds 1 % of the median variance (G-65).

    samples: (samples, ...), states after different texts or at different times.
    """
    variance = np.asarray(samples, np.float64).var(0).ravel()
    return float((variance > 0.01 * np.median(variance)).mean())


def top_ratio(state, top: int = 5) -> np.ndarray:
    """Return the sum of the `top` largest singular values over the sum of all (G-85).

    (..., K, V) -> (...); 1 for zeros. A high ratio can mean structure or collapse: compare with
    `effective_rank`, and with `gaussian_top_ratio` of the same shape.
    """
    values = np.linalg.svd(np.asarray(state, np.float64), compute_uv=False)
    total = values.sum(-1)
    return np.divide(values[..., :top].sum(-1), total, out=np.ones_like(total), where=total > 0)


@functools.cache
def gaussian_top_ratio(rows: int, columns: int) -> float:
    """Return the mean `top_ratio` of random Gaussian matrices of a shape, 0.31 for 32 x 32."""
    noise = np.random.default_rng(0).standard_normal((64, rows, columns))
    return float(top_ratio(noise).mean())


def saturation(state) -> float:
    """Return the fraction of entries with an absolute value above 5 (G-86)."""
    return float((np.abs(np.asarray(state)) > 5.0).mean())


def consecutive_cosine(states) -> np.ndarray:
    """Return the cosine of each state with the previous one: (T, B, ...) -> (T - 1, B).

    All heads form one vector. The cosine of two zero states is 1, of zero and nonzero states 0.
    """
    flat = np.asarray(states, np.float64)
    flat = flat.reshape(*flat.shape[:2], -1)
    norms = np.linalg.norm(flat, axis=-1)
    before, after = norms[:-1], norms[1:]
    product = (flat[:-1] * flat[1:]).sum(-1)
    both = before * after
    cosine = np.divide(product, both, out=np.zeros_like(both), where=both > 0)
    return np.where((before == 0) & (after == 0), 1.0, cosine)


def movement_label(mean_cosine: float) -> str:
    """Return FROZEN (> 0.999), STATIC (> 0.99), EVOLVING (> 0.9) or DYNAMIC."""
    for bound, label in ((0.999, "FROZEN"), (0.99, "STATIC"), (0.9, "EVOLVING")):
        if mean_cosine > bound:
            return label
    return "DYNAMIC"


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Change of states from token to token (G-84).

    Attributes:
        mean, variance: statistics of the cosines over tokens, batch and layers.
        label: label of the least moving layer, as in the source's script.
        by_layer: mean cosine of each layer.
        labels: label of each layer.
        early, late: mean over the layers below and above the middle.
        drift: late - early.
        says: interpretation of the drift.
    """

    mean: float
    variance: float
    label: str
    by_layer: tuple[float, ...]
    labels: tuple[str, ...]
    early: float
    late: float
    drift: float
    says: str


def evolution(cosines, depths=None, num_layers: int | None = None) -> Evolution:
    """Summarize the results of `consecutive_cosine`, one array per recurrent layer.

    depths: indices of those layers in the model; None = 0, 1, ... The middle layer of an odd number
    counts as neither early nor late.
    """
    means = [float(np.mean(c)) for c in cosines]
    pooled = np.concatenate([np.ravel(c) for c in cosines])
    depths = range(len(means)) if depths is None else depths
    count = num_layers or max(depths) + 1
    early = [m for m, depth in zip(means, depths, strict=True) if depth < count // 2]
    late = [m for m, depth in zip(means, depths, strict=True) if depth >= (count + 1) // 2]
    early, late = (float(np.mean(part)) if part else float("nan") for part in (early, late))
    drift = late - early
    says = "early and late layers move alike"
    if drift < -0.01:
        says = "late layers move more, which the source reads as a forming identity"
    elif drift > 0.01:
        says = "late layers move less: the signal decays with depth"
    elif not np.isfinite(drift):
        says = "too few recurrent layers to compare early and late ones"
    return Evolution(
        mean=float(pooled.mean()),
        variance=float(pooled.var()),
        label=movement_label(max(means)),
        by_layer=tuple(means),
        labels=tuple(movement_label(m) for m in means),
        early=early,
        late=late,
        drift=drift,
        says=says,
    )


def worldview_capacity(d_state: int, mean_cosine: float) -> float:
    """Return W = d_state x (1 - mean consecutive cosine) (G-68): movement, not memory."""
    return d_state * (1.0 - mean_cosine)


def output_variance(out) -> tuple[float, bool]:
    """Return the variance of a path's output (B, T, C) over batch and time, and a collapse flag.

    Collapsed (G-62): see `health.activation_collapsed`.
    """
    x = np.asarray(out, np.float64).reshape(-1, np.shape(out)[-1])
    return float(x.var(0).mean()), health.activation_collapsed(out)


def selection_variance(delta) -> tuple[float, bool]:
    """Return the mean variance of Mamba's step sizes (B, T, H) over batch and time, and a flag.

    The flag is True if no head's step size varies by a thousandth of its size (G-47).
    """
    return output_variance(delta)


def decays(retention) -> dict:
    """Summarize the retention per token over channels (G-47): (B, T, H) or (B, T, H, K) -> dict.

    Returns:
        mean, smallest, largest: statistics of the channels' mean retention.
        near_zero: fraction of channels that keep less than 1 % of the state per token.
        near_one: fraction that lose less than 1e-5 per token (half-life 69,000 tokens).
        collapsed: "to 0" or "to 1" if 95 % of the channels are, else "".
    """
    x, end = health.channel_retention(retention), health.decay_collapsed(retention)
    near_zero, near_one = health.near_ends(x)
    return {
        "mean": float(x.mean()),
        "smallest": float(x.min()),
        "largest": float(x.max()),
        "near_zero": near_zero,
        "near_one": near_one,
        "collapsed": end and f"to {end}",
    }
