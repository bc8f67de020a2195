"""Rules on loss curves: pure functions for the controller and for reports.

A curve is two sequences of equal length: steps (ascending ints) and values (losses, lower is
better). Validation curves of recurrent hybrids are jagged, so the rules use the envelope of their
minima. Rules and thresholds: docs/systems.md, G-26 to G-46 and G-73; docstrings note where the
source needed interpretation.
"""

import itertools
from collections.abc import Sequence

import numpy as np

Steps = Sequence[int]
Values = Sequence[float]


def minima(steps: Steps, values: Values, min_delta: float = 0.0) -> list[int]:
    """List the steps of minima, lower than the last by more than a fraction `min_delta` (G-41)."""
    minimum_steps, best = [], np.inf
    for step, value in zip(steps, values, strict=True):
        if value < best - (min_delta * abs(best) if np.isfinite(best) else 0.0):
            minimum_steps.append(step)
            best = value
    return minimum_steps


def improvement_interval(steps: Steps, values: Values, min_delta: float = 0.0) -> float | None:
    """Return the median gap in steps between minima (G-40), or None with fewer than two."""
    at = minima(steps, values, min_delta)
    return float(np.median(np.diff(at))) if len(at) > 1 else None


def stale_steps(steps: Steps, values: Values, min_delta: float = 0.0) -> int:
    """Return the steps since the last new minimum, the length of the current plateau (G-73)."""
    at = minima(steps, values, min_delta)
    return steps[-1] - at[-1] if at else 0


def patience_exhausted(
    steps: Steps, values: Values, factor: float = 4.0, min_delta: float = 0.0
) -> bool:
    """Return True after no new minimum for `factor` (3 to 5) improvement intervals (G-40)."""
    interval = improvement_interval(steps, values, min_delta)
    return interval is not None and stale_steps(steps, values, min_delta) > factor * interval


def overfit_rise(steps: Steps, values: Values, train_steps: Steps, train_values: Values) -> float:
    """Return the relative rise of validation above its best while training falls, else 0 (G-42).

    The rise is that of the lowest of the last 3 values, all later than the best one, so that a
    single spike does not count. Training falls if its mean since the best is lower than its mean
    over as many steps before.
    """
    best = int(np.argmin(values)) if len(values) else 0
    if len(values) - 1 - best < 3:
        return 0.0
    span = steps[-1] - steps[best]
    at, losses = np.asarray(train_steps), np.asarray(train_values, float)
    since = losses[(at > steps[best]) & (at <= steps[-1])]
    before = losses[(at > steps[best] - span) & (at <= steps[best])]
    if not len(since) or not len(before) or since.mean() >= before.mean():
        return 0.0
    return max(min(values[-3:]) / values[best] - 1.0, 0.0)


def plateau_class(share: float) -> str:
    """Classify a plateau by its fraction of the planned steps (G-43).

    "none" (< 1 %), "safe" (1 to 10 %), "watch" (to 20 %), "converged" (more). The source names only
    "safe" and "converged".
    """
    if share < 0.01:
        return "none"
    if share <= 0.10:
        return "safe"
    return "watch" if share <= 0.20 else "converged"


def plateaus(
    steps: Steps, values: Values, min_steps: float, min_delta: float = 0.0
) -> list[tuple[int, int]]:
    """List stretches of more than `min_steps` steps without a new minimum (G-27, G-73).

    Each is (step of a minimum, step of the next minimum, or the last step).
    """
    at = minima(steps, values, min_delta)
    stretches = itertools.pairwise([*at, steps[-1]] if at else ())
    return [(start, stop) for start, stop in stretches if stop - start > min_steps]


