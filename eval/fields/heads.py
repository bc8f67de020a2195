"""Other heads on the features of a field, at equal training examples.

    softmax   multinomial logistic regression, Adam, its rate the best of four on validation
    knn       exact k nearest neighbours, softmax of distances, mixed with the unigrams
    ridge     random features of kernel exp(-|x - y|^2 / 2 s^2), ridge regression of one-hot targets
    ngram     interpolated Kneser-Ney of hashed contexts, on the same bytes in sequence

Each sees the training examples once; bits are per target, on the same held-out targets.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

Batch = tuple[jax.Array, jax.Array]  # features (n, d), targets (n,)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
LOG2 = np.log(2.0)


def softmax_bits(
    batches: Callable[[], Iterable[Batch]], held_out: Batch, classes: int, steps: int
) -> dict[str, float]:
    """Return bits of multinomial regression for each learning rate: {"0.001": bits}."""
    return {f"{rate:g}": _softmax(batches(), held_out, classes, steps, rate) for rate in RATES}


def _softmax(batches, held_out, classes, steps, rate):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    width = held_out[0].shape[1]
    params = {"w": jnp.zeros((width, classes)), "b": jnp.zeros((classes,))}
    state, scale = optimizer.init(params), width**0.5  # entries of about 1, not of 1 / sqrt(d)

    def loss(params, x, y):
        logits = scale * (x @ params["w"]) + params["b"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(params, state, x, y):
        grads = jax.grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for x, y in batches:
        params, state = step(params, state, x, y)
    return float(jax.jit(loss)(params, *held_out)) / LOG2


def knn_bits(
    train: Batch, held_out: Batch, classes: int, k: int = 64, temperatures=(0.1, 0.2, 0.4, 0.8)
) -> dict[str, float]:
    """Return bits of exact nearest neighbours for each temperature: {"0.05": bits}.

    A tenth of the probability is the training targets' distribution.
    """
    x, y = train
    unigram = np.bincount(np.asarray(y), minlength=classes) + 1.0
    unigram /= unigram.sum()
    square = jnp.sum(x * x, 1)[None]

    @jax.jit
    def nearest(query):
        far = jnp.sum(query * query, 1, keepdims=True) + square - 2.0 * query @ x.T
        value, index = jax.lax.top_k(-far, k)
        return jnp.sqrt(jnp.maximum(-value, 0.0)), y[index]

    queries, targets = held_out
    parts = [nearest(queries[i : i + 512]) for i in range(0, len(queries), 512)]
    far, labels = (np.concatenate([np.asarray(p[i]) for p in parts]) for i in range(2))
    targets, bits = np.asarray(targets), {}
    for temperature in temperatures:
        w = np.exp(-(far - far[:, :1]) / temperature)
        w /= w.sum(1, keepdims=True)
        hit = (w * (labels == targets[:, None])).sum(1)
        bits[f"{temperature:g}"] = float(-np.log2(0.9 * hit + 0.1 * unigram[targets]).mean())
    return bits


def ridge_bits(
    batches: Iterable[Batch],
    held_out: Batch,
    classes: int,
    size: int = 1024,
    widths=(0.8, 1.6),
    ridge: float = 1e-4,
) -> dict[str, float]:
    """Return bits of ridge regression on random Fourier features, for each kernel width s.

    Outputs are clipped to at least 1e-4 and scaled to sum to 1.
    """
    batches, bits = list(batches), {}
    rng = np.random.default_rng(0)
    width = held_out[0].shape[1]
    directions = rng.standard_normal((width, size), np.float32)
    shift = rng.uniform(0, 2 * np.pi, size).astype(np.float32)
    for s in widths:

        @jax.jit
        def lift(x, s=s):
            return jnp.sqrt(2.0 / size) * jnp.cos(x @ directions / s + shift[None])

        gram, cross = np.zeros((size, size)), np.zeros((size, classes))
        for x, y in batches:
            z = np.asarray(lift(x))
            gram += z.T @ z
            np.add.at(cross.T, np.asarray(y), z)
        count = sum(len(y) for _, y in batches)
        solved = np.linalg.solve(gram + ridge * count * np.eye(size) / size, cross)
        p = np.maximum(np.asarray(lift(held_out[0])) @ solved, 1e-4)
        p = p[np.arange(len(p)), np.asarray(held_out[1])] / p.sum(1)
        bits[f"{s:g}"] = float(-np.log2(p).mean())
    return bits


class KneserNey:
    """Interpolated Kneser-Ney of orders 1 to n, absolute discount 0.75, contexts hashed to 64 bits.

    The lowest order is the distribution of continuation counts over all classes.
    """

    def __init__(self, order: int, classes: int, discount: float = 0.75):
        self.order, self.classes, self.discount = order, classes, discount

    def fit(self, documents: Iterable[np.ndarray]) -> "KneserNey":
        """Count the n-grams of token arrays (length,)."""
        grams = [_contexts(np.asarray(d), self.order) for d in documents if len(d) > 1]
        codes = np.concatenate([c for c, _ in grams], 1)
        targets = np.concatenate([t for _, t in grams]).astype(np.uint64)
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

    def probability(self, document: np.ndarray) -> np.ndarray:
        """Return the probability of each token but the first, float64 (length - 1,)."""
        codes, targets = _contexts(np.asarray(document), self.order)
        p = np.full(len(targets), 1.0 / self.classes)
        for k, (pairs, counts, contexts, totals, kinds) in enumerate(self.tables):
            pair = codes[k] * np.uint64(self.classes) + targets.astype(np.uint64)
            count = _look_up(pairs, counts, pair)
            total, kind = (_look_up(contexts, v, codes[k]) for v in (totals, kinds))
            seen = total > 0
            share = self.discount * kind / np.maximum(total, 1)
            own = np.maximum(count - self.discount, 0.0) / np.maximum(total, 1)
            p = np.where(seen, own + share * p, p)
        return p


def _contexts(tokens: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (hash of the last k tokens before each target, uint64 (order, n - 1); targets)."""
    tokens = tokens.astype(np.uint64)
    n = len(tokens) - 1
    codes = np.zeros((order, n), np.uint64)
    with np.errstate(over="ignore"):
        for k in range(1, order):
            back = np.zeros(n, np.uint64)
            back[k - 1 :] = tokens[: max(n - k + 1, 0)] + np.uint64(1)
            mixed = (codes[k - 1] ^ (back * np.uint64(0x9E3779B97F4A7C15))) + np.uint64(k)
            mixed ^= mixed >> np.uint64(29)
            codes[k] = mixed * np.uint64(0xBF58476D1CE4E5B9)
            codes[k] ^= codes[k] >> np.uint64(32)
    return codes, tokens[1:]


def _look_up(keys, values, queries):
    place = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[place] == queries, values[place], 0)
