"""Scores of answers compared with hand calculations."""

import importlib.util

import numpy as np
import pytest

from eval.evaluators.scores import bleu_note, bleu_of, grid_scores, text_scores
from jaxmodels.data.chat.conversation import prompt_key
from jaxmodels.data.tokenizers.answers import HybridTokenizer
from jaxmodels.data.tokenizers.byte_word import WordTokenizer
from jaxmodels.errors import UserError


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


def test_diversity_is_that_of_pairs_of_words():
    scores = text_scores(["a b c", "a b d"], ["a b c", "d e f"])
    assert (scores["distinct"], scores["expected_distinct"]) == (0.75, 1.0)
    assert text_scores(["a", ""], ["b", "c"])["distinct"] == 0.0  # no pair


def test_rouge_with_non_ascii_letters():
    assert text_scores(["el niño"], ["el niño"])["rouge_l"] == 1.0
    assert text_scores(["el ni"], ["el niño"])["rouge_l"] == pytest.approx(0.5)


def test_combining_marks_are_part_of_words():
    for one, other in (
        ("\u0932\u0921\u093c\u0915\u0940", "\u0932\u0921\u093c\u0915\u093e"),  # girl, boy
        (
            "\u0643\u064e\u062a\u064e\u0628\u064e",
            "\u0643\u064f\u062a\u0650\u0628\u064e",
        ),  # Arabic: he wrote, it was
    ):
        assert text_scores([one], [other])["rouge_l"] == 0.0
        assert text_scores([f"{one} x"], [f"{other} x"])["rouge_l"] == 0.5
        assert prompt_key(one) != prompt_key(other)
        words = WordTokenizer.fit([one])
        assert words.vocab_size == 3 and words.decode(words.encode(one)) == one
        assert HybridTokenizer.fit([one], max_words=9).words == (one,)


def test_a_tokenizer_for_bleu_can_be_chosen():
    one, other = (
        "\u4e09\u52a0\u4e94\u7b49\u4e8e\u591a\u5c11\u516b",
        "\u4e09\u52a0\u4e94\u7b49\u4e8e\u591a\u5c11\u4e5d",
    )
    assert text_scores([one], [other])["corpus_bleu"] == 0.0
    for tokenizer in ("zh", "char"):
        scores = text_scores([one], [other], tokenizer)
        assert scores["corpus_bleu"] > 0.5 and scores["bleu"] > 0.5
        assert text_scores([one], [one], tokenizer)["corpus_bleu"] == pytest.approx(1.0)
        assert bleu_note([one], tokenizer) == ()
    assert "use --bleu-tokenizer=zh" in bleu_note([one], "13a")[0]
    assert bleu_note(["words"], "13a") == ()
    with pytest.raises(UserError, match="--bleu-tokenizer=13b: unknown; did you mean '13a'"):
        bleu_of("13b")
    if importlib.util.find_spec("MeCab") is None:
        with pytest.raises(
            UserError, match=r"ja-mecab: not available here .*13a, zh and char need"
        ):
            bleu_of("ja-mecab")


def test_grids():
    scores = grid_scores(["1234", "1243"], ["1234", "1234"], ["1...", "12.."])
    assert scores["exact"] == 0.5
    assert scores["cells"] == pytest.approx(6 / 8)
    assert scores["open_cells"] == pytest.approx(3 / 5)
    short = grid_scores(["12"], ["1234"], ["1..."])
    assert np.isclose(short["cells"], 0.5)
