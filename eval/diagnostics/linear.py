"""Linear probe: classes decoded from a state by ridge regression, in closed form.

With a few hundred examples its accuracy is a lower bound on what is decodable. Ridge regression on
one-hot classes in the dual form, since a state has more entries than there are examples. The
penalty is selected by leave-one-out residuals alpha_i / [(K + penalty I)^-1]_ii (Hastie, Tibshirani
and Friedman, "The Elements of Statistical Learning", 7.10; Golub, Heath and Wahba 1979).
"""

import dataclasses

import numpy as np

PENALTIES = 10.0 ** np.arange(-6, 3)  # in units of the mean eigenvalue


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Accuracy of a probe on held-out examples.

    Attributes:
        correct, asked: number of correct and of all held-out answers.
        accuracy: correct / asked.
        chance: fraction of the most frequent class, i.e. the best constant answer.
        penalty: the selected penalty.
    """

    correct: int
    asked: int
    accuracy: float
    chance: float
    penalty: float


def decode_parts(parts, labels) -> dict[str, Decoded]:
    """Probe each part of a state, and "all" of them if there are several.

    Fits on the first two thirds of the examples and tests on the others.

    Args:
        parts: name -> features (examples, ...), real numbers, in random order.
        labels: int (examples,) classes from 0, or (examples, questions), pooled over questions.
    """
    labels = np.asarray(labels).reshape(len(labels), -1)
    split = len(labels) - max(1, round(len(labels) / 3))
    kernels = {name: _kernels(features, split) for name, features in parts.items()}
    if len(kernels) > 1:  # the kernel of concatenated features is the sum of their kernels
        kernels["all"] = tuple(sum(pair) for pair in zip(*kernels.values(), strict=True))
    return {name: _decode_all(*pair, labels, split) for name, pair in kernels.items()}


def _decode_all(train, test, labels, split) -> Decoded:
    results = [_decode(train, test, column, split) for column in labels.T]
    correct, count = sum(r.correct for r in results), sum(r.asked for r in results)
    mean = [float(np.mean([getattr(r, name) for r in results])) for name in ("chance", "penalty")]
    return Decoded(correct, count, correct / count, *mean)


def _kernels(features, split: int):
    """Return the linear kernels (train, train) and (test, train) of standardized examples."""
    x = np.array(features, np.float32).reshape(len(features), -1)
    x -= x[:split].mean(0)
    spread = x[:split].std(0)
    # Drop constant features instead of dividing by their spread.
    x = x[:, spread > 1e-6 * spread.max(initial=0.0)]
    x /= x[:split].std(0)
    kernel = (x @ x[:split].T).astype(np.float64)
    return kernel[:split], kernel[split:]


def _decode(train, test, labels, split: int) -> Decoded:
    y = np.eye(labels.max() + 1)[labels[:split]]
    offset = y.mean(0)
    eigenvalues, vectors = np.linalg.eigh(train)
    rotated = vectors.T @ (y - offset)
    best = (-1.0, 0.0, np.zeros_like(y))
    for penalty in PENALTIES if eigenvalues.mean() > 0 else ():
        inverse = 1.0 / (np.maximum(eigenvalues, 0.0) + penalty * eigenvalues.mean())
        alpha = vectors @ (inverse[:, None] * rotated)
        left_out = y - alpha / ((vectors**2) @ inverse)[:, None]
        accuracy = float((left_out.argmax(1) == labels[:split]).mean())
        if accuracy >= best[0]:  # prefer the strongest of equal penalties
            best = (accuracy, float(penalty), alpha)
    truth = labels[split:]
    correct = int(((test @ best[2] + offset).argmax(1) == truth).sum())
    chance = float(np.bincount(truth).max() / len(truth))
    return Decoded(correct, len(truth), correct / len(truth), chance, best[1])
