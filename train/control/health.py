"""Health checks of a model's components, on host arrays (docs/systems.md, G-47 to G-50).

Red flags (G-47), signs of progress (G-48), component trends at a plateau (G-49, G-49b), and the
comparison of a hybrid with its two baselines (G-50). Arrays are NumPy or convertible to it.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from train.control.curves import Steps, Values, trend

REMEDIES = (
    "larger dimensions",
    "another state size",
    "more attention layers",
    "another ratio of the paths, 70/30 or 50/50",
)


def oscillating(values: Values, last: int = 5, limit: float = 0.5) -> bool:
    """Return True if the last losses swing by more than `limit` nats about their trend (G-47)."""
    curve = np.asarray(values[-last:], float)
    if len(curve) < 3:
        return False
    at = np.arange(len(curve)) - (len(curve) - 1) / 2
    line = (at * curve).sum() / np.square(at).sum() * at
    return float(np.ptp(curve - line)) > limit


def diverging_early(
    epochs: Values, values: Values, before: float = 5.0, rise: float = 0.05
) -> bool:
    """Return True if validation rises `rise` above its best before epoch `before`, 5 to 10 (G-47).

    `epochs` are passes over the training data at each validation. The last two values must both be
    above, so that a single spike does not count.
    """
    if len(values) < 3 or epochs[-1] >= before:
        return False
    return min(values[-2:]) > (1.0 + rise) * min(values)


def activation_collapsed(outputs, limit: float = 1e-6) -> bool:
    """Return True if outputs or Mamba step sizes (batch, time, ...) are constant (G-47).

    In every channel, variance over batch and time / mean square is at most `limit`.
    """
    outputs = np.asarray(outputs, float)
    flat = outputs.reshape(outputs.shape[0] * outputs.shape[1], -1)
    return bool((flat.var(0) <= limit * np.square(flat).mean(0) + 1e-30).all())


def channel_retention(retention) -> np.ndarray:
    """Return the mean over batch and time of each channel's retention, (B, T, ...) -> (channels,).

    Reductions in float64.
    """
    retention = np.asarray(retention, np.float64)
    return retention.reshape(retention.shape[0] * retention.shape[1], -1).mean(0)


def near_ends(channels) -> tuple[float, float]:
    """Return the fractions of channels that keep less than 1 %, and lose less than 1e-5, a token.

    A half-life of a sixth of a token, and of 69,000 tokens. The identity initialization, 0.9999,
    is neither.
    """
    return float((channels < 0.01).mean()), float((channels > 1.0 - 1e-5).mean())


def decay_collapsed(retention, share: float = 0.95) -> str:
    """Return "0" or "1" if a fraction `share` of the channels is near that end, else "" (G-47).

    retention: (batch, time, ...), per token and channel.
    """
    near_zero, near_one = near_ends(channel_retention(retention))
    return "0" if near_zero >= share else "1" if near_one >= share else ""


def state_stuck(before, after, limit: float = 1e-6) -> bool:
    """Return True if a state has hardly changed: relative distance at most `limit` (G-47)."""
    before, after = np.asarray(before, float), np.asarray(after, float)
    return bool(np.linalg.norm(after - before) <= limit * max(np.linalg.norm(before), 1e-12))


def gradients_vary(norms: Mapping[str, Values], limit: float = 1e-3) -> bool:
    """Return True if every component's gradient norm varies over the logged steps (G-48)."""
    return bool(norms) and all(
        len(values) > 1 and float(np.std(values)) > limit * max(float(np.mean(values)), 1e-12)
        for values in norms.values()
    )


def state_norm(state) -> float:
    """Return the Frobenius norm of a sequence's state, averaged over the batch (G-61).

    Constant with StateNorm; use the cosines of `eval/diagnostics/states.py` then.
    """
    flat = np.asarray(state, np.float64).reshape(len(state), -1)
    return float(np.linalg.norm(flat, axis=1).mean())


