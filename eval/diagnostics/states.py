"""What a recurrent state looks like: functions of arrays, without a model (SYSTEMS G-47, G-61 ff.).

Legend: T tokens, L layers, B batch, H heads, K rows of a state (keys, or Mamba's N), V columns.
Arrays are taken as they come and reduced in float64; what is returned are Python numbers.

Definitions are those of SYSTEMS 2.1 D and 2.3; thresholds are those of `9to5ninja-projects/
groundthink` (V3_RESEARCH_NOTES 2.19, 9.5, and gate_g35_diagnostic.py for the labels of movement).
"""

import dataclasses
import functools

import numpy as np

SATURATED = 5.0  # |state| above it counts as saturated (G-86)
GAUSSIAN_32 = 0.31  # top-5 ratio of a random 32 x 32 Gaussian: what a state without structure gives


def entropy_label(entropy: float) -> str:
    """ "collapse" below 1, "low" below 2, "healthy" to 5, "diverse" to 7, else "chaos"."""
    if entropy < 2.0:
        return "collapse" if entropy < 1.0 else "low"
    return "healthy" if entropy <= 5.0 else "diverse" if entropy <= 7.0 else "chaos"


def effective_rank(state) -> np.ndarray:
    """exp of the entropy of the normalised singular values: (..., K, V) -> (...).

    1 for a matrix of rank 1, min(K, V) for an orthogonal one, 0 for zeros.
    """
    sizes = np.linalg.svd(np.asarray(state, np.float64), compute_uv=False)
    total = sizes.sum(-1, keepdims=True)
    share = np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.where(total[..., 0] > 0, np.exp(-(share * logs).sum(-1)), 0.0)


def utilisation(state) -> float:
    """Mean effective rank of the last two axes over the largest possible (G-65), in [0, 1]."""
    ranks = effective_rank(state)
    return float(ranks.mean() / min(np.shape(state)[-2:]))


def live_share(samples) -> float:
    """Share of the entries whose variance over the first axis exceeds 1 % of the median (G-65).

    samples: (samples, ...), states after different texts or at different times.
    """
    variance = np.asarray(samples, np.float64).var(0).ravel()
    return float((variance > 0.01 * np.median(variance)).mean())


def top_ratio(state, top: int = 5) -> np.ndarray:
    """Share of the `top` largest singular values in their sum: (..., K, V) -> (...) (G-85).

    High can mean structure, or collapse: read it beside `effective_rank`, and against
    `gaussian_top_ratio` of the same shape. Zeros give 1: nothing lies outside.
    """
    sizes = np.linalg.svd(np.asarray(state, np.float64), compute_uv=False)
    total = sizes.sum(-1)
    return np.divide(sizes[..., :top].sum(-1), total, out=np.ones_like(total), where=total > 0)


@functools.cache
def gaussian_top_ratio(rows: int, columns: int, top: int = 5) -> float:
    """What `top_ratio` gives for random Gaussian matrices of a shape: 0.31 for 32 x 32."""
    noise = np.random.default_rng(0).standard_normal((64, rows, columns))
    return float(top_ratio(noise, top).mean())


def saturation(state, limit: float = SATURATED) -> float:
    """Share of the entries with an absolute value above `limit` (G-86)."""
    return float((np.abs(np.asarray(state)) > limit).mean())


def state_norm(state) -> float:
    """Frobenius norm of each sequence's whole state, meaned over the batch (G-61).

    Read-side or in-place StateNorm pins it; use the cosines then.
    """
    flat = np.asarray(state, np.float64).reshape(len(state), -1)
    return float(np.linalg.norm(flat, axis=1).mean())


def consecutive_cosine(states) -> np.ndarray:
    """Cosine of each state with the one before: (T, B, ...) -> (T - 1, B), all heads as one vector.

    Two states of zeros are equal, 1; zeros and something else have nothing in common, 0.
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
    """FROZEN above 0.999, STATIC above 0.99, EVOLVING above 0.9, else DYNAMIC."""
    for bound, label in ((0.999, "FROZEN"), (0.99, "STATIC"), (0.9, "EVOLVING")):
        if mean_cosine > bound:
            return label
    return "DYNAMIC"


@dataclasses.dataclass(frozen=True)
class Evolution:
    """How states move from token to token (G-84).

    Attributes:
        mean, variance: of the cosines over tokens, batch and layers.
        label: of the layer that moves least, as the source's script judged it.
        by_layer: mean cosine of each layer.
        labels: of each layer.
        early, late: mean over the layers below the middle, and above it.
        drift: late - early.
        says: what the source read from the drift, where it is more than 0.01.
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
    """cosines: one array of `consecutive_cosine` a recurrent layer.

    depths: those layers' places in the model, for early and late; None: 0, 1, ... A layer exactly
    in the middle of an odd number of places, or the anchor in the middle, is neither.
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
        says = "late layers move more: the source's sign of a forming identity"
    elif drift > 0.01:
        says = "late layers move less: the signal dies on its way up"
    elif not np.isfinite(drift):
        says = "too few recurrent layers to compare early with late"
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
    """W = d_state x selective update ratio, the ratio being 1 - mean consecutive cosine (G-68).

    The other reading, the share of channels whose step size exceeds the median, is one half by the
    meaning of a median, and not offered. Large W is movement, not memory.
    """
    return d_state * (1.0 - mean_cosine)


def output_variance(out) -> tuple[float, bool]:
    """Variance of a path's output over batch and time, and whether it has collapsed (G-62).

    out: (B, T, C). Collapsed: what changes is less than a thousandth of what is there, in amplitude
    (root mean square), or nothing is there.
    """
    x = np.asarray(out, np.float64).reshape(-1, np.shape(out)[-1])
    variance, power = float(x.var(0).mean()), float((x * x).mean())
    return variance, not variance > 1e-6 * power


def selection_variance(delta) -> tuple[float, bool]:
    """Variance over batch and time of Mamba's step sizes, meaned over heads; True if none (G-47).

    delta: (B, T, H). None: no head's step size varies by a thousandth of its mean.
    """
    x = np.asarray(delta, np.float64).reshape(-1, np.shape(delta)[-1])
    variance = x.var(0)
    return float(variance.mean()), not bool((variance > 1e-6 * x.mean(0) ** 2).any())


@dataclasses.dataclass(frozen=True)
class Decays:
    """Where retentions lie (G-47).

    Attributes:
        mean, smallest, largest: of the channels' mean retention a token.
        near_zero: share of the channels that keep less than 1 % of the state a token.
        near_one: share that lose less than 1e-5 a token (half of it after 69,000 tokens).
        collapsed: "to 0" or "to 1" if that is 95 % of the channels, else "".
    """

    mean: float
    smallest: float
    largest: float
    near_zero: float
    near_one: float
    collapsed: str


def decays(retention) -> Decays:
    """retention: (B, T, H) or (B, T, H, K), the factor on the state at each token."""
    x = np.asarray(retention, np.float64)
    x = x.reshape(x.shape[0] * x.shape[1], -1).mean(0)
    near_zero, near_one = float((x < 0.01).mean()), float((x > 1.0 - 1e-5).mean())
    collapsed = "to 0" if near_zero >= 0.95 else "to 1" if near_one >= 0.95 else ""
    return Decays(
        mean=float(x.mean()),
        smallest=float(x.min()),
        largest=float(x.max()),
        near_zero=near_zero,
        near_one=near_one,
        collapsed=collapsed,
    )