def recent(steps: Steps, values: Values, span: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps, values) of the last `span` steps of a curve."""
    at, curve = np.asarray(steps), np.asarray(values, float)
    inside = at >= at[-1] - span if len(at) else np.zeros(0, bool)
    return at[inside], curve[inside]


def trend(steps: Steps, values: Values) -> float:
    """Return the change of a fitted line over the curve / mean value; 0 below 2 points."""
    if len(steps) < 2:
        return 0.0
    return _line(steps, values)[0] * float(steps[-1] - steps[0]) / abs(float(np.mean(values)))


def flowchart(steps: Steps, values: Values, share: float = 0.15, band: float = 0.005) -> str:
    """Classify the trend of the last `share` (10 to 20 %) of the steps so far (G-44).

    "falling":     the fitted line falls by more than `band`: continue, perhaps with a lower rate.
    "fluctuating": it changes by at most `band`, or rises by jumps: 10 % more steps, then recheck.
    "rising":      after the best value, at least three points rise by more than `band`, with two
                   of three changes upward and higher minima in the second half: stop.
    "flat":        the last 30 % stay within `band` of their mean: converged.
    """
    if len(steps) < 3:
        return "falling"
    at, last = recent(steps, values, 0.3 * steps[-1])
    covered = at[-1] - at[0] >= 0.25 * steps[-1] and len(at) >= 4
    if covered and np.abs(last / last.mean() - 1.0).max() <= band and abs(trend(at, last)) <= band:
        return "flat"
    at, last = recent(steps, values, share * steps[-1])
    if len(at) < 3:
        at, last = np.asarray(steps[-3:]), np.asarray(values[-3:], float)
    if trend(at, last) < -band:
        return "falling"
    later = at > steps[int(np.argmin(values))]
    at, last = at[later], last[later]
    if len(at) < 3 or trend(at, last) <= band or (np.diff(last) > 0).mean() < 2 / 3:
        return "fluctuating"
    half = len(last) // 2
    return "rising" if last[half:].min() > (1 + band / 2) * last[:half].min() else "fluctuating"


def heartbeat(values: Values, last: int = 5) -> bool:
    """Return True for a new minimum, however small, among the last values (G-45)."""
    return len(values) > last and min(values[-last:]) < min(values[:-last])


def log_slope(steps: Steps, values: Values) -> tuple[float, float]:
    """Return slope and standard error of log(value) per 1000 steps; (0, inf) below 3 points."""
    if len(steps) < 3 or min(values) <= 0:
        return 0.0, float("inf")
    slope, residuals, at = _line(steps, np.log(np.asarray(values, float)))
    error = np.sqrt(np.square(residuals).sum() / (len(at) - 2) / np.square(at - at.mean()).sum())
    return 1000.0 * slope, 1000.0 * float(error)


def still_learning(train_steps: Steps, train_values: Values) -> bool:
    """Return True if log training loss falls by more than two standard errors (G-45)."""
    slope, error = log_slope(train_steps, train_values)
    return slope < -2.0 * error


def perplexity_improving(values: Values, last: int = 3) -> bool:
    """Return True if the mean of the last losses is below that of as many before (G-45)."""
    if len(values) < 2 * last:
        return False
    return float(np.mean(values[-last:])) < float(np.mean(values[-2 * last : -last]))


def scatter_exceeds_gain(values: Values, last: int = 5) -> bool:
    """Return True if validation scatters by more than it improves over the last checkpoints (G-46).

    The source compares a variance (nats squared) with an improvement (nats). Here the standard
    deviation about the fitted line is compared with the line's fall per checkpoint.
    """
    if len(values) < last:
        return False
    slope, residuals, _ = _line(range(last), values[-last:])
    return float(np.sqrt(np.square(residuals).sum() / (last - 2))) > -slope


def probe_degrades(probe: Values, train_values: Values) -> bool:
    """Return True if a probe (higher is better) gets worse while training loss falls (G-46).

    Compares means of the last 3 values with those of the 3 before; the probe must lose 2 %.
    """
    if len(probe) < 6 or len(train_values) < 6:
        return False
    (before, now), (loss_before, loss_now) = (
        (float(np.mean(values[-6:-3])), float(np.mean(values[-3:])))
        for values in (probe, train_values)
    )
    return now < before - 0.02 * abs(before) and loss_now < loss_before


def fruitless_drops(
    steps: Steps, values: Values, drops: Sequence[int], min_delta: float = 0.0
) -> int:
    """Count the learning-rate drops since the last new minimum (G-46: two or more, stop)."""
    at = minima(steps, values, min_delta)
    return sum(drop >= at[-1] for drop in drops) if at else 0


def _line(steps, values) -> tuple[float, np.ndarray, np.ndarray]:
    """Fit a line: return slope, residuals, float steps. Sums only, reproducible on any machine."""
    at, curve = np.asarray(steps, float), np.asarray(values, float)
    centred = at - at.mean()
    slope = float((centred * (curve - curve.mean())).sum() / np.square(centred).sum())
    return slope, curve - curve.mean() - slope * centred, at
