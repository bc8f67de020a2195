"""Scores of answers compared with hand calculations."""

import numpy as np
import pytest

from eval.evaluators.scores import grid_scores, text_scores


def test_right_and_wrong_answers():
    scores = text_scores(["la casa roja", "el gato"], ["la casa roja", "un perro"])
    assert scores["exact"] == 0.5
    assert scores["rouge_l"] == pytest.approx(0.5)
    assert scores["length"] == 9.5 and scores["expected_length"] == 10.0


def test_a_short_right_answer_has_bleu_1():
    # Without effective order, sentences of fewer than four words would score 0.
    assert text_scores(["si"], ["si"])["bleu"] == pytest.approx(1.0)
    assert text_scores(["no"], ["si"])["bleu"] == pytest.approx(0.0, abs=1e-9)


def test_bleu_by_hand():
    # Of "a b c d e" against "a b c d f": precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty.
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    scores = text_scores(["a b c d e"], ["a b c d f"])
    assert scores["bleu"] == pytest.approx(expected, rel=1e-6)
    assert scores["corpus_bleu"] == pytest.approx(expected, rel=1e-6)
    # "a b c" against "a b d": 2/3, 1/2, and the missing trigram is smoothed to 1/2.
    assert text_scores(["a b c"], ["a b d"])["bleu"] == pytest.approx(
        (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3), rel=1e-6
    )


def test_rouge_with_non_ascii_letters():
    assert text_scores(["el niño"], ["el niño"])["rouge_l"] == 1.0
    assert text_scores(["el ni"], ["el niño"])["rouge_l"] == pytest.approx(0.5)


def test_grids():
    scores = grid_scores(["1234", "1243"], ["1234", "1234"], ["1...", "12.."])
    assert scores["exact"] == 0.5
    assert scores["cells"] == pytest.approx(6 / 8)
    assert scores["open_cells"] == pytest.approx(3 / 5)
    short = grid_scores(["12"], ["1234"], ["1..."])
    assert np.isclose(short["cells"], 0.5)
