"""Kneser-Ney n-grams over hashed contexts, and their log-linear mixture with other distributions.

The counts are of exactly the contexts and targets that a field learns from: windows of tokens, -1
before the start of a document.
"""

from collections.abc import Sequence

import numpy as np


class KneserNey:
    """Interpolated Kneser-Ney of orders 1 to n, absolute discount 0.75, contexts hashed to 64 bits.

    The lowest order is the distribution of continuation counts over all classes.
    """

    def __init__(self, order: int, classes: int, discount: float = 0.75):
        self.order, self.classes, self.discount = order, classes, discount

    def fit(self, windows: np.ndarray, targets: np.ndarray) -> "KneserNey":
        """Count n-grams: windows int (n, L), L >= order - 1, newest last, and targets (n,)."""
        codes, targets = self._codes(windows), np.asarray(targets).astype(np.uint64)
        self.tables, above = [], None
        for k in range(self.order - 1, -1, -1):  # context length, longest first
            pair = codes[k] * np.uint64(self.classes) + targets
            if above is None:
                pairs, counts = np.unique(pair, return_counts=True)
            else:  # of lower orders: in how many distinct longer contexts
                first = np.unique(above, return_index=True)[1]
                pairs, counts = np.unique(pair[first], return_counts=True)
            unique, place = np.unique(pair, return_index=True)
            owner = codes[k][place][np.searchsorted(unique, pairs)]
            contexts, inverse = np.unique(owner, return_inverse=True)
            totals = np.bincount(inverse, counts)
            kinds = np.bincount(inverse)
            self.tables.append((pairs, counts, contexts, totals, kinds))
            above = pair
        self.tables.reverse()
        return self

    def distributions(self, windows: np.ndarray) -> np.ndarray:
        """Return the probability of every class after each window int (n, L): float32 (n, V)."""
        codes = self._codes(windows)
        p = np.full((len(windows), self.classes), 1.0 / self.classes, np.float32)
        for k, (pairs, counts, contexts, totals, kinds) in enumerate(self.tables):
            total, kind = (_look_up(contexts, v, codes[k]) for v in (totals, kinds))
            below = self.discount * kind / np.maximum(total, 1)
            p *= np.where(total > 0, below, 1.0).astype(np.float32)[:, None]
            # The pairs of a context stand side by side: its code times V, plus the class.
            base = codes[k] * np.uint64(self.classes)
            first = np.searchsorted(pairs, base)
            size = np.searchsorted(pairs, base + np.uint64(self.classes - 1), side="right") - first
            row = np.repeat(np.arange(len(base)), size)
            place = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size) + first[row]
            own = np.maximum(counts[place] - self.discount, 0.0) / total[row]
            p[row, (pairs[place] - base[row]).astype(np.int64)] += own.astype(np.float32)
        return p

    def _codes(self, windows: np.ndarray) -> np.ndarray:
        """Return the hash of the last k tokens of each window, uint64 (order, n), k below order."""
        back = (np.asarray(windows).astype(np.int64) + 1).astype(np.uint64)
        codes = np.zeros((self.order, len(back)), np.uint64)
        with np.errstate(over="ignore"):
            for k in range(1, self.order):
                mixed = codes[k - 1] ^ (back[:, -k] * np.uint64(0x9E3779B97F4A7C15))
                mixed += np.uint64(k)
                mixed ^= mixed >> np.uint64(29)
                codes[k] = mixed * np.uint64(0xBF58476D1CE4E5B9)
                codes[k] ^= codes[k] >> np.uint64(32)
        return codes


def _look_up(keys, values, queries):
    place = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[place] == queries, values[place], 0)


def fit_mixture(logs: Sequence[np.ndarray], targets: np.ndarray, rounds: int = 30) -> np.ndarray:
    """Return the weights of log p = sum_j w_j logs_j - log Z that suit the targets best.

    The loss is convex in the weights: damped Newton steps.

    Args:
      logs: J arrays of log probabilities, (n, V).
      targets: int (n,).
      rounds: most steps.
    """
    targets, weights = np.asarray(targets), np.full(len(logs), 1.0 / len(logs))
    hit = np.stack([log[np.arange(len(targets)), targets] for log in logs])
    loss = mixture_nll(logs, weights, targets).mean()
    for _ in range(rounds):
        p = np.exp(mixed_logs(logs, weights))
        means = np.stack([np.einsum("nv,nv->n", p, log) for log in logs])
        slope = (means - hit).mean(1)
        products = [[np.einsum("nv,nv,nv->", p, a, b) for b in logs] for a in logs]
        curve = np.array(products) / len(targets) - means @ means.T / len(targets)
        step = np.linalg.solve(curve + 1e-9 * np.eye(len(logs)), slope)
        for damping in (1.0, 0.5, 0.25, 0.125):
            better = mixture_nll(logs, weights - damping * step, targets).mean()
            if better < loss:
                break
        else:
            return weights
        weights, done, loss = weights - damping * step, loss - better < 1e-7, better
        if done:
            return weights
    return weights


def mixed_logs(logs: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Return the log probabilities of a mixture, float32 (n, V)."""
    total = sum(np.float32(w) * log for w, log in zip(weights, logs, strict=True))
    total -= total.max(1, keepdims=True)
    return total - np.log(np.exp(total).sum(1, keepdims=True))


def mixture_nll(logs: Sequence[np.ndarray], weights: np.ndarray, targets) -> np.ndarray:
    """Return the loss of a mixture at each target, nats (n,)."""
    return -mixed_logs(logs, weights)[np.arange(len(targets)), targets]
