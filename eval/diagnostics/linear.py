"""A linear probe: can a class be read from a state by one matrix, fitted in closed form?

What it finds is a lower bound: with more examples than a few hundred it finds more.

Ridge regression on one-hot classes in its dual form, since a state has more entries than there are
examples. The penalty is chosen by leaving one out, which for ridge needs no refitting:
residual_i = alpha_i / [(K + penalty I)^-1]_ii  (Hastie, Tibshirani and Friedman, "The Elements of
Statistical Learning", 7.10, after Golub, Heath and Wahba 1979).
"""

import dataclasses

import numpy as np

PENALTIES = 10.0 ** np.arange(-6, 3)  # in units of the mean eigenvalue


@dataclasses.dataclass(frozen=True)
class Decoded:
    """How well held-out examples were read.

    Attributes:
        correct, asked: of the held-out examples.
        accuracy: correct / asked.
        chance: share of the most frequent class among them: the best constant answer.
        penalty: the one chosen.
    """

    correct: int
    asked: int
    accuracy: float
    chance: float
    penalty: float


def decode(features, labels, *, held_out: float = 1 / 3) -> Decoded:
    """Fits on the first examples, asks about the last.

    Args:
        features: (examples, ...), any real numbers; must be in random order.
        labels: int (examples,) classes from 0, or (examples, questions): then the answers to all
            questions are counted together.
        held_out: share of the examples that is asked about.
    """
    return decode_parts({"": features}, labels, held_out=held_out)[""]


def decode_parts(parts, labels, *, held_out: float = 1 / 3) -> dict[str, Decoded]:
    """The same for each part of a state by itself, and for "all" of them if there are several.

    parts: name -> features. Inner products of the parts add up to those of the whole.
    """
    labels = np.asarray(labels).reshape(len(labels), -1)
    split = len(labels) - max(1, round(len(labels) * held_out))
    kernels = {name: _kernels(features, split) for name, features in parts.items()}
    if len(kernels) > 1:
        kernels["all"] = tuple(sum(pair) for pair in zip(*kernels.values(), strict=True))
    return {name: _questions(*pair, labels, split) for name, pair in kernels.items()}


def _questions(seen, asked, labels, split) -> Decoded:
    found = [_question(seen, asked, column, split) for column in labels.T]
    correct, count = sum(f.correct for f in found), sum(f.asked for f in found)
    mean = [float(np.mean([getattr(f, field) for f in found])) for field in ("chance", "penalty")]
    return Decoded(correct, count, correct / count, *mean)


def _kernels(features, split: int):
    """Inner products of standardised examples: among those seen, and of those asked with them."""
    x = np.array(features, np.float32).reshape(len(features), -1)
    x -= x[:split].mean(0)
    spread = x[:split].std(0)
    # What is constant in the examples is left out, not blown up.
    x = x[:, spread > 1e-6 * spread.max(initial=0.0)]
    x /= x[:split].std(0)
    kernel = (x @ x[:split].T).astype(np.float64)
    return kernel[:split], kernel[split:]


def _question(seen, asked, labels, split: int) -> Decoded:
    y = np.eye(labels.max() + 1)[labels[:split]]
    offset = y.mean(0)
    sizes, vectors = np.linalg.eigh(seen)
    turned = vectors.T @ (y - offset)
    best = (-1.0, 0.0, np.zeros_like(y))
    for penalty in PENALTIES if sizes.mean() > 0 else ():
        inverse = 1.0 / (np.maximum(sizes, 0.0) + penalty * sizes.mean())
        alpha = vectors @ (inverse[:, None] * turned)
        left_out = y - alpha / ((vectors**2) @ inverse)[:, None]
        accuracy = float((left_out.argmax(1) == labels[:split]).mean())
        if accuracy >= best[0]:  # of equals, the strongest penalty
            best = (accuracy, float(penalty), alpha)
    truth = labels[split:]
    correct = int(((asked @ best[2] + offset).argmax(1) == truth).sum())
    chance = float(np.bincount(truth).max() / len(truth))
    return Decoded(correct, len(truth), correct / len(truth), chance, best[1])
