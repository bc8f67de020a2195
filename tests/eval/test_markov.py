"""Byte-Markov baselines compared with hand calculations."""

import math

import numpy as np
import pytest

from eval.markov import STRENGTH, baselines, fit_markov
from jaxmodels.errors import UserError


def array(text):
    return np.frombuffer(text.encode(), np.uint8)


def rows_of(model, contexts):
    """Return p(next byte | context), (n, 256)."""
    targets = np.tile(np.arange(256), len(contexts))
    return model.probability(np.repeat(contexts, 256, 0), targets).reshape(-1, 256)


def test_unigram_by_hand():
    model = fit_markov([array("aab")], 0)
    prior = STRENGTH / 256
    p_a, p_b, p_z = ((count + prior) / (3 + STRENGTH) for count in (2, 1, 0))
    rows = rows_of(model, np.zeros((1, 0), np.int64))
    np.testing.assert_allclose(rows[0, [97, 98, 122]], [p_a, p_b, p_z], rtol=1e-12)
    expected = -(math.log2(p_a) + math.log2(p_b) + math.log2(p_z)) / 3
    assert model.bits_per_byte([array("abz")]) == pytest.approx(expected, rel=1e-12)


def test_order_one_and_two_by_hand():
    unigram = fit_markov([array("abab")], 0)
    first = fit_markov([array("abab")], 1)
    second = fit_markov([array("abab")], 2)
    p0 = {c: (2 + STRENGTH / 256) / (4 + STRENGTH) for c in "ab"}
    p_b_after_a = (2 + STRENGTH * p0["b"]) / (2 + STRENGTH)
    p_a_after_b = (1 + STRENGTH * p0["a"]) / (1 + STRENGTH)
    p_a_after_ab = (1 + STRENGTH * p_a_after_b) / (1 + STRENGTH)
    # The first byte has no context and is the unigram's, the second is the order-1 model's.
    for model, third in ((first, p_a_after_b), (second, p_a_after_ab)):
        expected = -(math.log2(p0["a"]) + math.log2(p_b_after_a) + math.log2(third)) / 3
        assert model.bits_per_byte([array("aba")]) == pytest.approx(expected, rel=1e-12)
    assert unigram.bits_per_byte([array("a")]) == pytest.approx(-math.log2(p0["a"]))


def test_counts_do_not_cross_documents():
    joined, apart = fit_markov([array("ab")], 1), fit_markov([array("a"), array("b")], 1)
    context = np.array([[97]])
    assert rows_of(joined, context)[0, 98] > rows_of(apart, context)[0, 98]
    assert apart.totals[97] == 0


@pytest.mark.parametrize("order", [0, 1, 2])
def test_every_row_sums_to_one(order):
    model = fit_markov([array("the cat sat on the mat")], order)
    seen = [array("the cat"[i : i + order]) for i in range(5)]
    unseen = np.full((1, order), 200)
    contexts = np.concatenate([np.array(seen, np.int64).reshape(5, order), unseen])
    rows = rows_of(model, contexts)
    assert (rows > 0).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-12)


def test_bits_match_the_rows_byte_by_byte():
    rng = np.random.default_rng(0)
    train, held_out = rng.integers(97, 102, 300), rng.integers(97, 102, 40)
    model = fit_markov([train], 2)
    bits = 0.0
    for i, byte in enumerate(held_out):
        part = model if i >= 2 else model.lower if i == 1 else model.lower.lower
        bits -= math.log2(rows_of(part, held_out[None, max(0, i - 2) : i])[0, byte])
    assert model.bits_per_byte([held_out]) == pytest.approx(bits / 40, rel=1e-12)


def test_more_context_is_better_on_predictable_text():
    train, held_out = [array("abcacb" * 200)], [array("abcacb" * 20)]
    result = baselines(train, held_out)
    assert list(result) == ["unigram", "order-1", "order-2"]
    assert result["unigram"] == pytest.approx(math.log2(3), abs=0.05)
    assert result["order-1"] == pytest.approx(1.0, abs=0.1)
    assert result["order-2"] < 0.4


def test_packaged_corpus_reaches_the_stated_values():
    corpus = pytest.importorskip("jaxmodels.data").load_corpus()
    recent = [document.tokens for document in corpus.train][-12:]
    values = baselines(recent, [document.tokens for document in corpus.valid])
    # A dozen speeches hold little: order 2 is above its value on the last megabyte, 2.82.
    assert values["unigram"] == pytest.approx(4.42, abs=0.03)
    assert values["order-1"] == pytest.approx(3.51, abs=0.03)
    assert 2.7 < values["order-2"] < 3.0


def test_errors():
    with pytest.raises(UserError, match="orders 0 to 2"):
        fit_markov([array("a")], 3)
    with pytest.raises(UserError, match=r"bytes 0\.\.255, got token 300"):
        fit_markov([np.array([1, 300])], 0)
    with pytest.raises(UserError, match="empty"):
        fit_markov([np.zeros(0, np.uint8)], 0)
    with pytest.raises(UserError, match="empty"):
        fit_markov([array("a")], 0).bits_per_byte([])
