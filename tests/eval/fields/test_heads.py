"""Heads beside a field: each is a distribution, learns what it can, and counts as it should."""

import collections
import itertools

import jax.numpy as jnp
import numpy as np

from eval.fields.heads import knn_bits, ridge_bits, softmax_bits
from eval.fields.ngram import KneserNey, fit_mixture, mixture_nll


def linear_task(n, seed, classes=5, width=16):
    rng = np.random.default_rng(seed)
    w = np.random.default_rng(9).standard_normal((width, classes))
    x = rng.standard_normal((n, width)) / np.sqrt(width)
    y = np.argmax(3 * x @ w + 0.3 * rng.gumbel(size=(n, classes)), 1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y)


def test_heads_learn_a_linear_task():
    train, held_out = linear_task(8192, 0), linear_task(1024, 1)
    unigram = -np.log2(np.bincount(np.asarray(held_out[1]), minlength=5) / 1024)
    chance = float(unigram[np.asarray(held_out[1])].mean())

    def batches():
        return ((train[0][i : i + 256], train[1][i : i + 256]) for i in range(0, 8192, 256))

    softmax = softmax_bits(batches, held_out, 5, 32)
    knn = knn_bits(train, held_out, 5)
    ridge = ridge_bits(batches(), held_out, 5, size=256)
    for bits in (softmax, knn, ridge):
        assert {b.shape for b in bits.values()} == {(1024,)} and len(bits) > 1
        assert min(b.mean() for b in bits.values()) < chance - 0.5


def windows_of(document, length=5):
    """Return the window before each token but the first, and the token."""
    padded = np.concatenate([np.full(length, -1), document])
    return np.stack([padded[i + 1 : i + 1 + length] for i in range(len(document) - 1)]), document[
        1:
    ]


def probability(model, document):
    """Return the probability of each token but the first."""
    windows, targets = windows_of(document)
    return model.distributions(windows)[np.arange(len(targets)), targets]


def test_kneser_ney_sums_to_one_and_equals_counts_by_hand():
    text = np.array([0, 1, 2, 0, 1, 2, 0, 1, 1, 2, 0, 2, 1, 0])
    model = KneserNey(3, 3).fit(*windows_of(text))
    p = model.distributions(windows_of(text)[0])
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-6)
    p = model.distributions(np.array([[-1, -1, 0, 1, 2]]))[0]
    assert int(np.argmax(p)) == 0

    # By hand: order 1 counts the distinct bigrams that end in t, order 2 the distinct trigrams.
    grams = collections.Counter(itertools.pairwise(text))
    ends = collections.Counter(int(t) for _, t in grams)
    types = len(grams)
    one = [
        (ends[t] - 0.75 * (ends[t] > 0)) / types + 0.75 * len(ends) / types / 3 for t in range(3)
    ]
    unigram = KneserNey(2, 3).fit(*windows_of(text))
    unseen = unigram.tables[0]
    np.testing.assert_array_equal(np.sort(unseen[1]), sorted(ends.values()))
    bigram = collections.Counter(t for c, t in itertools.pairwise(text) if c == 2)
    total, kinds = sum(bigram.values()), len(bigram)
    want = [max(bigram[t] - 0.75, 0) / total + 0.75 * kinds / total * one[t] for t in range(3)]
    got = unigram.distributions(np.array([[-1, 2]]))[0]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_start_of_a_document_is_a_context_of_its_own():
    parts = [windows_of(np.array(d)) for d in ([0, 1, 2, 0, 1, 2], [0, 1, 1])]
    model = KneserNey(6, 3).fit(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    p = model.distributions(np.array([[-1, -1, -1, -1, 0], [1, 2, 2, 2, 0], [2, 2, 2, 2, 2]]))
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-6)
    assert p[0, 1] > p[1, 1] > p[2, 1] > 0


def test_kneser_ney_prefers_longer_contexts_that_it_has_seen():
    rng = np.random.default_rng(0)
    text = [0, 1, 2, 3]
    for _ in range(4000):
        rule = (text[-1] + 2 * text[-2]) % 4
        text.append(rule if rng.random() < 0.9 else int(rng.integers(4)))
    test = np.array(text[3000:])
    bits = [
        -np.log2(
            probability(KneserNey(order, 4).fit(*windows_of(np.array(text[:3000]))), test)
        ).mean()
        for order in (1, 2, 3)
    ]
    assert bits[0] > 1.9 and bits[2] < 0.9


def test_a_mixture_finds_the_power_that_was_planted_and_beats_its_parts():
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((2, 4000, 5)).astype(np.float32)
    parts -= np.log(np.exp(parts).sum(2, keepdims=True))
    truth = 0.5 * parts[0] + 1.5 * parts[1]
    targets = np.argmax(truth + rng.gumbel(size=truth.shape), 1)
    weights = fit_mixture(parts, targets)
    np.testing.assert_allclose(weights, [0.5, 1.5], atol=0.1)
    mixed = mixture_nll(parts, weights, targets).mean()
    assert all(mixed < mixture_nll([part], np.ones(1), targets).mean() - 0.05 for part in parts)
    useless = fit_mixture([parts[1], np.full_like(parts[0], np.log(0.2))], targets)
    np.testing.assert_allclose(useless[0], fit_mixture(parts[1:], targets), atol=1e-3)
