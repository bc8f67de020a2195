"""Other heads on the features of a field, at equal training examples.

    softmax   multinomial logistic regression, Adam
    knn       exact k nearest neighbours, softmax of distances, mixed with the unigrams
    ridge     random features of kernel exp(-|x - y|^2 / 2 s^2), ridge regression of one-hot targets

Each sees the training examples once, and is tried with several settings: a function returns
{setting: bits of each held-out target}, so that the setting can be chosen on one part of them.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

Batch = tuple[jax.Array, jax.Array]  # features (n, d), targets (n,)
Bits = dict[str, np.ndarray]  # setting -> (n,)
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
LOG2 = np.log(2.0)


def softmax_bits(
    batches: Callable[[], Iterable[Batch]], held_out: Batch, classes: int, steps: int
) -> Bits:
    """Return bits of multinomial regression for each learning rate."""
    return {f"{rate:g}": _softmax(batches(), held_out, classes, steps, rate) for rate in RATES}


def _softmax(batches, held_out, classes, steps, rate):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    width = held_out[0].shape[1]
    params = {"w": jnp.zeros((width, classes)), "b": jnp.zeros((classes,))}
    state, scale = optimizer.init(params), width**0.5  # entries of about 1, not of 1 / sqrt(d)

    def losses(params, x, y):
        logits = scale * (x @ params["w"]) + params["b"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    @jax.jit
    def step(params, state, x, y):
        grads = jax.grad(lambda p: losses(p, x, y).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for x, y in batches:
        params, state = step(params, state, x, y)
    return np.asarray(jax.jit(losses)(params, *held_out)) / LOG2


def knn_bits(
    train: Batch,
    held_out: Batch,
    classes: int,
    k: int = 64,
    temperatures=(0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
) -> Bits:
    """Return bits of exact nearest neighbours for each temperature.

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
        bits[f"{temperature:g}"] = -np.log2(0.9 * hit + 0.1 * unigram[targets])
    return bits


def ridge_bits(
    batches: Iterable[Batch],
    held_out: Batch,
    classes: int,
    size: int = 1024,
    widths=(1.6, 3.2),
    ridge: float = 1e-4,
) -> Bits:
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
            z, y = np.asarray(lift(x)), np.asarray(y)
            gram += z.T @ z
            order = np.argsort(y, kind="stable")  # sums by target, in one go
            found, starts = np.unique(y[order], return_index=True)
            cross[:, found] += np.add.reduceat(z[order], starts).T
        count = sum(len(y) for _, y in batches)
        solved = np.linalg.solve(gram + ridge * count * np.eye(size) / size, cross)
        p = np.maximum(np.asarray(lift(held_out[0])) @ solved, 1e-4)
        p = p[np.arange(len(p)), np.asarray(held_out[1])] / p.sum(1)
        bits[f"{s:g}"] = -np.log2(p)
    return bits
