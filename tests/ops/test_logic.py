"""Lukasiewicz logic: truth tables, and bounds that cross."""

import itertools

import numpy as np

from jaxmodels.ops import logic


def test_connectives_extend_the_truth_tables():
    """P-12: at 0 and 1 they are "and" and "or"; in between, max(0, a + b - 1) and min(1, sum)."""
    for a, b in itertools.product((0.0, 1.0), repeat=2):
        assert logic.conjunction(a, b) == min(a, b)
        assert logic.disjunction(np.array([a, b])) == max(a, b)
    np.testing.assert_allclose(logic.conjunction(0.7, 0.6), 0.3, rtol=1e-6)
    np.testing.assert_allclose(logic.disjunction(np.array([0.2, 0.1, 0.4])), 0.7, rtol=1e-6)
    assert logic.conjunction(0.4, 0.6) == 0.0 and logic.disjunction(np.array([0.8, 0.9])) == 1.0


def test_contradictions():
    np.testing.assert_allclose(logic.contradiction(0.8, 0.3), 0.5, rtol=1e-6)
    assert logic.contradiction(0.3, 0.8) == 0.0
    lower = np.random.default_rng(0).random((50, 4)).astype(np.float32)
    pairs = itertools.combinations(range(4), 2)
    want = np.max([np.maximum(lower[:, i] + lower[:, j] - 1, 0) for i, j in pairs], 0)
    np.testing.assert_allclose(logic.both_of_any_two(lower), want, rtol=1e-6)