def state_entropy(state) -> float:
    """Return the mean entropy (nats) of a softmax over the last axis (G-64).

    A zero state has the maximum, log(length): entropy alone does not tell memory from emptiness.
    """
    x = np.asarray(state, np.float64)
    x = x - x.max(-1, keepdims=True)
    total = np.exp(x).sum(-1, keepdims=True)
    log_p = x - np.log(total)
    return float(-(np.exp(log_p) * log_p).sum(-1).mean())


def entropy_alive(entropies: Values, limit: float = 1e-3) -> bool:
    """Return True if every entropy (nats, by layer or component) is above `limit` (G-48)."""
    return len(entropies) > 0 and min(entropies) > limit


def steadily_falling(values: Values, parts: int = 4) -> bool:
    """Return True if the means of successive parts of the training log fall (G-48)."""
    if len(values) < 2 * parts:
        return False
    means = [float(part.mean()) for part in np.array_split(np.asarray(values, float), parts)]
    return all(later < earlier for earlier, later in itertools.pairwise(means))


def component_trends(norms: Mapping[str, tuple[Steps, Values]]) -> dict[str, str]:
    """Classify each gradient norm as falling, rising or, within 30 %, steady (G-49)."""
    words = {}
    for name, (steps, values) in norms.items():
        change = trend(steps, values)
        words[name] = "falling" if change < -0.3 else "rising" if change > 0.3 else "steady"
    return words


def unaligned(words: Mapping[str, str]) -> str:
    """Return a sentence if only some components' gradients die down, else "" (G-49).

    A plateau of the whole may then combine a converged component with one that still learns, or
    that makes no progress: a norm does not tell which. `words`: see `component_trends`.
    """
    done = sorted(name for name, word in words.items() if word == "falling")
    busy = sorted(name for name, word in words.items() if word != "falling")
    if not done or not busy:
        return ""
    return f"gradients of {', '.join(done)} die down while those of {', '.join(busy)} do not"


def loss_shares(terms: Mapping[str, float]) -> dict[str, float]:
    """Return each weighted loss term / total (G-49b); all 0 if the total is 0."""
    total = sum(abs(value) for value in terms.values())
    return {name: abs(value) / total if total else 0.0 for name, value in terms.items()}


def plateau_report(
    norms: Mapping[str, tuple[Steps, Values]], terms: Mapping[str, float]
) -> list[str]:
    """Return sentences on a plateau: components, objectives, remedies (G-49b).

    norms: gradient norms by component, (steps, values) since the plateau began.
    """
    trends = component_trends(norms)
    lines = [f"gradient norm of {name}: {word}" for name, word in trends.items()]
    lines += [sentence] if (sentence := unaligned(trends)) else []
    shares = loss_shares(terms)
    if len(shares) > 1:
        words = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items()))
        lines.append(f"shares of the loss: {words}")
    return [*lines, f"to try, one at a time: {'; '.join(REMEDIES)}"]


def diagnose_hybrid(
    hybrid: float, baselines: Mapping[str, float], tolerance: float = 0.0
) -> tuple[str, str]:
    """Compare a hybrid's loss with its parts' at equal parameters and tokens (G-50).

    Args:
      hybrid: validation loss of the hybrid.
      baselines: loss by name, e.g. {"rwkv": 1.61, "mamba": 1.58}.
      tolerance: differences up to this, e.g. the spread over seeds, count as equal.

    Returns:
      (verdict, sentence); verdict is "wins", "training" (worse than all: suspect the training),
      "capacity" (between: suspect capacity or architecture) or "undecided".
    """
    values = sorted(baselines.values())
    names = ", ".join(f"{name} {loss:.4f}" for name, loss in sorted(baselines.items()))
    against = f"hybrid {hybrid:.4f} against {names}"
    if hybrid < values[0] - tolerance:
        return "wins", f"{against}: better than its parts"
    if hybrid > values[-1] + tolerance:
        return "training", f"{against}: worse than both, so look at how it is trained"
    if values[0] + tolerance < hybrid < values[-1] - tolerance:
        return "capacity", f"{against}: between them, so look at capacity or architecture"
    return "undecided", f"{against}: not distinguishable from one of its parts"
