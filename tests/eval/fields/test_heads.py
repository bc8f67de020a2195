"""Heads beside a field: each is a distribution, learns what it can, and counts as it should."""

import collections
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from eval.fields.heads import KneserNey, knn_bits, ridge_bits, softmax_bits


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
    assert len(softmax) == 4 and min(softmax.values()) < chance - 0.5
    assert min(knn.values()) < chance - 0.5 and min(ridge.values()) < chance - 0.5


def test_kneser_ney_sums_to_one_and_equals_counts_by_hand():
    text = np.array([0, 1, 2, 0, 1, 2, 0, 1, 1, 2, 0, 2, 1, 0])
    model = KneserNey(3, 3).fit([text])
    context = [1, 2]
    p = [model.probability(np.array([0, *context, t]))[-1] for t in range(3)]
    assert abs(sum(p) - 1.0) < 1e-12 and int(np.argmax(p)) == 0

    # By hand: order 1 counts the distinct bigrams that end in t, order 2 the distinct trigrams.
    grams = collections.Counter(itertools.pairwise(text))
    ends = collections.Counter(int(t) for _, t in grams)
    types = len(grams)
    one = [
        (ends[t] - 0.75 * (ends[t] > 0)) / types + 0.75 * len(ends) / types / 3 for t in range(3)
    ]
    unigram = KneserNey(2, 3).fit([text])
    unseen = unigram.tables[0]
    np.testing.assert_array_equal(np.sort(unseen[1]), sorted(ends.values()))
    bigram = collections.Counter(t for c, t in itertools.pairwise(text) if c == 2)
    total, kinds = sum(bigram.values()), len(bigram)
    want = [max(bigram[t] - 0.75, 0) / total + 0.75 * kinds / total * one[t] for t in range(3)]
    got = [unigram.probability(np.array([2, t]))[0] for t in range(3)]
    np.testing.assert_allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_documents_shorter_than_the_order_have_probabilities(length):
    model = KneserNey(6, 3).fit([np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2])])
    p = model.probability(np.array([0, 1, 2, 0])[:length])
    assert p.shape == (length - 1,) and (p > 0).all() and (p < 1).all()


def test_kneser_ney_prefers_longer_contexts_that_it_has_seen():
    rng = np.random.default_rng(0)
    text = [0, 1, 2, 3]
    for _ in range(4000):
        rule = (text[-1] + 2 * text[-2]) % 4
        text.append(rule if rng.random() < 0.9 else int(rng.integers(4)))
    test = np.array(text[3000:])
    bits = [
        -np.log2(KneserNey(order, 4).fit([np.array(text[:3000])]).probability(test)).mean()
        for order in (1, 2, 3)
    ]
    assert bits[0] > 1.9 and bits[2] < 0.9
